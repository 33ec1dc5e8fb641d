"""`python -m benchmarks.peers`: Tenure beside its peers, and the ratios."""

from __future__ import annotations

import os

# Before the first import of grpc, which reads it when it is loaded: we spawn children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from benchmarks import calibration, picture, results
from benchmarks.peers.adapter import MissingError
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.comparison import Scale, compare
from benchmarks.processes import ProcessError
from benchmarks.results import Figure
from benchmarks.verification import WrongHistoryError

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
_SECONDS_MAX = 420.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives the exit code: 0, or 1 when a comparison failed. A peer that is missing is skipped."""
    asked = _parser().parse_args(arguments)
    scale = Scale(rounds=1 if asked.quick else asked.rounds, shrink=10 if asked.quick else 1)
    figures: list[Figure] = []
    told: dict[str, Any] = {}
    try:
        with asyncio.Runner(loop_factory=calibration.loop_factory()) as runner:
            runner.run(_compare_all(asked.peer or list(PEERS), scale, figures, told))
    finally:
        if figures:
            print(results.table(figures))
            _write(figures, told, asked.json)
    broken = [figure.scenario for figure in figures if figure.metric == results.COMPLETED]
    print(f"\nfigures in {asked.json}{'; failed: ' if broken else ''}{', '.join(broken)}")
    return 1 if broken else 0


async def _compare_all(
    names: Sequence[str], scale: Scale, figures: list[Figure], told: dict[str, Any]
) -> None:
    """Adds the figures of each peer as they come, so that an interrupt loses none."""
    figures.extend(await calibration.measure("before"))
    for name in names:
        peer = PEERS[name]
        begin = time.monotonic()
        try:
            version = peer.check()
            async with asyncio.timeout(_SECONDS_MAX):
                figures.extend(await compare(peer, scale))
            told[peer.name] = {"version": version, "settings": dict(peer.settings)}
        except MissingError as error:
            _say(f"{peer.name}: skipped, {error}")
            continue
        except TimeoutError:
            figures.append(results.failed(f"peer: {peer.name}"))
            _say(f"{peer.name}: not over after {_SECONDS_MAX:.0f} s")
        except grpc.aio.AioRpcError as error:
            figures.append(results.failed(f"peer: {peer.name}"))
            _say(f"{peer.name}: {error.code().name}: {error.details()}")
        except (WrongHistoryError, ProcessError) as error:
            figures.append(results.failed(f"peer: {peer.name}"))
            _say(f"{peer.name}: {error}")
        _say(f"{peer.name}: {time.monotonic() - begin:.1f} s")
    figures.extend(await calibration.measure("after"))


def _write(figures: Sequence[Figure], told: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {"peers": told, "figures": [figure.as_json() for figure in figures]}
    file.write_text(json.dumps(found, indent=1) + "\n")
    picture.write([figure for figure in figures if figure.scenario[:4] == "peer"], file.parent)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--peer", action="append", choices=list(PEERS), help="only this one; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each scenario on each side")
    parser.add_argument("--quick", action="store_true", help="one small round, to see it work")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
