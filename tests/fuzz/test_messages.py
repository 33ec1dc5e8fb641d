"""Whatever is said to any RPC gets a typed answer, and what is refused has changed nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.fuzz.messages import Call, calls
from tests.fuzz.world import STILL, World, told
from tests.wire.conftest import Install

#: How many calls are made. `make fuzz` makes other ones each time, and more.
EXAMPLES = {"sqlite": 250, "postgresql": 100}
ASKED = int(os.environ.get("TENURE_FUZZ", "0"))


@pytest.fixture
async def world(any_store: str, install: Install) -> AsyncIterator[World]:
    """Everything that can be named, on each of the databases."""
    world = World(install(*STILL, store=any_store))
    await world.furnish()
    yield world
    world.close()


@pytest.mark.timeout(max(120, ASKED))
def test_whatever_is_said_gets_a_typed_answer_and_refusals_change_nothing(world: World) -> None:
    """By everybody, to everything; the other tenant has what it had, and every log is whole."""
    kind = world.installation.store.partition(":")[0]
    settle = settings(
        max_examples=ASKED or EXAMPLES[kind],
        derandomize=not ASKED,
        database=None,
        deadline=None,
        # What fails is shown as it is: to make it smaller, it would be said again and again.
        phases=(Phase.generate,) if not ASKED else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )

    @settle
    @given(calls(world.pool))
    def look(call: Call) -> None:
        world.judge(call)

    look()
    world.end()
    print(*told(world), sep="\n")
    assert world.answers["OK"] > 0
    assert world.answers["FIELD_INVALID"] > 0
