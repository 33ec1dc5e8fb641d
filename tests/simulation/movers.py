"""People who register workflows anew, and move runs that are there to the newer versions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from tests.simulation.house import origin, workflows
from tests.simulation.operators import Operator


@dataclass(eq=False)
class Mover(Operator):
    """Somebody of a tenant. What they write anew in a workflow is its description."""

    async def live(self) -> None:
        """Registers one now and then, and moves runs in between."""
        chance = self.network.chance
        while not self.network.stopping:
            await asyncio.sleep(chance.uniform(0.0, 8.0))
            await (self._register() if chance.random() < 0.2 else self._move())

    async def _register(self) -> None:
        network = self.network
        flow = network.chance.choice(workflows(rich=True))
        newer = replace(flow, description=f"as {self.name} wants it, {self._count}")
        await self.ask(
            "workflow.register",
            lambda engine, request: engine.workflows.register(origin(self.tenant), newer, request),
            name=flow.name,
        )

    async def _move(self) -> None:
        chance = self.network.chance
        known = self.network.runs[self.tenant][-40:]
        if not known:
            return
        run_id, resume = chance.choice(known), chance.random() < 0.6
        if chance.random() < 0.5:
            # One that is under way can be moved only while it is paused.
            await self.pause(run_id)
        await self.ask(
            "run.move",
            lambda engine, request: engine.moves.move(
                origin(self.tenant), run_id, 0, resume=resume, reason="", request=request
            ),
            run_id=run_id,
        )
