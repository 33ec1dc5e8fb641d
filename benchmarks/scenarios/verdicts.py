"""What a verdict costs where each call is judged, and how fast a stranger verifies a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, median
from benchmarks.verification import WrongHistoryError
from tenure_constitution.article import platform_default
from tenure_constitution.judge import Judge
from tenure_constitution.laws import Point
from tenure_evidence.verify import verify

NAME = "verdicts"
VERDICTS = 100_000
#: Fewer than a judge remembers, so that none is forgotten meanwhile.
EVALUATIONS = 4_000
TASKS = 10_000


async def measure(plan: Plan) -> list[Figure]:
    """The judge alone, in this process; and the verifier on the bundle of a real run."""
    remembered, evaluated = [], []
    for _ in range(plan.rounds):
        judge = Judge(platform_default())
        evaluated.append(_seconds_each(judge, [_call(n) for n in range(EVALUATIONS)]) * 1e6)
        remembered.append(_seconds_each(judge, [_call(0)] * VERDICTS) * 1e6)
    return [
        median(NAME, "verdict on a call, remembered", remembered, "us"),
        median(NAME, "verdict on a call, evaluated", evaluated, "us"),
        *await _verification(plan),
    ]


def _call(number: int) -> Mapping[str, Mapping[str, Any]]:
    """The facts of a call; each number is another caller, on whom no verdict is known yet."""
    return {
        "principal": {"id": f"key-{number}", "roles": ("agent",)},
        "rpc": {"service": "Runs", "method": "StartRun", "mutation": True},
    }


def _seconds_each(judge: Judge, calls: list[Mapping[str, Mapping[str, Any]]]) -> float:
    begin = time.perf_counter()
    for facts in calls:
        verdict = judge.judge(Point.CALL, facts)
    seconds = time.perf_counter() - begin
    if verdict.denied:
        raise WrongHistoryError(f"a plain call is denied: {verdict.objections[0].sentence}")
    return seconds / len(calls)


async def _verification(plan: Plan) -> list[Figure]:
    definition = workload.fan_out(plan.count(TASKS))
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            run_id = await load.start(await load.register(definition))
            await load.ended(run_id)
            await load.verify(definition, run_id)
            begin = time.perf_counter()
            bundle = await load.export(run_id)
            export_seconds = time.perf_counter() - begin
        await house.stop()
    entries, events = [], []
    for _ in range(plan.rounds):
        begin = time.perf_counter()
        report = verify(bundle)
        seconds = time.perf_counter() - begin
        if not report.ok:
            raise WrongHistoryError(f"the bundle of a good run does not verify: {report.findings}")
        if report.events != 2 * len(definition.tasks) + 2:
            raise WrongHistoryError(f"the bundle has {report.events} events")
        entries.append(report.entries / seconds)
        events.append(report.events / seconds)
    what = f"run of {len(definition.tasks):,} tasks"
    return [
        median(NAME, f"export of a {what}", [export_seconds], "s"),
        median(NAME, "size of its bundle", [len(bundle) / (1 << 20)], "MiB"),
        median(NAME, "verification, entries", entries, "entries/s"),
        median(NAME, "verification, events", events, "events/s"),
    ]
