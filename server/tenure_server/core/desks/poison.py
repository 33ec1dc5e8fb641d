"""Runs that cost one agent after the other: counted by run, and stopped.

A task that loses its leases fails after `lifecycle.LOST_LEASES_MAX` of them; but a run of a
thousand such tasks could still take every agent down with it. So the losses of all its tasks are
counted together: those that come within one lease's time as one, since a line that is cut or a host
that is lost takes many leases at once. A run may have more of them the more of it has succeeded:
one that works for weeks on hosts that come and go loses many, and does its work.

The count lies in the run's detail under ``losses``: how many, and when the last one was counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure_server.core.ledger.lifecycle import TaskState

if TYPE_CHECKING:
    from tenure_server.core.runs.live import LiveRun

#: How many losses a run may have of which nothing has succeeded yet.
LOSSES_MAX = 20
#: For so many tasks that have succeeded, one more.
_SUCCESSES_A_LOSS = 10


def count(run: LiveRun, now_us: int, lease_us: int) -> bool:
    """Counts a lost lease. True: it changed the count, and the run's row with it."""
    losses, last_us = (run.detail or {}).get("losses", (0, None))
    if last_us is not None and now_us < last_us + lease_us:
        return False
    run.keep(losses=[losses + 1, now_us])
    return True


def problem(run: LiveRun) -> str:
    """Why a run must be stopped. Empty: it need not."""
    losses, _ = (run.detail or {}).get("losses", (0, None))
    if losses <= LOSSES_MAX + run.tallies[TaskState.SUCCEEDED] // _SUCCESSES_A_LOSS:
        return ""
    return f"its tasks lost their agents {losses} times"


def forgive(run: LiveRun) -> None:
    """Somebody lets the run go on: counts anew."""
    if run.detail is not None and "losses" in run.detail:
        run.keep(losses=[0, None])
