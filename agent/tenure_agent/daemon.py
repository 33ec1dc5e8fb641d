"""The agent process: wires the parts, tells the world that it is ready, drains before it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import orjson
import structlog

from tenure_agent import config as configuration
from tenure_agent import handlers, logs
from tenure_agent.config import AgentConfig
from tenure_agent.groups import Groups
from tenure_agent.link import Link, Replaced
from tenure_agent.mandates import Guard
from tenure_agent.references import References
from tenure_agent.runner import StopCause
from tenure_agent.spool import Spool, SpoolError
from tenure_agent.stores import StoreError, open_store
from tenure_agent.toml import ConfigError
from tenure_agent.workbench import Workbench

#: How long the last results may wait for their verdicts while the agent leaves.
SETTLE_SECONDS = 5.0
#: How long a computing thread may keep the interpreter while the loop waits. Python's own: 5 ms.
SWITCH_SECONDS = 0.001

log: structlog.stdlib.BoundLogger = structlog.get_logger("agent")


class Daemon:
    """One agent process, from its start to its last result."""

    def __init__(self, config: AgentConfig, *, ready_file: Path | None) -> None:
        """Builds every part. Raises ConfigError, SpoolError. Needs a running loop."""
        self._config = config
        self._ready_file = ready_file
        table = handlers.build(config)
        spool = Spool(config.spool)
        if spool.left or spool.torn_bytes:
            left, torn = len(spool.left), spool.torn_bytes
            log.info("spool holds results of an earlier process", results=left, torn_bytes=torn)
        # After the spool, whose lock says that the earlier process is gone.
        self._groups = Groups(config.spool)
        key = config.coordinator.public_key
        guard = None if key is None else Guard(key, agent=config.name, tenants=config.tenants)
        self._workbench = Workbench(
            table,
            spool,
            loop=asyncio.get_running_loop(),
            slots=config.slots,
            stop_seconds=config.stop_seconds,
            spool_sync=config.spool_sync,
            divided=len(config.coordinator.addresses) > 1,
            groups=self._groups,
            guard=guard,
            references=_references(config),
        )
        self._workbench.changed = self._changed
        self._link = Link(config, self._workbench, table, on_welcome=self._welcomed, guard=guard)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._change = asyncio.Event()

    def stop(self) -> None:
        """Begins to drain; a second time, stops what runs without waiting for it."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Serves until told to stop, then drains. Raises Replaced."""
        line = asyncio.create_task(self._link.run(), name="link")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({line, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not line.done():
                await self._drain(line)
            if line.done():
                line.result()
        finally:
            stop.cancel()
            line.cancel()
            await asyncio.gather(line, stop, return_exceptions=True)
            await self._end_work(StopCause.DRAINED)
            await self._workbench.close()
            self._groups.close()
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)

    async def _drain(self, line: asyncio.Task[None]) -> None:
        """Lets what runs finish, for a while, and waits for the verdicts on the last results."""
        seconds = self._config.drain_seconds
        log.info("agent drains", seconds=seconds, running=len(self._workbench.runner.running))
        self._workbench.drain()
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await self._until(lambda: self._workbench.idle, seconds, hurry, line)
            await self._end_work(StopCause.DRAINED)
            if self._link.connected:
                await self._until(lambda: self._workbench.settled, SETTLE_SECONDS, line)
        finally:
            hurry.cancel()
        log.info("agent has drained", unacknowledged=len(self._workbench.outbox))

    async def _end_work(self, cause: StopCause) -> None:
        """Stops what runs and waits until each attempt has ended or was given up."""
        self._workbench.runner.stop_all(cause)
        await self._until(lambda: self._workbench.idle, None)

    async def _until(
        self, reached: Callable[[], bool], seconds: float | None, *others: asyncio.Task[object]
    ) -> None:
        """Waits until something holds, the time is over, or another task is done."""
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        while not reached() and not any(task.done() for task in others):
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                return
            self._change.clear()
            change = asyncio.create_task(self._change.wait())
            await asyncio.wait({change, *others}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()

    def _changed(self) -> None:
        self._change.set()

    def _welcomed(self, agent_id: str, address: str) -> None:
        """Writes the ready file, once."""
        if self._ready_file is None or self._ready_file.exists():
            return
        facts = {
            "agent": self._config.name,
            "pid": os.getpid(),
            "agent_id": agent_id,
            "address": address,
        }
        scratch = self._ready_file.with_name(self._ready_file.name + ".new")
        scratch.write_bytes(orjson.dumps(facts))
        scratch.replace(self._ready_file)


def _references(config: AgentConfig) -> References:
    """What fetches and keeps large payloads. Raises ConfigError when the store cannot be opened."""
    wanted = config.payloads
    if wanted is None:
        return References(None)
    try:
        store = open_store(wanted.store)
    except StoreError as error:
        raise ConfigError(f"{config.path}: [payloads] store: {error}") from error
    return References(store, inline_max=wanted.inline_max, stored_max=wanted.stored_max)


async def serve(config: AgentConfig, *, ready_file: Path | None, exit_with_stdin: bool) -> None:
    """Runs an agent until SIGTERM, SIGINT or the end of stdin.

    Raises ConfigError, SpoolError, Replaced.
    """
    loop = asyncio.get_running_loop()
    daemon = Daemon(config, ready_file=ready_file)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    if exit_with_stdin:
        watch = threading.Thread(
            target=_watch_stdin, args=(loop, daemon.stop), name="stdin", daemon=True
        )
        watch.start()
    await daemon.run()


def _watch_stdin(loop: asyncio.AbstractEventLoop, ended: Callable[[], None]) -> None:
    """Waits for the end of stdin. A thread, since not every stdin can be polled."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended first
        loop.call_soon_threadsafe(ended)


def _run(config: AgentConfig, *, ready_file: Path | None, exit_with_stdin: bool) -> None:
    """Runs the agent on uvloop where there is one."""
    # Handlers that compute in threads must not keep the loop from renewing their leases.
    sys.setswitchinterval(SWITCH_SECONDS)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(config, ready_file=ready_file, exit_with_stdin=exit_with_stdin))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The agent's TOML file. Without it: built-in kinds only.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="A coordinator, instead of the file's. Repeatable.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="The file of the API key, instead of the file's.",
)
@click.option(
    "--public-key", help="The verifier key that leases are checked against, instead of the file's."
)
@click.option("--name", help="The agent's name, instead of the file's.")
@click.option("--slots", type=int, help="The most tasks at one time, instead of the file's.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    help="The folder of the spool, instead of the file's.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Written as JSON once a coordinator has welcomed the agent.",
)
@click.option("--exit-with-stdin", is_flag=True, help="Drain and exit when stdin ends.")
@click.option("--log-format", type=click.Choice(logs.FORMATS), default=None)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
def main(
    config_path: Path | None,
    addresses: tuple[str, ...],
    key_file: Path | None,
    public_key: str | None,
    name: str | None,
    slots: int | None,
    spool: Path | None,
    ready_file: Path | None,
    exit_with_stdin: bool,
    log_format: str | None,
    log_level: str,
) -> None:
    """Pulls tasks from a coordinator and executes them on this host."""
    logs.configure(
        log_format=log_format or ("console" if sys.stderr.isatty() else "json"), level=log_level
    )
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    overrides = configuration.Overrides(
        addresses=addresses,
        key_file=key_file,
        name=name,
        slots=slots,
        spool=spool,
        public_key=public_key,
    )
    try:
        if config_path is None and not addresses:
            raise ConfigError("--config or --address is needed")
        config = configuration.load(config_path, overrides)
        _run(config, ready_file=ready_file, exit_with_stdin=exit_with_stdin)
    except (ConfigError, SpoolError) as error:
        raise click.ClickException(str(error)) from error
    except Replaced as error:
        log.error("another process runs under this agent's name, leaving", reason=str(error))
        sys.exit(1)
