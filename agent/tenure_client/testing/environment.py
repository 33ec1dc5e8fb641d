"""One test's tenant: workflows are run in it, and time passes as the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tenure.v1 import access_pb2, payload_pb2, runs_pb2, workflows_pb2
from tenure_client import builder, duration, payload, watching, wholeness, workflow_file
from tenure_client.client import Client
from tenure_client.payload import ABSENT
from tenure_client.testing.coordinator import ClockLine, Coordinator, shared
from tenure_client.testing.fakes import FakeAgent
from tenure_client.testing.runs import Run
from tenure_client.testing.timeline import Timeline

#: What can be run: a definition, a builder, or a file.
Source = workflows_pb2.WorkflowDefinition | builder.Workflow | str | Path


class MissingHandler(LookupError):  # noqa: N818 - a word of tests
    """A workflow has kinds for which the test gave no handler."""


class Environment:
    """A tenant of its own on a coordinator whose time stands still. Use `async with`.

    Time passes while the test waits in `run`, `until` or `advance`, and only when nothing else can
    happen: no handler is at work, no task is ready that has a handler. One at a time on each
    coordinator, since its clock is one.
    """

    def __init__(
        self,
        *workflows: Source,
        handlers: Mapping[str, Any] | None = None,
        agent: str | Path | None = None,
        coordinator: Coordinator | None = None,
    ) -> None:
        """`workflows` are registered at once. `handlers` are fakes by kind: a function of
        `(ctx, input)`, of the input or of nothing; an exception to raise; or an output. `agent` is
        an agent's TOML file, for real handlers beside or beneath them.
        """
        self._workflows = workflows
        self._fakes = dict(handlers or {})
        self._agent_file = None if agent is None else Path(agent)
        self._coordinator = coordinator
        self.tenant = f"test-{uuid.uuid4().hex[:16]}"
        #: The tenant's admin: every call of the client library can be made.
        self.client: Client
        self._agent: FakeAgent
        self._timeline: Timeline
        self._operator: Client
        self._undo = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Environment:
        house = self._coordinator
        if house is None:
            house = await asyncio.to_thread(shared)
        async with contextlib.AsyncExitStack() as undo:
            self._operator = await undo.enter_async_context(
                Client(house.address, house.operator_key)
            )
            await self._operator.create_tenant(self.tenant, max_leases=1000)
            admin, worker = await asyncio.gather(
                self._key("admin", access_pb2.ROLE_TENANT_ADMIN),
                self._key("agent", access_pb2.ROLE_AGENT),
            )
            self._address = house.address
            self.client = await undo.enter_async_context(
                Client(house.address, admin, tenant=self.tenant)
            )
            clock = ClockLine(house.clock, self.tenant)
            undo.push_async_callback(clock.close)
            folder = tempfile.TemporaryDirectory(prefix=f"{self.tenant}-", dir=house.path)
            undo.callback(folder.cleanup)
            agent = FakeAgent(house.address, worker, self.tenant, Path(folder.name))
            if self._agent_file is not None:
                key_file = Path(folder.name) / "agent.key"
                key_file.touch(mode=0o600)
                key_file.write_text(worker)
                agent.teach_from(self._agent_file, key_file)
            agent.teach(self._fakes)
            self._timeline = Timeline(clock, agent.on_line)
            undo.push_async_callback(self._leave)
            self._agent = await undo.enter_async_context(agent)
            await self._timeline.settle()
            for source in self._workflows:
                await self.register(source)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._undo.aclose()

    async def _leave(self) -> None:
        """Leaves nothing behind that time would have to pass for."""
        open_states = set(runs_pb2.RunState.values()) - {0} - set(watching.ENDED_STATES)
        async for open_run in self.client.list_runs(states=sorted(open_states)):
            await self.client.operations.close(open_run.run_id, reason="the test has ended")
        async for schedule in self.client.schedules.list():
            await self.client.schedules.delete(schedule.name)

    # Time

    def now(self) -> datetime:
        """The time of the test, in UTC. It begins at the real time, in whole seconds."""
        return self._timeline.now()

    def at(self, span: duration.Span, act: Callable[[], Any]) -> None:
        """Has something done, plain or async, when so much time has passed from now on.

        It is done before what falls due at the same moment.
        """
        self._timeline.at(span, act)

    async def advance(self, span: duration.Span) -> None:
        """Lets so much time pass, and everything happen that falls due meanwhile."""
        await self._timeline.advance(span)

    async def until(
        self,
        run: Run,
        *,
        task: str | None = None,
        state: str | None = None,
        condition: Callable[[Run], bool] | None = None,
    ) -> Run:
        """Lets time pass until a run has ended, or a task of it is in a state or has ended, or a
        condition of the run holds. Time stands still again then. Raises Stuck.
        """
        return await run.until(task=task, state=state, condition=condition)

    # Workflows and runs

    def payload(self, value: Any) -> payload_pb2.Payload:
        """A JSON value as the contract has it, for what is made of its messages."""
        made = payload.encode(value)
        assert made is not None
        return made

    def teach(self, handlers: Mapping[str, Any]) -> None:
        """Takes handlers by kind, instead of those that there are of the same kinds."""
        self._agent.teach(handlers)

    async def register(self, source: Source) -> workflows_pb2.WorkflowDefinition:
        """Registers a workflow, such as one that others start as a child.

        Raises MissingHandler, and whatever refuses a file or a definition.
        """
        definition = _definition(source)
        missing = sorted(set(wholeness.kinds(definition)) - self._agent.kinds)
        if missing:
            raise MissingHandler(f"{definition.name}: no handler for {', '.join(missing)}")
        await self.client.register_workflow(definition)
        return definition

    async def start(
        self,
        source: Source,
        *,
        input: Any = ABSENT,  # noqa: A002  the contract's word
        handlers: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Run:
        """Registers a workflow and starts a run of it. Nothing happens in it until time may pass.

        Text is the path of a file.
        """
        self._agent.teach(handlers or {})
        definition = await self.register(source)
        started = await self.client.start_run(definition.name, input=input, labels=labels)
        return await self._look_at(started.run_id)

    async def run(
        self,
        source: Source,
        *,
        input: Any = ABSENT,  # noqa: A002  the contract's word
        handlers: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Run:
        """Runs a workflow to its end. Raises Stuck."""
        begun = await self.start(source, input=input, handlers=handlers, labels=labels)
        return await begun.wait()

    async def runs(self, workflow: str = "") -> list[Run]:
        """The tenant's runs, those that schedules, events and parents started too; oldest first,
        and in any order those that began at the same moment of the test.
        """
        found = self.client.list_runs(workflow=workflow, oldest_first=True)
        return [await self._look_at(each.run_id) async for each in found]

    @contextlib.asynccontextmanager
    async def person(self, name: str) -> AsyncIterator[Client]:
        """A client of somebody else, for approvals: whoever starts a run may not consent to it."""
        secret = await self._key(name, access_pb2.ROLE_SUBMITTER)
        async with Client(self._address, secret, tenant=self.tenant) as client:
            yield client

    async def approve(
        self, run: Run, task: str, *, by: str = "approver", consent: bool = True, reason: str = ""
    ) -> None:
        """Has somebody of this name decide what a task asks."""
        async with self.person(by) as client:
            await client.operations.decide(run.run_id, task, consent=consent, reason=reason)

    async def signal(self, run: Run, name: str, content: Any = ABSENT) -> None:
        """Gives a signal to a run."""
        await self.client.operations.signal(run.run_id, name, content)

    async def publish(self, name: str, key: str = "", content: Any = ABSENT) -> None:
        """Publishes an event in the tenant."""
        await self.client.operations.publish(name, key, content)

    async def _look_at(self, run_id: str) -> Run:
        return await Run(self.client, self._timeline, run_id).refresh()

    async def _key(self, name: str, role: access_pb2.Role.ValueType) -> str:
        made = await self._operator.create_key(name, roles=[role], tenant_ids=[self.tenant])
        return made.secret


def run(
    source: Source,
    *,
    input: Any = ABSENT,  # noqa: A002  the contract's word
    handlers: Mapping[str, Any] | None = None,
    children: tuple[Source, ...] = (),
    agent: str | Path | None = None,
    coordinator: Coordinator | None = None,
) -> Run:
    """Runs a workflow to its end, for tests that are not async. Raises Stuck.

    `children` are workflows that it starts, or whose runs it looks for.
    """

    async def to_its_end() -> Run:
        env = Environment(*children, handlers=handlers, agent=agent, coordinator=coordinator)
        async with env:
            return await env.run(source, input=input)

    return asyncio.run(to_its_end())


def _definition(source: Source) -> workflows_pb2.WorkflowDefinition:
    match source:
        case workflows_pb2.WorkflowDefinition():
            return source
        case builder.Workflow():
            return source.definition()
        case _:
            return workflow_file.read(Path(os.fspath(source)))
