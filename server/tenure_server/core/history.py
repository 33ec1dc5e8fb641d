"""What happened in a run: its events in the execution log, each with its item of evidence.

The format of items is `docs/evidence-format.md`. An event and its item are made together, so that
none is without the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from tenure_evidence.canonical import digest_text
from tenure_evidence.mandate import lease_item
from tenure_server.core.definition import Payload
from tenure_server.core.items import run_item, success_item, task_item
from tenure_server.core.journal import Journal
from tenure_server.core.lifecycle import EventKind
from tenure_server.core.runs import LiveRun, TaskFacts, digest_of


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
    started: dict[str, str] = {}
    if kind is EventKind.RUN_STARTED:
        started["definition"] = run.workflow_digest
        started["constitution"] = run.constitution_digest
        given = run.input_digest()
        if given is not None:
            started["input"] = "sha256:" + given.hex()
    journal.items.append(run_item(run.run_id, sequence, now_us, kind, message, started))


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
    who = key, facts.attempt, facts.term, facts.agent
    if kind is EventKind.TASK_SUCCEEDED and result is not None and output is None:
        item = success_item(run.run_id, sequence, now_us, *who, result)
    else:
        said: dict[str, str] = {}
        if code:
            said["code"] = code
        if message:
            said["text"] = digest_text(message.encode())
        if result is not None:
            said["result"] = "sha256:" + result.hex()
        if output is not None:
            said["output"] = "sha256:" + digest_of(output).hex()
        item = task_item(run.run_id, sequence, now_us, kind, *who, said)
    journal.items.append(item)


def note_lease(
    run: LiveRun,
    journal: Journal,
    now_us: int,
    index: int,
    facts: TaskFacts,
    upstream: Mapping[str, Payload],
) -> None:
    """Notes that a task was leased, and what its agent is given."""
    run.sequence = sequence = run.sequence + 1
    task = run.definition.tasks[index]
    given = run.given_digest(index, upstream, facts) if journal.keeps_evidence else None
    journal.events.append(
        (
            run.tenant_id,
            run.run_id,
            sequence,
            now_us,
            int(EventKind.TASK_LEASED),
            task.key,
            facts.attempt,
            facts.term,
            facts.agent,
            "",
            "",
        )
    )
    if given is not None:
        item = lease_item(
            run=run.run_id,
            seq=sequence,
            at=now_us,
            task=task.key,
            attempt=facts.attempt,
            term=facts.term,
            agent=facts.agent,
            definition=run.workflow_digest,
            constitution=run.constitution_digest,
            handler=task.kind,
            given=given,
        )
        journal.items.append(item)
