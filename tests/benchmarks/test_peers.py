"""The comparison with peers: what counts as done, who can be compared, what a ratio is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import adapter, services
from benchmarks.peers.adapter import MissingError, Peer
from benchmarks.peers.catalogue import PEERS
from benchmarks.scenarios.tenants import jain, served_while_all_waited

#: A peer that does its work in its own client, as told by `mistake`: nothing is installed for it.
PROGRAM = """
import sys
import harness


class Client(harness.Client):
    def submit_tasks(self, batch, count):
        for number in range(count):
            if MISTAKE != "lost" or number:
                harness.execute(batch, number, 0)
        if MISTAKE == "twice":
            harness.execute(batch, 0, 0)

    def submit_chains(self, batch, count):
        for number in range(count):
            steps = [1, 0, 2, 3] if MISTAKE == "order" else range(harness.LENGTH)
            for step in steps:
                harness.execute(batch, number, step)

    def settled(self, batch, count, steps):
        if MISTAKE == "failed":
            raise harness.WrongHistoryError("a task failed")
        return True


MISTAKE = sys.argv[1]
harness.SECONDS_MAX = 0.3
harness.drive(Client())
"""


def driven(folder: Path, mistake: str, *orders: tuple[str, int]) -> list[dict[str, Any]]:
    """What the client answers to orders."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), mistake],
        input="".join(json.dumps({"do": do, "count": count}) + "\n" for do, count in orders),
        env={"PYTHONPATH": str(adapter.PROGRAMS), "PEER_FOLDER": str(folder), **_path()},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _path() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def test_each_order_is_timed_and_checked_by_itself(tmp_path: Path) -> None:
    answers = driven(tmp_path, "none", ("tasks", 3), ("latency", 4), ("chains", 2), ("tasks", 1))
    assert [len(answer["seconds"]) for answer in answers] == [1, 4, 1, 1]


@pytest.mark.parametrize(
    ("mistake", "order", "reason"),
    [
        ("lost", ("tasks", 3), "executed 2 of 3 steps in time"),
        ("twice", ("tasks", 3), "executed step 0 of 0 after 1 steps"),
        ("order", ("chains", 1), "executed step 1 of 0 after 0 steps"),
        ("failed", ("tasks", 1), "a task failed"),
    ],
)
def test_what_was_not_done_exactly_once_and_in_order_is_no_figure(
    mistake: str, order: tuple[str, int], reason: str, tmp_path: Path
) -> None:
    [answer] = driven(tmp_path, mistake, order)
    assert "seconds" not in answer
    assert reason in answer["error"]


def test_a_peer_that_is_not_installed_is_missing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peer = Peer(
        name="Nobody",
        program="nobody_program",
        package="no-such-package-anywhere",
        service=services.folder_only,
        beside="sqlite",
        workers=1,
        tasks=1,
        chains=1,
        settings={},
    )
    monkeypatch.setattr(adapter, "PYTHON", tmp_path / "bin" / "python")
    with pytest.raises(MissingError, match="make bench-peers builds it"):
        peer.check()
    monkeypatch.setattr(adapter, "PYTHON", Path(sys.executable))
    with pytest.raises(MissingError, match="no-such-package-anywhere is not installed"):
        peer.check()


def test_without_a_redis_server_its_peers_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="no redis-server"), services.redis(tmp_path):
        pass


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_every_peer_has_a_program_a_pin_and_a_reason_for_each_setting(peer: Peer) -> None:
    assert (adapter.PROGRAMS / f"{peer.program}.py").exists()
    assert f"{peer.package}==" in (adapter.PROGRAMS.parent / "constraints.txt").read_text()
    assert peer.settings
    assert all(peer.settings.values())


def test_jains_index_is_one_for_equals_and_a_share_for_one_who_got_all() -> None:
    assert jain([5, 5, 5, 5]) == 1
    assert jain([8, 0, 0, 0]) == 0.25


def test_only_leases_count_that_were_granted_while_all_waited() -> None:
    times = {"a": [1.0, 2.0, 3.0], "b": [1.0, 4.0, 9.0], "c": [2.5, 2.7, 8.0]}
    assert served_while_all_waited(times) == [2, 1, 2]
