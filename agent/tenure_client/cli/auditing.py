"""`tenure evidence audit`: a whole log, asked for from the coordinator or read from its file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tenure.v1 import evidence_pb2
from tenure_client.cli import output, proving
from tenure_client.client import Client
from tenure_evidence import audit, keys, records
from tenure_evidence.database import Database, DatabaseInvalid
from tenure_evidence.notes import Checkpoint, Note, NoteInvalid, VerifierKey
from tenure_evidence.records import Judgement
from tenure_evidence.shown import clean

_BATCH = 100

#: Is told how far something has come.
Shown = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What came of an audit of one log or more."""

    logs: tuple[Judgement, ...]
    #: The verifier key that everything was verified with.
    key: str
    #: Whether it is the one that the caller gave, not the one that came with the log.
    key_given: bool
    #: Whether the records were compared as well.
    with_records: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(each.audit.ok for each in self.logs)


async def over_service(
    client: Client, published: Sequence[str], key: VerifierKey | None, *, json: bool
) -> Audited:
    """Audits the caller's log through the coordinator. Raises ProofError, TenureError."""
    chain = await proving.chain_from(client, key)
    kept = [each.note async for each in client.evidence.checkpoints()]
    # Last, so that it covers whatever was signed before it.
    signed = (await client.evidence.checkpoint()).checkpoint
    newest = proving.checkpoint_of(signed, chain)
    log = newest.tenant
    with progress(log or "installation", newest.size, json=json) as shown:
        rows = client.evidence.entries(with_items=True)
        loop = asyncio.get_running_loop()
        counted = _counted(_bounded(rows, newest.size, loop), shown)
        try:
            # What an audit does is work for a processor, and must not keep the line waiting.
            made = await asyncio.to_thread(
                audit.audit,
                map(_log_entry, counted),
                tenant=log,
                chain=chain,
                checkpoints=[*kept, *published, signed],
            )
        finally:
            await rows.aclose()
    found = Judgement(log=log, audit=made, events=0, events_pruned=0, payloads_pruned=0)
    return _audited([found], chain, key, with_records=False)


def over_database(
    path: Path,
    tenant: str | None,
    published: Sequence[str],
    key: VerifierKey | None,
    *,
    json: bool,
) -> Audited:
    """Audits the logs in an SQLite file, and the records that they speak of.

    Raises click.UsageError for a file that cannot be used, ProofError for keys that do not hold.
    """
    try:
        with Database(path) as database:
            root, certificates = database.keys()
            if not root and key is None:
                raise click.UsageError(f"{path}: has no signing keys; give --root-key")
            chain = proving.chain_of(root or (key.text if key else ""), certificates, key)
            logs = database.logs()
            if tenant is not None:
                if tenant not in logs:
                    raise click.UsageError(f"{path}: has no log of tenant {tenant!r}")
                logs = [tenant]
            found = []
            for log in logs:
                mine = [note for note in published if len(logs) == 1 or _is_of(note, log)]
                with progress(log or "installation", database.size(log), json=json) as shown:
                    found.append(records.judge(database, log, chain, mine, shown))
    except DatabaseInvalid as error:
        raise click.UsageError(f"{path}: {error}") from error
    except OSError as error:
        raise click.UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    homeless = [note for note in published if not any(_is_of(note, log) for log in logs)]
    if homeless and len(logs) > 1:
        raise click.UsageError("--from-file: a checkpoint is of no log in this file")
    return _audited(found, chain, key, with_records=True)


def show(audited: Audited, *, json: bool) -> int:
    """Writes what came of an audit, and gives the exit code."""
    if json:
        output.document(as_json(audited))
    else:
        for each in audited.logs:
            for line in _sentences(each, with_records=audited.with_records):
                click.echo(clean(line))
        source = "the one that was given"
        if not audited.key_given:
            source = "came with the log itself; compare it with the one you know"
        click.echo(f"key: {source}: {audited.key}")
    return 0 if audited.ok else 1


def as_json(audited: Audited) -> dict[str, Any]:
    """What came of an audit, for programs."""
    return {
        "ok": audited.ok,
        "logs": [_log_json(each) for each in audited.logs],
        "key": audited.key,
        "key_given": audited.key_given,
        "records": audited.with_records,
    }


@contextlib.contextmanager
def progress(name: str, total: int | None, *, json: bool, unit: str = "entries") -> Iterator[Shown]:
    """Shows on a terminal how far something has come, and elsewhere nothing."""
    if json or not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    counts = (MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, *counts, console=output.console(stderr=True)) as bars:
        bar = bars.add_task(clean(name), total=total)
        yield lambda done: bars.update(bar, completed=done)


def _audited(
    found: Iterable[Judgement], chain: keys.Chain, key: VerifierKey | None, *, with_records: bool
) -> Audited:
    return Audited(
        logs=tuple(found),
        key=chain.keys[0].text,
        key_given=key is not None,
        with_records=with_records,
    )


def _bounded(
    rows: AsyncIterator[evidence_pb2.EvidenceEntry], size: int, loop: asyncio.AbstractEventLoop
) -> Iterator[evidence_pb2.EvidenceEntry]:
    """Gives, in a thread, what an iterator in a loop gives, up to the size that was signed.

    Reading is evidenced too: the log grows while it is audited.
    """

    async def some() -> list[evidence_pb2.EvidenceEntry]:
        batch: list[evidence_pb2.EvidenceEntry] = []
        async for entry in rows:
            batch.append(entry)
            # The thread and the loop change places once for all of them.
            if len(batch) == _BATCH or entry.index + 1 >= size:
                break
        return batch

    last = -1
    while last + 1 < size:
        batch = asyncio.run_coroutine_threadsafe(some(), loop).result()
        if not batch:
            return
        last = batch[-1].index
        yield from (entry for entry in batch if entry.index < size)


def _counted(
    rows: Iterable[evidence_pb2.EvidenceEntry], shown: Shown
) -> Iterator[evidence_pb2.EvidenceEntry]:
    for number, entry in enumerate(rows, start=1):
        shown(number)
        yield entry


def _log_entry(row: evidence_pb2.EvidenceEntry) -> audit.LogEntry:
    return audit.LogEntry(index=row.index, entry=row.entry, items=list(row.items))


def _is_of(note: str, log: str) -> bool:
    try:
        return Checkpoint.parse(Note.parse(note).text).tenant == log
    except NoteInvalid:
        return False


def _log_json(each: Judgement) -> dict[str, Any]:
    made = each.audit
    return {
        "log": each.log,
        "ok": made.ok,
        "size": made.size,
        "root": made.root.hex(),
        "checkpoints": made.checkpoints,
        "first_bad_entry": None if made.first_bad is None else _fault_json(made.first_bad),
        "faults": [_fault_json(fault) for fault in made.faults],
        "faults_left_out": made.faults_left_out,
        "remarks": [_fault_json(remark) for remark in made.remarks],
        "events": each.events,
        "events_pruned": each.events_pruned,
        "payloads_pruned": each.payloads_pruned,
    }


def _fault_json(fault: audit.Fault) -> dict[str, Any]:
    return {
        "what": fault.what,
        "index": fault.index,
        "until": fault.until,
        "reason": fault.reason,
    }


def _sentences(each: Judgement, *, with_records: bool) -> Iterator[str]:
    made = each.audit
    name = f"the log of tenant {each.log}" if each.log else "the installation's log"
    for fault in made.faults:
        yield f"{_place(fault)}: {fault.reason}"
    if made.faults_left_out:
        yield f"and {made.faults_left_out} faults more"
    for remark in made.remarks:
        yield f"remark: {_place(remark)}: {remark.reason}"
    agreed = f"{made.size} entries, {made.checkpoints} checkpoints agree"
    if made.size and not made.checkpoints:
        agreed = f"{made.size} entries, but no checkpoint that vouches for them"
    if with_records:
        agreed += f", {each.events} events of runs agree"
    pruned = ((each.events_pruned, "events"), (each.payloads_pruned, "payloads"))
    gone = ", ".join(f"{count} {what}" for count, what in pruned if count)
    gone = f"; pruned: {gone}" if gone else ""
    if made.ok:
        yield f"good: {name}: {agreed}{gone}; root {made.root.hex()}"
        return
    first = "no single entry can be named" if made.first_bad is None else _place(made.first_bad)
    yield f"bad: {name}: first bad entry: {first} ({agreed}{gone})"


def _place(fault: audit.Fault) -> str:
    if fault.index is None:
        return fault.what
    if fault.until is not None and fault.until != fault.index:
        return f"entries {fault.index} to {fault.until}"
    return f"entry {fault.index}"
