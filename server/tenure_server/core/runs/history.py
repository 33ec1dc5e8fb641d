"""What happened in a run: its events in the execution log, each with its item of evidence.

An event and what its item says beyond it are noted together, so that none is without the other;
`items` writes the items.
"""

from __future__ import annotations

from collections.abc import Mapping

from tenure_evidence.canonical import digest_text
from tenure_evidence.digests import NOTHING_GIVEN, given_digest
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.ledger.journal import Journal
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts


def note_run(
    run: LiveRun, journal: Journal, kind: EventKind, now_us: int, message: str = ""
) -> None:
    """Notes an event of the whole run."""
    run.sequence = sequence = run.sequence + 1
    journal.events.append(
        (
            run.tenant_id,
            run.run_id,
            sequence,
            now_us,
            int(kind),
            "",
            0,
            0,
            "",
            "",
            message,
        )
    )
    if not journal.keeps_evidence:
        return
    said: dict[str, str] = {}
    if message:
        said["text"] = digest_text(message.encode())
    if kind is EventKind.RUN_STARTED:
        said["definition"] = run.workflow_digest
        said["constitution"] = run.constitution_digest
        given = run.input_digest()
        if given is not None:
            said["input"] = "sha256:" + given.hex()
    elif kind is EventKind.RUN_MOVED:
        said["definition"] = run.workflow_digest
        said["previous"] = run.earlier_versions[-1].digest
    elif kind is EventKind.RUN_SUCCEEDED and run.output is not None:
        said["output"] = "sha256:" + run.output.digest().hex()
    journal.said.append(said)


def note_task(
    run: LiveRun,
    journal: Journal,
    kind: EventKind,
    now_us: int,
    index: int,
    facts: TaskFacts,
    *,
    code: str = "",
    message: str = "",
    result: bytes | None = None,
    output: Payload | None = None,
) -> None:
    """Notes an event of one task; `result` is the digest of the report it follows from."""
    run.sequence = sequence = run.sequence + 1
    key = run.graph.keys[index]
    journal.events.append(
        (
            run.tenant_id,
            run.run_id,
            sequence,
            now_us,
            int(kind),
            key,
            facts.attempt,
            facts.term,
            facts.agent,
            code,
            message,
        )
    )
    if not journal.keeps_evidence:
        return
    if result is not None and output is None and kind is EventKind.TASK_SUCCEEDED:
        journal.said.append(result)
        return
    said: dict[str, str] = {}
    if code:
        said["code"] = code
    if message:
        said["text"] = digest_text(message.encode())
    if result is not None:
        said["result"] = "sha256:" + result.hex()
    if output is not None:
        said["output"] = "sha256:" + output.digest().hex()
    journal.said.append(said)


def note_lease(
    run: LiveRun,
    journal: Journal,
    now_us: int,
    index: int,
    facts: TaskFacts,
    own: Payload | None,
    upstream: Mapping[str, Payload],
) -> None:
    """Notes that a task was leased, and what its agent is given."""
    run.sequence = sequence = run.sequence + 1
    task, key = run.tasks[index], run.graph.keys[index]
    given = _given(run, own, upstream, facts) if journal.keeps_evidence else None
    journal.events.append(
        (
            run.tenant_id,
            run.run_id,
            sequence,
            now_us,
            int(EventKind.TASK_LEASED),
            key,
            facts.attempt,
            facts.term,
            facts.agent,
            "",
            "",
        )
    )
    if given is not None:
        journal.said.append((run.workflow_digest, run.constitution_digest, task.kind, given))


def _given(
    run: LiveRun, own: Payload | None, upstream: Mapping[str, Payload], facts: TaskFacts
) -> bytes:
    """The raw digest of everything that an agent is given with a lease."""
    left = facts.checkpoint
    if own is None and left is None and not upstream and run.input is None:
        return NOTHING_GIVEN
    outputs = []
    if upstream:
        number_of, kept = run.graph.index, run.outputs
        outputs = [(key, kept.digest(number_of[key])) for key in upstream]
    return given_digest(
        None if own is None else own.digest(),
        run.input_digest(),
        outputs,
        None if left is None else left.digest(),
    )
