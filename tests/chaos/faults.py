"""What can go wrong, each as one act that strikes, waits and heals what it broke.

A fault hurts only what the campaign started: its processes by their ids, its own lines and files.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import psycopg
from tests.chaos import clocks
from tests.chaos.database import Database
from tests.chaos.disk import Disk
from tests.chaos.proxy import Mode
from tests.chaos.scripted import ScriptedAgent
from tests.chaos.site import LEASE_SECONDS, SEAT_SECONDS, TENANTS, Site

#: A fault that finds no coordinator up again within so long has found a bug.
RESTART_SECONDS = 30.0


@dataclass(slots=True)
class Scene:
    """Everything that can be hurt."""

    site: Site
    scripted: list[ScriptedAgent]
    chance: random.Random
    #: None: the store is a SQLite file.
    database: Database | None
    #: None: the store's files lie on no disk of their own.
    disk: Disk | None


Fault = Callable[[Scene], Awaitable[None]]


async def kill_coordinator(scene: Scene) -> None:
    """kill -9, and a start at once or a little later."""
    victim = scene.chance.choice(scene.site.coordinators)
    await asyncio.to_thread(victim.kill)
    await asyncio.sleep(scene.chance.choice([0.0, 0.0, 0.5]))
    await asyncio.to_thread(victim.start)


async def kill_every_coordinator(scene: Scene) -> None:
    """kill -9 of all at one time."""
    for victim in scene.site.coordinators:
        await asyncio.to_thread(victim.kill)
    for victim in scene.site.coordinators:
        await asyncio.to_thread(victim.start)


async def sleep_coordinator(scene: Scene) -> None:
    """SIGSTOP: for a moment, past the seat, or past the leases."""
    victim = scene.chance.choice(scene.site.coordinators)
    victim.pause()
    try:
        await asyncio.sleep(scene.chance.choice([0.2, SEAT_SECONDS + 0.5, LEASE_SECONDS + 0.5]))
    finally:
        victim.go_on()


async def kill_agent(scene: Scene) -> None:
    """kill -9 of an agent's process, which comes back with its spool."""
    victim = scene.chance.choice(scene.site.agents)
    await asyncio.to_thread(victim.kill)
    await asyncio.sleep(scene.chance.choice([0.0, LEASE_SECONDS + 0.5]))
    victim.launch()


async def sleep_agent(scene: Scene) -> None:
    """SIGSTOP of an agent's process past its leases."""
    victim = scene.chance.choice(scene.site.agents)
    victim.pause()
    try:
        await asyncio.sleep(LEASE_SECONDS + 0.5)
    finally:
        victim.go_on()


async def kill_scripted_agent(scene: Scene) -> None:
    """An agent of ours dies, and another process takes its name."""
    scene.chance.choice(scene.scripted).kill()


async def cut_lines(scene: Scene) -> None:
    """Resets every line of a coordinator."""
    scene.chance.choice(scene.site.coordinators).proxy.cut()


def _line(mode: Mode, *seconds: float) -> Fault:
    async def spoil(scene: Scene) -> None:
        proxy = scene.chance.choice(scene.site.coordinators).proxy
        proxy.set(mode, scene.chance.uniform(0.01, 0.2))
        try:
            await asyncio.sleep(scene.chance.choice(seconds))
        finally:
            # What was held back arrives late, or never.
            if scene.chance.random() < 0.5:
                proxy.cut()
            proxy.set("open")

    spoil.__doc__ = f"The line is {mode}."
    spoil.__name__ = f"{mode}_line"
    return spoil


async def kill_database(scene: Scene) -> None:
    """kill -9 of PostgreSQL, all of its processes, and a start of it."""
    assert scene.database is not None
    await asyncio.to_thread(scene.database.kill)
    await asyncio.sleep(scene.chance.choice([0.0, 0.5]))
    await asyncio.to_thread(scene.database.start)


async def sleep_database(scene: Scene) -> None:
    """SIGSTOP of all of PostgreSQL, past the seats."""
    assert scene.database is not None
    scene.database.pause()
    try:
        await asyncio.sleep(scene.chance.choice([0.3, SEAT_SECONDS + 0.5]))
    finally:
        scene.database.go_on()


async def set_clock(scene: Scene) -> None:
    """The clock of a coordinator's machine is set by hours, and mostly it is killed after that."""
    victim = scene.chance.choice(scene.site.coordinators)
    # Not by a day: so long are request ids remembered.
    victim.set_clock(scene.chance.choice([0, 2, 11, -2, -11]) * int(clocks.STEP_SECONDS))
    if scene.chance.random() < 0.7:
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.start)


async def free_seat(scene: Scene) -> None:
    """A seat falls free under its holder, and whoever looks first has it: so seats get divided."""
    assert scene.database is not None
    url, tenant = scene.database.url, scene.chance.choice(list(TENANTS))

    def free() -> None:
        with psycopg.connect(url, autocommit=True, connect_timeout=2) as database:
            database.execute(
                "UPDATE seats SET holder = '', address = '', until_us = 0 WHERE tenant_id = %s",
                (tenant,),
            )

    # Another fault may hold the database down just now.
    with contextlib.suppress(psycopg.Error):
        await asyncio.to_thread(free)
    await asyncio.sleep(scene.chance.uniform(0.0, SEAT_SECONDS))


async def fill_disk(scene: Scene) -> None:
    """Not a byte is left where the store's files lie, and a coordinator may start meanwhile."""
    assert scene.disk is not None
    scene.disk.fill()
    try:
        await asyncio.sleep(scene.chance.uniform(0.3, 1.5))
    finally:
        scene.disk.free()


async def read_only_disk(scene: Scene) -> None:
    """A coordinator is killed and started on files that it cannot write: it must end by itself."""
    assert scene.disk is not None
    (victim,) = scene.site.coordinators
    await asyncio.to_thread(victim.kill)
    scene.disk.forbid_writing()
    try:
        victim.launch()
        async with asyncio.timeout(RESTART_SECONDS):
            code = await victim.ended()
        assert code == 2, f"a coordinator that cannot write ended with {code}"
    finally:
        scene.disk.allow_writing()
    await asyncio.to_thread(victim.start)


async def slow_disk(scene: Scene) -> None:
    """Every fsync takes long for a while."""
    assert scene.disk is not None
    with contextlib.ExitStack() as undo:
        scene.disk.slow(scene.chance.choice([0.02, 0.1]))
        undo.callback(scene.disk.slow, 0.0)
        await asyncio.sleep(scene.chance.uniform(0.5, 1.5))


def faults_for(scene: Scene, *, kills_only: bool = False) -> Iterator[Fault]:
    """The faults that can strike here, the likelier ones several times."""
    yield from (kill_coordinator, kill_coordinator, kill_agent, kill_scripted_agent)
    if scene.database is not None:
        yield kill_database
    if len(scene.site.coordinators) > 1:
        yield kill_every_coordinator
    if kills_only:
        return
    yield from (sleep_coordinator, sleep_coordinator, sleep_agent, cut_lines, cut_lines)
    yield set_clock
    yield from (_line("slow", 1.0), _line("hole", 0.5, LEASE_SECONDS + 0.5))
    yield from (_line("deaf", 0.5, LEASE_SECONDS + 0.5), _line("mute", 0.5, LEASE_SECONDS + 0.5))
    if scene.database is not None:
        yield from (sleep_database, free_seat, free_seat, free_seat)
    if scene.disk is not None:
        if scene.disk.bounded:
            yield from (fill_disk, read_only_disk)
        if scene.disk.can_slow:
            yield slow_disk
