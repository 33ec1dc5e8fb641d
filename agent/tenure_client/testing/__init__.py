"""Tests of workflows: a real coordinator, handlers of the test, and a clock that jumps.

    async def test_reminder_after_a_month() -> None:
        async with testing.Environment(handlers={"send": lambda ctx, input: "sent"}) as env:
            run = await env.run("reminder.yaml", input={"to": "ada"})
        assert run.output("send") == "sent"
        assert run.took == timedelta(days=30)

What decides is the coordinator that will decide in production, in a process of its own and on a
throw-away file; what it is told of the time is up to the test. `run` is the same for tests that
are not async, and the pytest fixture `tenure_environment` gives an environment to each test.

Floors, imports run down only: `environment`, `runs`, `timeline`, `fakes` and `coordinator`. They
stand above the agent as well, whose SDK executes the handlers, and are the only ones here that do.
"""

from tenure_agent.context import NonRetryable as NonRetryable
from tenure_agent.context import TaskContext as TaskContext
from tenure_client.testing.coordinator import Coordinator as Coordinator
from tenure_client.testing.environment import Environment as Environment
from tenure_client.testing.environment import MissingHandler as MissingHandler
from tenure_client.testing.environment import run as run
from tenure_client.testing.runs import Run as Run
from tenure_client.testing.timeline import Stuck as Stuck
