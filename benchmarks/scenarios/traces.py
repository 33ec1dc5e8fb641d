"""Recorded scientific workflows with slots enough: how near is a run to its critical path?"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks import verification, workload
from benchmarks.installation import installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.record import Record
from benchmarks.results import Figure, at_most, median
from tenure.v1 import workflows_pb2
from tenure_client import graph, payload, wfcommons, workflow_file

NAME = "traces"
SLOTS = 512
#: The time of the median task, which decides the time scale of a trace. The timers of event loops
#: count whole milliseconds: at 20 ms a trace of four short levels measures little but them.
MEDIAN_SECONDS = 0.04
#: A trace with a longer critical path runs once, and in a quick session not at all.
LONG_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace at its time scale."""

    name: str
    definition: workflows_pb2.WorkflowDefinition
    time_scale: float
    #: The least time that so many slots can take.
    least_seconds: float


async def measure(plan: Plan) -> list[Figure]:
    """Makespan by the coordinator's clock over max(critical path, work / slots)."""
    traces = [] if plan.traces is None else [read(f) for f in sorted(plan.traces.glob("*.json"))]
    figures: list[Figure] = []
    violations = 0
    async with installed(plan.new_store) as house:
        await house.start_agent(slots=SLOTS)
        async with house.load() as load:
            await load.ended(await load.start(await load.register(workload.fan_out(SLOTS))))
            for trace in traces:
                long = trace.least_seconds > LONG_SECONDS
                if long and plan.quick:
                    continue
                await load.register(trace.definition)
                ratios = []
                for _ in range(1 if long else plan.rounds):
                    record = await _run(load, trace)
                    violations += verification.order_violations(
                        verification.upstream_of(trace.definition), record.events
                    )
                    ratios.append(record.seconds / trace.least_seconds)
                metric = f"{trace.name}: makespan over least"
                figures.append(median(NAME, metric, ratios, "", plan.target(at_most(1.10))))
        await house.stop()
    if figures:
        figures.append(median(NAME, "order violations", [violations], "", at_most(0)))
    return figures


def read(file: Path) -> Trace:
    """Reads a trace and scales it. Raises what `workflow_file.read` does."""
    definition = workflow_file.read(file)
    seconds = wfcommons.recorded_seconds(definition)
    if seconds is None:
        raise ValueError(f"{file}: is no trace")
    scale = MEDIAN_SECONDS / statistics.median(seconds)
    upstream = graph.upstream_of([(task.key, task.depends_on) for task in definition.tasks])
    least = max(graph.longest_path(upstream, seconds), sum(seconds) / SLOTS) * scale
    name = file.stem.removesuffix("-001")
    return Trace(name=name, definition=definition, time_scale=scale, least_seconds=least)


async def _run(load: Load, trace: Trace) -> Record:
    content = payload.encode({"time_scale": trace.time_scale})
    run_id = await load.start(trace.definition.name, content)
    await load.ended(run_id)
    return await load.verify(trace.definition, run_id)
