"""`python -m tests.chaos`: one campaign, or many of kills alone until there were enough of them."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import campaign, database

#: How many kills one installation of a soak suffers before a fresh one takes its place.
_KILLS_PER_ROUND = 50
_ROUND_SECONDS = 120.0


def main() -> int:
    """Gives 0 when every promise was kept, 1 when one was broken, 3 when nothing could be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--kills", type=int, default=0, help="only kill, at most so often")
    parser.add_argument(
        "--soak", action="store_true", help="rounds of kills until there are enough"
    )
    given = parser.parse_args()
    try:
        if given.soak:
            return _soak(given.store, given.seed, given.kills or 10_000, given.seconds)
        plan = campaign.Plan(
            store=given.store, seed=given.seed, seconds=given.seconds, kills=given.kills
        )
        return 1 if _round(plan).violations else 0
    except database.Missing as missing:
        print(f"chaos: skipped: {missing}", file=sys.stderr)
        return 3


def _round(plan: campaign.Plan) -> campaign.Outcome:
    folder = Path(tempfile.mkdtemp(prefix=f"tenure-chaos-{plan.seed}-"))
    print(f"chaos: {plan.command}", flush=True)
    outcome = asyncio.run(campaign.run(plan, folder, lambda said: print(f"  {said}", flush=True)))
    print(campaign.summary(plan, outcome), flush=True)
    return outcome


def _soak(store: str, seed: int, kills: int, seconds: float) -> int:
    """Fresh installations, one after the other, each with a seed of its own."""
    deadline = time.monotonic() + seconds
    done = rounds = 0
    while done < kills and time.monotonic() < deadline:
        plan = campaign.Plan(
            store="postgres" if store == "postgres" else "sqlite",
            seed=seed + rounds,
            seconds=min(_ROUND_SECONDS, max(1.0, deadline - time.monotonic())),
            kills=min(_KILLS_PER_ROUND, kills - done),
        )
        outcome = _round(plan)
        done += outcome.kills
        rounds += 1
        print(f"soak: {done} of {kills} kills in {rounds} rounds", flush=True)
        if outcome.violations:
            print(f"soak: the first violation is of seed {plan.seed}", flush=True)
            return 1
    print(f"soak: {done} kills, every promise was kept", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
