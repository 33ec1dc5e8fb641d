"""A small log with runs in it, made by hand: what a coordinator would have written."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tenure_evidence import bundle, digests, keys, notes, tree
from tenure_evidence.canonical import canonical, checked, digest_text, hash_text
from tenure_evidence.signing import SigningKey

INSTALLATION = "6f1c64a4-1d55-4f39-9a86-b3ab2ea3ed4e"
OTHER_INSTALLATION = "00000000-1d55-4f39-9a86-b3ab2ea3ed4e"
PLATFORM = b'{"articles":[]}'
CONSTITUTION = hash_text(digests.constitution_digest(PLATFORM, b""))

#: A diamond: two tasks that wait for one, and one that waits for both.
DIAMOND = {"extract": (), "left": ("extract",), "right": ("extract",), "load": ("left", "right")}


def signing_key(number: int, installation: str = INSTALLATION) -> SigningKey:
    """The same key for the same number, always."""
    return SigningKey(notes.installation_name(installation), bytes([number]) * 32)


ROOT, NEWEST = signing_key(1), signing_key(2)
CERTIFICATES = [keys.certificate(ROOT, INSTALLATION, 2, NEWEST.verifier, 1_000)]


def kind_of(task: str) -> str:
    """The kind of a task: the two in the middle are alike."""
    return "kind.side" if task in ("left", "right") else f"kind.{task}"


def definition_of(tasks: dict[str, tuple[str, ...]]) -> bytes:
    """Canonical as the coordinator's definitions are: with null, and with floats."""
    rows = [
        {
            "key": key,
            "kind": kind_of(key),
            "depends_on": list(depends_on),
            "priority": 0,
            "attempt_timeout_us": None,
            "retry": {"multiplier": 2.0},
        }
        for key, depends_on in tasks.items()
    ]
    value = {"name": "etl", "description": "é", "max_leases": 0, "labels": {}, "tasks": rows}
    return canonical(value)


@dataclass(slots=True)
class Row:
    """One entry as it is stored."""

    entry: bytes
    items: list[bytes]


@dataclass(slots=True)
class Log:
    """The log of one tenant, and its tree."""

    tenant: str = "acme"
    installation: str = INSTALLATION
    rows: list[Row] = field(default_factory=list)
    nodes: dict[tree.Place, bytes] = field(default_factory=dict)
    frontier: tree.Frontier = field(default_factory=tree.Frontier)

    def append(self, kind: str, items: Sequence[dict[str, Any]] = (), **members: Any) -> int:
        """Writes an entry; gives its number."""
        index = self.frontier.size
        encoded = [checked(item) for item in items]
        entry: dict[str, Any] = {
            "version": 1, "log": self.tenant, "index": index, "at": 1_000_000 + 1_000 * index,
            "took": 70, "kind": kind, "principal": "coordinator", "correlation": f"c-{index}",
            "term": 3, "constitution": CONSTITUTION, "verdict": "allow", **members,
        }  # fmt: skip
        if encoded:
            root = tree.root([tree.leaf_hash(item) for item in encoded])
            entry["items"] = {"count": len(encoded), "root": root.hex()}
        data = checked(entry)
        self.rows.append(Row(data, encoded))
        for level, number, value in self.frontier.append(tree.leaf_hash(data)):
            self.nodes[level, number] = value
        return index

    def checkpoint(self, signer: SigningKey = NEWEST, size: int | None = None) -> str:
        """A signed checkpoint, also of an earlier size."""
        size = self.frontier.size if size is None else size
        root = tree.Frontier.restore(size, self.nodes).root()
        origin = notes.origin_of(self.installation, self.tenant)
        checkpoint = notes.Checkpoint(origin=origin, size=size, root=root)
        return notes.sign_note(signer, checkpoint.text)


class Run:
    """Makes the items of one run, numbered and timed."""

    def __init__(self, name: str, definition: bytes) -> None:
        self.name = name
        self.digest = digest_text(definition)
        self.seq = 0

    def item(self, kind: str, **members: Any) -> dict[str, Any]:
        """The next event."""
        self.seq += 1
        at = 1_000_000 + self.seq
        return {"run": self.name, "seq": self.seq, "at": at, "kind": kind, **members}

    def started(self) -> dict[str, Any]:
        """The first event."""
        return self.item("run.started", definition=self.digest, constitution=CONSTITUTION)

    def leased(self, *tasks: str, term: int = 1) -> dict[str, Any]:
        """A lease, or several that are alike."""
        given = digests.given_digest(None, None, [], None)
        item = self.item(
            "task.leased", attempt=1, term=term, agent="a-1", definition=self.digest,
            constitution=CONSTITUTION, handler=kind_of(tasks[0]), input=hash_text(given),
        )  # fmt: skip
        self.seq += len(tasks) - 1
        return item | ({"task": tasks[0]} if len(tasks) == 1 else {"tasks": list(tasks)})

    def ended(self, task: str, term: int, kind: str = "task.succeeded") -> dict[str, Any]:
        """A result."""
        result = hash_text(digests.success_digest(None))
        return self.item(kind, task=task, attempt=1, term=term, agent="a-1", result=result)


def diamond_log(run_name: str = "run-1", tenant: str = "acme") -> Log:
    """A run through the diamond, with a lost lease and a retry, among what others did."""
    definition = definition_of(DIAMOND)
    log = Log(tenant)
    run, other = Run(run_name, definition), Run("run-other", definition)
    log.append("workflow.register", subject={"workflow": "etl", "version": "3"})
    subject = {"workflow": "etl", "version": "3", "run": run_name}
    log.append("run.start", [run.started()], subject=subject, method="/tenure.v1.Runs/StartRun")
    log.append("run.start", [other.started()], subject={"run": "run-other"})
    log.append("lease.grant", [other.leased("extract", term=1), run.leased("extract", term=1)])
    log.append("run.cancel", verdict="deny", refusal="FORBIDDEN", subject={"run": run_name})
    log.append("time.pass", [run.item("task.lease_lost", task="extract", attempt=1, term=1)])
    log.append("lease.grant", [run.leased("extract", term=2)])
    log.append("task.report", [run.ended("extract", 2, "task.retrying")])
    log.append("lease.grant", [run.leased("extract", term=3), other.leased("extract", term=2)])
    log.append("tenant.get", verdict="warn")
    log.append(
        "task.report",
        [
            other.ended("extract", 2),
            run.ended("extract", 3),
            run.leased("left", "right"),
            other.leased("left"),
        ],
    )
    log.append("task.report", [run.ended("right", 1)])
    log.append("task.report", [run.ended("left", 1), run.leased("load", term=1)])
    log.append("task.report", [run.ended("load", 1), run.item("run.succeeded")])
    for number in range(6):
        log.append("tenant.get", verdict="deny", refusal="NO_SUCH_THING", took=number)
    return log


def parts_of(log: Log, run_name: str, size: int | None = None) -> list[bundle.EntryPart]:
    """The entries that concern a run, with their proofs."""
    size = log.frontier.size if size is None else size
    parts = []
    for index, row in enumerate(log.rows[:size]):
        mark = b'"run":"%s"' % run_name.encode()
        places = [place for place, item in enumerate(row.items) if mark in item]
        if not places and mark not in row.entry:
            continue
        leaves = [tree.leaf_hash(item) for item in row.items]
        items = [
            bundle.ItemPart(position=place, item=row.items[place], proof=proof)
            for place, proof in zip(places, tree.inclusion_paths(places, leaves), strict=True)
        ]
        proof = tree.inclusion_proof(index, size, log.nodes)
        parts.append(bundle.EntryPart(entry=row.entry, proof=proof, items=items))
    return parts


def content_of(
    log: Log, run_name: str = "run-1", *, definition: bytes | None = None, size: int | None = None
) -> bundle.Bundle:
    """What the bundle of a run holds."""
    return bundle.Bundle(
        tenant=log.tenant,
        run=run_name,
        installation=INSTALLATION,
        root_key=ROOT.verifier.text,
        certificates=CERTIFICATES,
        checkpoint=log.checkpoint(size=size),
        definition=definition or definition_of(DIAMOND),
        constitution_platform=PLATFORM,
        constitution_tenant=b"",
        entries=parts_of(log, run_name, size),
    )


def built(content: bundle.Bundle, signer: SigningKey = NEWEST) -> bytes:
    """The file."""
    return bundle.build(content, "etl@3", digest_text(content.definition), signer)


@functools.cache
def good_bundle() -> bytes:
    """The bundle that all mutations begin with."""
    return built(content_of(diamond_log()))
