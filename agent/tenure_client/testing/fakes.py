"""The agent of a test: executes what the test says, in the test's own process and loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from tenure_agent import config, functions, handlers
from tenure_agent.groups import Groups
from tenure_agent.link import Link
from tenure_agent.runner import StopCause
from tenure_agent.spool import Spool
from tenure_agent.workbench import Workbench

SLOTS = 64
_STOP_SECONDS = 2.0


def handler_of(fake: Any) -> handlers.Handler:
    """Makes a handler of what a test gives for a kind.

    A function, plain or async, of `(ctx, input)`, of the input alone, or of nothing; an exception,
    which every attempt raises; or any other value, which is the output. Plain ones run in threads,
    as they do in an agent.
    """
    if isinstance(fake, handlers.Coroutine | handlers.Threaded):
        return fake
    if isinstance(fake, BaseException):

        async def raising(_ctx: Any, _input: Any) -> Any:
            raise fake

        return handlers.Coroutine(raising)
    if not callable(fake):

        async def giving(_ctx: Any, _input: Any) -> Any:
            return fake

        return handlers.Coroutine(giving)
    call = _taking_both(fake)
    if functions.is_async(fake):
        return handlers.Coroutine(call)
    return handlers.Threaded(call)


def _taking_both(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    if _takes(function, 2):
        return function
    if _takes(function, 1):
        return lambda _ctx, value: function(value)
    return lambda _ctx, _value: function()


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def quiet_logs() -> None:
    """Sends log lines to the standard library's logging, unless somebody has seen to them.

    There a test runner takes them, and shows them with the tests that fail.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class FakeAgent:
    """An agent of one tenant. Use `async with`."""

    def __init__(self, address: str, key: str, tenant: str, folder: Path) -> None:
        coordinator = config.CoordinatorConfig(addresses=(address,), key=key)
        self._config = config.AgentConfig(
            path=folder / "agent.toml",
            coordinator=coordinator,
            name="test",
            slots=SLOTS,
            spool=folder / "spool",
            tenants=(tenant,),
        )
        self._table: dict[str, handlers.Handler] = dict(handlers.BUILTIN)
        self._groups: Groups
        self._workbench: Workbench
        self._change = asyncio.Event()
        self._link: asyncio.Task[None] | None = None
        self._told: frozenset[str] = frozenset()

    @property
    def kinds(self) -> frozenset[str]:
        """What it can execute."""
        return frozenset(self._table)

    def teach(self, fakes: Mapping[str, Any]) -> None:
        """Takes handlers, instead of those that it has of the same kinds."""
        self._table |= {kind: handler_of(fake) for kind, fake in fakes.items()}

    def teach_from(self, file: Path, key_file: Path) -> None:
        """Takes the handlers of an agent's TOML file. Raises ConfigError."""
        addresses = self._config.coordinator.addresses
        overrides = config.Overrides(
            addresses=addresses, key_file=key_file, spool=self._config.spool
        )
        self._table |= handlers.build(config.load(file, overrides))

    async def __aenter__(self) -> FakeAgent:
        quiet_logs()
        spool = Spool(self._config.spool)
        self._groups = Groups(self._config.spool)
        self._workbench = Workbench(
            self._table,
            spool,
            loop=asyncio.get_running_loop(),
            slots=SLOTS,
            stop_seconds=_STOP_SECONDS,
            spool_sync=False,
            groups=self._groups,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._workbench.changed = self._change.set
        self._workbench.runner.stop_all(StopCause.DRAINED)
        while not self._workbench.idle:
            self._change.clear()
            await self._change.wait()
        await self._hang_up()
        await self._workbench.close()
        self._groups.close()

    async def on_line(self) -> None:
        """Makes sure that the coordinator knows of all its kinds."""
        if self._link is not None and self._link.done():
            self._link.result()
        if self._link is not None and self._told == self.kinds:
            return
        await self._hang_up()
        welcomed = asyncio.Event()
        link = Link(
            self._config,
            self._workbench,
            self._table,
            on_welcome=lambda agent_id, address: welcomed.set(),
        )
        self._told = self.kinds
        self._link = asyncio.create_task(link.run(), name="link")
        await welcomed.wait()

    async def _hang_up(self) -> None:
        if self._link is not None:
            self._link.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._link
            self._link = None
