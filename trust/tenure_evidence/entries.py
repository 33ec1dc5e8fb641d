"""The entries of a bundle: each by itself, then one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenure_evidence import digests, salvage, tree
from tenure_evidence.bundle import Bundle, EntryPart, ItemPart
from tenure_evidence.canonical import NotCanonical, digest_text, hash_text, read
from tenure_evidence.items import ItemInvalid, events_of
from tenure_evidence.notes import Checkpoint
from tenure_evidence.plan import Plan
from tenure_evidence.report import Findings
from tenure_evidence.sequence import Sequence


class Entries:
    """Checks the entries of one bundle and collects what is wrong with them."""

    def __init__(self, found: Findings, bundle: Bundle, checkpoint: Checkpoint | None) -> None:
        self.found = found
        self.bundle = bundle
        self.checkpoint = checkpoint
        #: What the entries are about, although one place that says so may have been changed.
        self.tenant, self.run = _agreed(bundle, checkpoint)
        #: Hashes of the run's items, in order.
        self.leaves: list[bytes] = []
        #: How many events they say.
        self.events = 0
        #: The workflow's version, where the entry of the start tells it.
        self.version = ""

    def check(self, plan: Plan | None, later: Mapping[str, Plan]) -> Sequence:
        """Checks all of them; gives where the run's events have led to.

        `later` has what the definitions say that the run was moved to, by their digests.
        """
        parts = self.bundle.entries
        if not parts:
            self.found.whole("entries", "there are none")
        values = [self._entry(place, part) for place, part in enumerate(parts)]
        indexes = [_number(value, "index") for value in values]
        self._order(indexes)
        items = [self._items(place, parts[place], values[place]) for place in range(len(parts))]
        start = next((place for place, row in enumerate(items) if row), None)
        if start is not None and not self.found.has(start):
            plan = self._started(values[start], items[start][0], plan)
        events = Sequence(plan, later)
        for place, row in enumerate(items):
            # After a bad entry nothing can be said about what should follow.
            if self.found.has(place) or not self._follow(place, row, indexes[place], events):
                break
        return events

    def _entry(self, place: int, part: EntryPart) -> dict[str, Any]:
        """Checks an entry by itself, and gives what it says."""
        try:
            value = read(part.entry)
        except NotCanonical as error:
            index = salvage.index_in(part.entry.decode().replace('"', '\\"'))
            self.found.entry(place, index, "entry", part.broken or f"it {error}")
            return {}
        index = _number(value, "index")
        problem = part.broken or self._entry_problem(part, value, index)
        if problem:
            self.found.entry(place, index, "entry", problem)
        return value

    def _entry_problem(self, part: EntryPart, value: dict[str, Any], index: int | None) -> str:
        if value.get("version") != 1 or index is None or index < 0:
            return "it has no version or number that is known"
        if value.get("log") != self.tenant:
            return f"it is of the log {value.get('log')!r}, not {self.tenant!r}"
        checkpoint = self.checkpoint
        if checkpoint is None:
            return ""
        if index >= checkpoint.size:
            return f"it is not in the checkpoint, which has {checkpoint.size} entries"
        leaf = tree.leaf_hash(part.entry)
        if not tree.verify_inclusion(index, checkpoint.size, leaf, part.proof, checkpoint.root):
            return "it is not what the log has at this number: its proof leads to another root"
        return ""

    def _order(self, indexes: list[int | None]) -> None:
        """Finds entries that stand before one they come after.

        A changed number must not speak against the good entries around it.
        """
        indexes = [None if self.found.has(n) else index for n, index in enumerate(indexes)]
        least: int | None = None
        for place in reversed(range(len(indexes))):
            index = indexes[place]
            if index is None:
                continue
            if least is not None and index > least:
                self.found.entry(place, index, "order", f"it stands before number {least}")
            least = index if least is None else min(index, least)
        for place in range(1, len(indexes)):
            if indexes[place] is not None and indexes[place] == indexes[place - 1]:
                self.found.entry(place, indexes[place], "order", "it stands there twice")

    def _items(self, place: int, part: EntryPart, value: dict[str, Any]) -> list[Mapping[str, Any]]:
        """Checks the items of an entry, and gives the events that they say."""
        if not value or part.broken:
            return []
        index = _number(value, "index")
        if not part.items:
            # Such as a refused request to cancel it.
            subject = value.get("subject")
            if not isinstance(subject, dict) or subject.get("run") != self.run:
                reason = f"it has nothing to do with run {self.run!r}"
                self.found.entry(place, index, "entry", reason)
            elif "items" in value:
                self.found.entry(place, index, "item", "what happened by it is left out")
            return []
        match value.get("items"):
            case {"count": int(count), "root": str(root), **more} if not more:
                expected = (count, root)
            case _:
                self.found.entry(place, index, "item", "it says nothing of the items it has here")
                return []
        events: list[Mapping[str, Any]] = []
        before = -1
        for number, item in enumerate(part.items):
            said, problem = self._item(item, before, expected)
            before = item.position
            try:
                events += events_of(said)
            except ItemInvalid as error:
                problem = problem or str(error)
            if problem:
                self.found.entry(place, index, "item", f"its item {number} {problem}")
            self.leaves.append(tree.leaf_hash(item.item))
        self.events += len(events)
        return events

    def _item(
        self, part: ItemPart, before: int, expected: tuple[int, str]
    ) -> tuple[dict[str, Any], str]:
        try:
            value = read(part.item)
        except NotCanonical as error:
            return {}, str(error)
        count, root = expected
        leaf = tree.leaf_hash(part.item)
        led_to = tree.root_from_inclusion(part.position, count, leaf, part.proof)
        if led_to is None or led_to.hex() != root:
            return value, "is not what happened by it: its proof leads to another root"
        if part.position <= before:
            return value, f"stands at place {part.position}, after one at {before}"
        if value.get("run") != self.run:
            return value, f"is of run {value.get('run')!r}, not {self.run!r}"
        return value, ""

    def _started(
        self, entry: dict[str, Any], start: Mapping[str, Any], plan: Plan | None
    ) -> Plan | None:
        """Compares definition and constitution with those the run was started under.

        Gives the plan only when it is the run's: another one would find fault with good entries.
        """
        bundle = self.bundle
        if start.get("kind") != "run.started":
            return plan
        match entry.get("subject"):
            case {"version": str(version)}:
                self.version = version
        constitution = digests.constitution_digest(
            bundle.constitution_platform, bundle.constitution_tenant
        )
        if start.get("constitution") != hash_text(constitution):
            self.found.whole("constitution", "is not the one that the run was started under")
        if start.get("definition") != digest_text(bundle.definition):
            self.found.whole("definition", "is not the one that the run was started under")
            return None
        return plan

    def _follow(
        self, place: int, row: list[Mapping[str, Any]], index: int | None, events: Sequence
    ) -> bool:
        for item in row:
            problem = events.take(item)
            if problem:
                self.found.entry(place, index, "order", problem)
                return False
        return True


def _agreed(bundle: Bundle, checkpoint: Checkpoint | None) -> tuple[str, str]:
    """Tenant and run: what two of three places say, when one of them was changed or lost."""
    first = bundle.entries[0] if bundle.entries else None
    item = first.items[0].item if first and first.items else b""
    tenant = checkpoint.tenant if checkpoint else ""
    run = bundle.subjects[0][0].removeprefix("run/") if bundle.subjects else ""
    return (
        _majority(bundle.tenant, tenant, _said(first.entry if first else b"", "log")),
        _majority(bundle.run, run, _said(item, "run")),
    )


def _majority(claimed: str, second: str, third: str) -> str:
    return second if second and second == third else claimed or second or third


def _said(statement: bytes, name: str) -> str:
    try:
        value = read(statement).get(name)
    except NotCanonical:
        return ""
    return value if isinstance(value, str) else ""


def _number(value: Mapping[str, Any], name: str) -> int | None:
    number = value.get(name)
    return number if type(number) is int else None
