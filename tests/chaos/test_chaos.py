"""Short campaigns: a while of everything that can go wrong, and every promise kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.chaos import campaign, database

#: So long is everything hurt; starting, healing and judging come on top.
SECONDS = 30.0
#: TENURE_CHAOS_SEED tries another course of things.
SEED = int(os.environ.get("TENURE_CHAOS_SEED", "20250101"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_every_promise_is_kept_whatever_is_hurt(store: str, tmp_path: Path) -> None:
    plan = campaign.Plan(
        store="postgres" if store == "postgres" else "sqlite", seed=SEED, seconds=SECONDS
    )
    try:
        outcome = await campaign.run(plan, tmp_path, print)
    except database.Missing as missing:
        pytest.skip(str(missing))
    told = campaign.summary(plan, outcome)
    print(told)
    assert not outcome.violations, told
    assert outcome.struck
    assert outcome.counts["started"]
