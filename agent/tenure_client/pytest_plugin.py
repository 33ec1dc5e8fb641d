"""The pytest plugin: `tenure_environment`, known wherever the package is installed.

    async def test_release(tenure_environment) -> None:
        run = await tenure_environment.run("release.yaml", handlers={"ship": "shipped"})
        assert run.state == "SUCCEEDED"

One coordinator for the session, one tenant for each test. Tests that are not async ask for
`tenure_run`, which takes what `testing.run` takes. Heavy imports wait until a test asks: the plugin
is loaded with every pytest that runs where Tenure is installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenure_client.testing.coordinator import Coordinator
    from tenure_client.testing.environment import Environment
    from tenure_client.testing.runs import Run

async_fixture: Any = None
# Without it tests may ask for `tenure_run` only, or say `async with` themselves.
with contextlib.suppress(ImportError):
    from pytest_asyncio import fixture as async_fixture


@pytest.fixture(scope="session")
def tenure_coordinator() -> Iterator[Coordinator]:
    """The coordinator of the session, whose time stands still."""
    from tenure_client.testing.coordinator import Coordinator

    with Coordinator() as coordinator:
        yield coordinator


@pytest.fixture
def tenure_run(tenure_coordinator: Coordinator) -> Callable[..., Run]:
    """`testing.run` on the coordinator of the session, for tests that are not async."""
    from tenure_client.testing.environment import run

    return partial(run, coordinator=tenure_coordinator)


async def _environment(tenure_coordinator: Coordinator) -> AsyncIterator[Environment]:
    """A tenant of its own for the test."""
    from tenure_client.testing.environment import Environment

    async with Environment(coordinator=tenure_coordinator) as env:
        yield env


def _needs_plugin(tenure_coordinator: Any) -> None:
    """Tells what is missing."""
    pytest.fail("tenure_environment needs pytest-asyncio; tests without it take tenure_run")


if async_fixture is not None:
    tenure_environment = async_fixture(name="tenure_environment")(_environment)
else:
    tenure_environment = pytest.fixture(name="tenure_environment")(_needs_plugin)
