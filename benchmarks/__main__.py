"""`python -m benchmarks`: runs scenarios, prints their figures against the targets, keeps them."""

from __future__ import annotations

import os

# Before the first import of grpc, which reads it when it is loaded: we spawn children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from benchmarks import calibration, picture, results, stores
from benchmarks.plan import Plan
from benchmarks.processes import ProcessError
from benchmarks.results import Figure
from benchmarks.scenarios import (
    backlog,
    chains,
    coordinators,
    evidence,
    fan_in,
    fan_out,
    for_each,
    idle,
    isolation,
    latency,
    listing,
    restart,
    start,
    tenants,
    traces,
    verdicts,
)
from benchmarks.verification import WrongHistoryError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
TRACES = ROOT.parent / "shared" / "wfinstances"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What can be asked for by name."""

    measure: Callable[[Plan], Awaitable[list[Figure]]]
    #: It fails when it is not over by then: something hangs.
    seconds_max: float
    #: Takes minutes; runs only when asked for by name.
    long: bool = False


SCENARIOS = {
    fan_out.NAME: Scenario(fan_out.measure, 180),
    fan_in.NAME: Scenario(fan_in.measure, 180),
    for_each.NAME: Scenario(for_each.measure, 180),
    chains.BATCH: Scenario(chains.measure_batch, 180),
    chains.UNARY: Scenario(chains.measure_unary, 180),
    latency.NAME: Scenario(latency.measure, 180),
    start.NAME: Scenario(start.measure, 180),
    tenants.NAME: Scenario(tenants.measure, 600),
    backlog.NAME: Scenario(backlog.measure, 600),
    backlog.MILLION: Scenario(backlog.measure_million, 1800, long=True),
    restart.NAME: Scenario(restart.measure, 600),
    traces.NAME: Scenario(traces.measure, 900),
    isolation.NAME: Scenario(isolation.measure, 180),
    idle.NAME: Scenario(idle.measure, 180),
    evidence.NAME: Scenario(evidence.measure, 600),
    verdicts.NAME: Scenario(verdicts.measure, 180),
    listing.NAME: Scenario(listing.measure, 900),
    coordinators.NAME: Scenario(coordinators.measure, 600),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives the exit code: 0, or 1 when a scenario failed. A missed target is no failure."""
    asked = _parser().parse_args(arguments)
    names = asked.scenario or [name for name, it in SCENARIOS.items() if not it.long]
    figures: list[Figure] = []
    try:
        with (
            stores.stores(asked.store) as new_store,
            asyncio.Runner(loop_factory=calibration.loop_factory()) as runner,
        ):
            plan = Plan(
                store=asked.store,
                new_store=new_store,
                quick=asked.quick,
                traces=asked.traces if asked.traces.is_dir() else None,
            )
            runner.run(_measure(plan, names, figures))
    except stores.StoreError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:
        if figures:
            print(results.table(figures))
            results.write(figures, asked.json)
            picture.write(_of_scenarios(figures), asked.json.parent)
    broken = [figure.scenario for figure in figures if figure.metric == results.COMPLETED]
    missed = sum(figure.ok is False for figure in figures) - len(broken)
    failed = f"; failed: {', '.join(broken)}" if broken else ""
    print(f"\nstore {asked.store}, figures in {asked.json}; targets missed: {missed}{failed}")
    return 1 if broken else 0


async def _measure(plan: Plan, names: Sequence[str], figures: list[Figure]) -> None:
    """Adds the figures of each scenario as they come, so that an interrupt loses none."""
    figures.extend(await calibration.measure("before"))
    for name in names:
        if name == traces.NAME and plan.traces is None:
            _say(f"{name}: skipped, there is no directory of traces (--traces DIR)")
            continue
        if name == coordinators.NAME and plan.store != "postgresql":
            _say(f"{name}: skipped, a SQLite file has one (--store postgresql)")
            continue
        begin = time.monotonic()
        try:
            async with asyncio.timeout(SCENARIOS[name].seconds_max):
                found = await SCENARIOS[name].measure(plan)
        except TimeoutError:
            found = [results.failed(name)]
            _say(f"{name}: not over after {SCENARIOS[name].seconds_max:.0f} s")
        except grpc.aio.AioRpcError as error:
            found = [results.failed(name)]
            _say(f"{name}: {error.code().name}: {error.details()}")
        except (WrongHistoryError, ProcessError) as error:
            found = [results.failed(name)]
            _say(f"{name}: {error}")
        figures.extend(found)
        _say(f"{name}: {time.monotonic() - begin:.1f} s")
    figures.extend(await calibration.measure("after"))


def _of_scenarios(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.scenario in SCENARIOS]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        help="only this one; repeatable",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small round each, to see that all works"
    )
    parser.add_argument("--store", choices=stores.KINDS, default="sqlite")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures are written")
    parser.add_argument(
        "--traces", type=Path, default=TRACES, help="directory of WfCommons traces (*.json)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
