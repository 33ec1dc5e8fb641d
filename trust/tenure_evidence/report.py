"""What a verification found, in order, and the first bad entry."""

from __future__ import annotations

from dataclasses import dataclass

FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    #: entry, item, order, missing; envelope, statement, certificates, key, checkpoint, subject,
    #: definition, constitution; size, for a file that was not looked into.
    what: str
    reason: str
    #: The entry's place in the bundle, from 0; None when the whole is concerned. The place behind
    #: the last one stands for entries that are missing there.
    position: int | None = None
    #: The entry's number in its log, when it can be told.
    index: int | None = None

    @property
    def sentence(self) -> str:
        """The finding for people."""
        if self.position is None:
            return f"{self.what}: {self.reason}"
        number = "" if self.index is None else f" (number {self.index} of the log)"
        return f"entry {self.position} of the bundle{number}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a verification."""

    #: Entries first, by place; then the whole.
    findings: tuple[Finding, ...]
    #: How many more findings there are than are kept.
    findings_left_out: int = 0
    #: Whether it could be verified at all: False for a file too large or a key that is none.
    usable: bool = True
    #: The key that was trusted, and whether it was taken from the bundle itself.
    key: str = ""
    key_from_bundle: bool = False
    tenant: str = ""
    run: str = ""
    #: `run.succeeded`, `run.failed`, `run.cancelled`; empty while the run is open.
    end: str = ""
    entries: int = 0
    events: int = 0
    #: Of the checkpoint.
    log_size: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def first_bad(self) -> Finding | None:
        """The finding about the first bad entry, when one can be named."""
        return next((finding for finding in self.findings if finding.position is not None), None)


class Findings:
    """Collects what is wrong while a verification goes on."""

    def __init__(self) -> None:
        self._entries: dict[int, list[Finding]] = {}
        self._whole: list[Finding] = []

    def entry(self, place: int, index: int | None, what: str, reason: str) -> None:
        """Notes a fault of one entry."""
        finding = Finding(what=what, reason=reason, position=place, index=index)
        self._entries.setdefault(place, []).append(finding)

    def whole(self, what: str, reason: str) -> None:
        """Notes a fault of the whole."""
        self._whole.append(Finding(what=what, reason=reason))

    @property
    def of_entries(self) -> bool:
        """Whether any entry is bad."""
        return bool(self._entries)

    def has(self, place: int) -> bool:
        """Whether something is wrong with this entry."""
        return place in self._entries

    def in_order(self) -> list[Finding]:
        """All of them: entries first, by place, then the whole."""
        by_place = [finding for place in sorted(self._entries) for finding in self._entries[place]]
        return by_place + self._whole
