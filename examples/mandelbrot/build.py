"""The same workflow as workflow.yaml, written in Python; and how a program runs it.

TENURE_ADDRESS=127.0.0.1:7233 TENURE_KEY=tnr_... python examples/mandelbrot/build.py
"""

from __future__ import annotations

import asyncio
import os

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.builder import Retry, Workflow
from tenure_client.client import Client

STRIPS = 8
HEIGHT = 320


def definition() -> workflows_pb2.WorkflowDefinition:
    """Declares the strips in a loop: the digest is that of the file, which spells them out."""
    with Workflow(
        "mandelbrot",
        description="Draws a picture in strips; a strip that fails goes on from its checkpoint.",
        labels={"owner": "examples", "purpose": "tour"},
    ) as workflow:
        strips = [
            workflow.task(
                f"strip-{number}",
                kind="draw-strip",
                input={"strip": number, "rows": HEIGHT // STRIPS},
                retry=Retry(max_attempts=3, initial_delay="200ms"),
                timeout="1m",
            )
            for number in range(STRIPS)
        ]
        workflow.task("picture", kind="assemble", after=strips)
        workflow.task("facts", kind="measure", after=strips)
    return workflow.definition()


async def main() -> None:
    """Registers the workflow, starts a run, waits for its end and shows what came out."""
    async with Client(os.environ["TENURE_ADDRESS"], os.environ["TENURE_KEY"]) as client:
        await client.register_workflow(definition())
        started = await client.start_run("mandelbrot")
        run = await client.wait_run(started.run_id)
        print(runs_pb2.RunState.Name(run.state))
        for key in ("picture", "facts"):
            task = await client.get_task(started.run_id, key)
            print(key, task.output.data.decode())


if __name__ == "__main__":
    asyncio.run(main())
