"""Compares the constitutions that are kept with the entries by which they came into force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tenure_evidence.canonical import digest_text

#: By these acts a tenant's constitution, or the platform's, was written down.
KINDS = frozenset({"constitution.set", "constitution.platform"})


@dataclass(frozen=True, slots=True)
class Enactment:
    """What an entry says of a constitution."""

    index: int
    digest: str
    #: Empty for the platform's, whose entries name none.
    version: str


def enactment_of(index: int, entry: Mapping[str, Any]) -> Enactment | None:
    """What an entry put into force; None when it put nothing, or was refused."""
    match entry:
        case {"kind": str(kind), "subject": {"constitution": str(digest), **more}}:
            if kind in KINDS and "refusal" not in entry:
                return Enactment(index, digest, str(more.get("version", "")))
    return None


def problems(
    rows: Iterable[tuple[int, str, bytes]], enacted: Iterable[Enactment]
) -> Iterator[tuple[int | None, str]]:
    """What is wrong with the rows (version, digest, canonical form): the entry, and a sentence."""
    known: dict[tuple[str, str], int] = {}
    of_version: dict[str, int] = {}
    for each in enacted:
        known.setdefault((each.digest, each.version), each.index)
        if each.version:
            of_version.setdefault(each.version, each.index)
    missing = dict(known)
    for version, digest, canonical in rows:
        keys = ((digest, str(version)), (digest, ""))
        index = next((known[key] for key in keys if key in known), None)
        for key in keys:
            missing.pop(key, None)
        named = of_version.get(str(version)) if index is None else index
        if index is None:
            yield named, f"version {version} of the constitution was put into force by no entry"
        elif digest_text(canonical) != digest:
            yield named, f"version {version} of the constitution is not the one put into force"
    for (digest, of), index in missing.items():
        which = f"version {of} of the constitution" if of else "the constitution"
        yield index, f"{which} with digest {digest} is missing"
