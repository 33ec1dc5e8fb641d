"""The items of evidence: canonical, whichever way they were made."""

from __future__ import annotations

from tenure_evidence.canonical import hash_text, read
from tenure_evidence.mandate import lease_item
from tenure_server.core.items import run_item, success_item, task_item
from tenure_server.core.lifecycle import EventKind

RESULT = bytes(range(32))
WHO = ("task-1", 2, 3, 'agent \u00e9 "one"')


def test_a_success_is_written_the_same_the_quick_way_and_the_long_way() -> None:
    said = {"result": hash_text(RESULT)}
    long = task_item("run-1", 7, 1_000, EventKind.TASK_SUCCEEDED, *WHO, said)
    assert success_item("run-1", 7, 1_000, *WHO, RESULT) == long


def test_every_item_is_canonical() -> None:
    """Read by the verifier's own reader, which takes no other spelling."""
    lease = lease_item(
        run="run-1",
        seq=1,
        at=2,
        task="task-1",
        attempt=1,
        term=1,
        agent=WHO[3],
        definition="sha256:00",
        constitution="",
        handler="kind",
        given=RESULT,
    )
    assert read(lease)["input"] == hash_text(RESULT)
    assert read(success_item("run-1", 7, 1_000, *WHO, RESULT))["agent"] == WHO[3]
    failed = task_item(
        "r", 1, 2, EventKind.TASK_FAILED, *WHO, {"text": "sha256:1", "code": "E", "result": "x"}
    )
    assert (read(failed)["kind"], read(failed)["code"]) == ("task.failed", "E")
    started = run_item("r", 1, 2, EventKind.RUN_STARTED, "why", {"definition": "sha256:2"})
    assert (read(started)["kind"], read(started)["definition"]) == ("run.started", "sha256:2")
