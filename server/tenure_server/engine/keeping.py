"""What goes on beside the turns of the floor: seats are renewed and taken, old things forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import structlog

from tenure_server.engine import pruning
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.seating import Seating
from tenure_server.engine.settings import Settings
from tenure_server.store.errors import StoreFailed

UNTRUSTED = "the seats could not be renewed in time; nothing was changed"
#: How often what is no longer needed is forgotten, and how many rows at once.
CLEAR_SECONDS = 60.0
#: How long each step of stopping may take that waits for the store.
STOP_SECONDS = 5.0
CLEAR_ROWS = 500

log = structlog.get_logger()


class Kept(pruning.Kept, Protocol):
    """What is kept: the floor, as far as this needs it."""

    serving: bool
    dispatch: Dispatch
    seating: Seating
    pruning: pruning.Pruning

    def fail(self, error: BaseException) -> None:
        """Throws memory away and reads it back."""

    def lose_seat(self, tenant_id: str) -> None:
        """Lets go of a tenant."""

    async def take_seats(self) -> None:
        """Takes every free seat and opens its desk."""


async def renew(floor: Kept, settings: Settings) -> None:
    """Renews the seats, whatever else is going on."""
    turn_seconds = settings.seat_us / 3e6
    while True:
        await asyncio.sleep(turn_seconds)
        check_trust(floor)
        try:
            async with asyncio.timeout(turn_seconds):
                lost = await floor.seating.renew(floor.desks)
            for tenant_id in lost:
                floor.lose_seat(tenant_id)
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            log.warning("the seats could not be renewed", error=str(error) or "it took long")
        check_trust(floor)


async def keep(floor: Kept, settings: Settings) -> None:
    """Takes the seats that fall free and opens desks left closed; now and then, clears out."""
    turn_seconds = settings.seat_us / 3e6 if floor.seating.shared else CLEAR_SECONDS
    waited = 0.0
    while True:
        await asyncio.sleep(turn_seconds)
        waited += turn_seconds
        if not floor.serving:
            continue
        try:
            await floor.take_seats()
            if waited >= CLEAR_SECONDS:
                waited = 0.0
                await _clear_out(floor, settings)
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            log.warning("the seats could not be kept", error=str(error))


def check_trust(floor: Kept) -> None:
    """Throws memory away when the seats may be another coordinator's by now."""
    if floor.desks and not floor.seating.trusted:
        floor.fail(StoreFailed(UNTRUSTED))


async def _clear_out(floor: Kept, settings: Settings) -> None:
    now_us = floor.now_us()
    floor.dispatch.forget_left(now_us - settings.agent_memory_us)
    before_us = now_us - settings.answer_memory_us
    while await floor.cold.act({}, lambda acts: acts.forget_answers(before_us, CLEAR_ROWS)):
        log.debug("forgot old answers")
    await floor.pruning.round(floor)


async def step(work: Awaitable[None], name: str) -> None:
    """A step of stopping. Whatever becomes of it, the next one follows."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await work
    except TimeoutError:
        log.warning("the store did not answer in time, stopping without", step=name)
    except Exception as error:  # noqa: BLE001 - the process ends either way
        log.warning("the store could not, stopping without", step=name, reason=str(error))
