"""Handlers of the journey. What partners know lies in one file of the run's folder, a line an act.

An act is written down once, whatever is repeated: what it is known by is made of run and task.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tenure_agent import TaskContext

#: What the card allows, unless the run's input says otherwise.
BUDGET = 400


class CardRefused(Exception):  # noqa: N818 - its name is the failure code
    """The card does not allow so much; asking again is of no use."""


def book(ctx: TaskContext, given: dict[str, Any]) -> dict[str, Any]:
    """Books something."""
    booking = f"{given['what']}-{ctx.run_id[-6:]}"
    _note(ctx, f"booked {booking} for {given['price']}")
    return {"booking": booking, "price": given["price"]}


def send_letter(ctx: TaskContext, _nothing: None) -> None:
    """Tells the customer what is booked until now."""
    _note(ctx, "sent a letter")


def charge(ctx: TaskContext, given: dict[str, Any]) -> dict[str, Any]:
    """Takes the money, if the card allows it."""
    budget = (ctx.run_input or {}).get("budget", BUDGET)
    if given["price"] > budget:
        raise CardRefused(f"{given['price']} is more than {budget}")
    _note(ctx, f"paid {given['price']}")
    return {"paid": given["price"]}


def cancel_booking(ctx: TaskContext, given: dict[str, Any]) -> None:
    """Gives a booking back."""
    if ctx.task_key == "train~undo" and ctx.attempt == 1:
        raise ConnectionError("the partner does not answer")
    _note(ctx, f"gave back {given['booking']}")


def tell_customer(ctx: TaskContext, given: dict[str, Any]) -> None:
    """Says what went wrong."""
    _note(ctx, f"told {given['to']} that it failed ({', '.join(given['why'])})")


def _note(ctx: TaskContext, line: str) -> None:
    given = ctx.run_input or {}
    folder = Path(given.get("folder") or Path(tempfile.gettempdir()) / f"journey-{ctx.run_id}")
    folder.mkdir(parents=True, exist_ok=True)
    acts = folder / "acts.txt"
    known = acts.read_text(encoding="utf-8").splitlines() if acts.exists() else []
    if line not in known:
        with acts.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
