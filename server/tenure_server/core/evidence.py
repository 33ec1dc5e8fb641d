"""Acts and what is kept of them: one entry in the log of each tenant that an act concerns.

    Act      what was asked or done, by whom, and what the constitution said
    Draft    an act in one tenant's log, with the events that it caused there; the store numbers it
             in the transaction of the act, and from then on it has an entry

The format is `docs/evidence-format.md`. Nothing here knows a clock or a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenure_evidence.canonical import canonical

#: Who acts when nobody has called: leases that expire, retries that fall due.
COORDINATOR = "coordinator"
#: The log of the installation itself.
INSTALLATION = ""
VERSION = 1


class Objection(Protocol):
    """An article that does not hold; see `tenure_constitution.judge`."""

    @property
    def article(self) -> str:
        """The article's id."""

    @property
    def denies(self) -> bool:
        """Whether the act does not happen."""

    @property
    def message(self) -> str:
        """The article's own words."""

    @property
    def sentence(self) -> str:
        """What people are told, the same everywhere."""

    def members(self) -> dict[str, str]:
        """What an entry holds of it: id, law, perspective, effect."""


@dataclass(slots=True, kw_only=True, eq=False)
class Act:
    """Something that was asked for or that the coordinator does by itself. Filled as it goes on."""

    kind: str
    principal: str = COORDINATOR
    roles: tuple[str, ...] = ()
    method: str = ""
    correlation_id: str = ""
    #: Digest of the request's bytes.
    request: str = ""
    #: When it came.
    begin_us: int = 0
    #: What it names, in words.
    subject: dict[str, str] = field(default_factory=dict)
    #: Digest of the definition that it registers.
    definition: str = ""
    #: Why it was refused: a reason of the contract.
    refusal: str = ""
    #: Articles that objected, each with the tenant under whose constitution. Empty: the platform's,
    #: asked for no tenant.
    objections: list[tuple[str, Objection]] = field(default_factory=list)
    #: What the articles were asked about, as far as it is not in the records: for later trials.
    #: By root, and in `points` where it was judged; see `engine.court`.
    facts: dict[str, Any] | None = None
    #: Whether it is part of a transaction already, so that nobody else has to write it down.
    taken: bool = False

    def again(self, kind: str = "", *, objected: bool = False) -> Act:
        """Another act of the same caller under the same call.

        On a stream the call's own act is written over by each message, so what is written down is
        such a copy. With `objected`, what stands against the present message stands against it too.
        """
        return Act(
            objections=list(self.objections) if objected else [],
            facts=self.facts if objected else None,
            kind=kind or self.kind,
            principal=self.principal,
            roles=self.roles,
            method=self.method,
            correlation_id=self.correlation_id,
            request=self.request,
            begin_us=self.begin_us,
        )

    def keep(self, **facts: Any) -> None:
        """Keeps what it was judged by, a table a root of facts."""
        self.facts = {**(self.facts or {"points": []}), **facts}

    def object(self, tenant_id: str, objections: Iterable[Objection]) -> None:
        """Notes what a tenant's constitution has against it; each article once."""
        known = {(of, one.article) for of, one in self.objections}
        for one in objections:
            if (tenant_id, one.article) not in known:
                known.add((tenant_id, one.article))
                self.objections.append((tenant_id, one))

    def objections_in(self, tenant_id: str) -> list[Objection]:
        """What objected, as one tenant may know it: nothing of another's articles."""
        return [one for of, one in self.objections if of in ("", tenant_id)]

    def verdict_in(self, tenant_id: str) -> str:
        """What the constitution said of it there: allow, warn or deny."""
        if not self.objections:
            return "allow"
        found = self.objections_in(tenant_id)
        if any(one.denies for one in found):
            return "deny"
        return "warn" if found else "allow"


@dataclass(slots=True, eq=False)
class Draft:
    """An act in one log, and what its entry is once the store has written it."""

    act: Act
    tenant_id: str
    at_us: int
    #: The constitution in force there.
    constitution: str = ""
    #: Its events, by their numbers in the journal.
    events: Sequence[int] = ()
    #: Whether agents want it signed: it grants leases.
    mandate: bool = False
    #: The entry's number, from its commit on.
    index: int = -1
    entry: bytes = b""
    #: Of its items, in order, and the tasks that each is about; an empty key stands for the run.
    leaf_hashes: Sequence[bytes] = ()
    item_tasks: Sequence[Sequence[str]] = ()
    #: Of the entry, and the hash of the key that made it. Empty: nobody signs.
    signature: bytes = b""
    key_hash: bytes = b""

    @property
    def decision_id(self) -> str:
        """Under which the evidence lies."""
        return f"{self.tenant_id or 'installation'}/{self.index}"


def entry_bytes(draft: Draft, *, index: int, term: int, count: int, root: str) -> bytes:
    """The canonical bytes of an entry. `root` is the hexadecimal root over its `count` items."""
    act = draft.act
    entry: dict[str, Any] = {
        "version": VERSION,
        "log": draft.tenant_id,
        "index": index,
        "at": draft.at_us,
        "kind": act.kind,
        "principal": act.principal,
        "correlation": act.correlation_id,
        "term": term,
        "verdict": act.verdict_in(draft.tenant_id),
    }
    if act.begin_us:
        entry["took"] = max(0, draft.at_us - act.begin_us)
    if act.method:
        entry["method"] = act.method
    if act.roles:
        entry["roles"] = list(act.roles)
    if draft.constitution:
        entry["constitution"] = draft.constitution
    if act.definition:
        entry["definition"] = act.definition
    if act.subject:
        entry["subject"] = act.subject
    if act.request:
        entry["request"] = act.request
    if act.objections and (found := act.objections_in(draft.tenant_id)):
        entry["articles"] = [one.members() for one in found]
    if act.refusal:
        entry["refusal"] = act.refusal
    if count:
        entry["items"] = {"count": count, "root": root}
    return canonical(entry)
