"""A list of the command line's own: its run, its tasks, its proof, and its record on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.wire.test_dev_run import tenure

VERIFIER = Path(__file__).parents[2] / "examples" / "verify-bundle" / "verify.mjs"

WORKFLOW = """
name: squares
tasks:
  - {key: list, kind: tenure.echo, input: [3, 1, 2]}
  - key: square
    kind: tenure.echo
    depends_on: [list]
    for_each: {items: tasks.list.output, parallelism: 2}
    bind: {value: item * item, place: index}
  - {key: never, kind: tenure.noop, depends_on: [list], when: size(tasks.list.output) > 5}
  - key: sum
    kind: tenure.echo
    depends_on: [square, never]
    trigger: none_failed
    bind: {first: "tasks.square.output[0].value", count: size(tasks.square.output)}
output: {squares: "tasks.square.output.map(one, one.value)", sum: tasks.sum.output}
"""


def test_a_run_with_a_list_is_executed_proven_and_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "squares.yaml").write_text(WORKFLOW)
    done = tenure(
        "dev", "run", "squares.yaml", "--json", "--data", "data", "--bundle", "b", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["evidence"] == "verified"
    assert report["tasks"] == 7
    verified = tenure("evidence", "verify", "b", folder=tmp_path)
    assert verified.returncode == 0, verified.stdout
    store = f"sqlite:///{tmp_path}/data/tenure.db"
    key = f"{tmp_path}/data/tenure.db.signing-key.json"
    audit = subprocess.run(
        [sys.executable, "-m", "tenure_server", "audit", "--store", store, "--signing-key", key],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (audit.returncode, audit.stdout) == (0, "everything is as it was written\n")
    offline = tenure("evidence", "audit", "--database", "data/tenure.db", folder=tmp_path)
    assert offline.returncode == 0, offline.stdout + offline.stderr
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    other = subprocess.run(
        [node, str(VERIFIER), str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert json.loads(other.stdout)["ok"], other.stdout
