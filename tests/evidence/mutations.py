"""Ways to change a bundle, each with the place of the entry that must be named."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.evidence import synthetic

from tenure_evidence import bundle, keys
from tenure_evidence.canonical import canonical, checked, read

#: A statement as JSON.
Statement = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A changed statement."""

    name: str
    statement: Statement
    #: Any of these may be named; None stands for no entry.
    expected: frozenset[int | None]
    #: Whether the signature over the whole is the only thing that can tell.
    envelope_only: bool = False


def statement() -> Statement:
    """The good statement, to be changed."""
    return read(bundle.open_envelope(synthetic.good_bundle()).payload)


def entries_of(value: Statement) -> list[Any]:
    entries: list[Any] = value["predicate"]["entries"]
    return entries


def under_old_signature(value: Statement) -> bytes:
    """What somebody without a key can make: another payload under the same signature."""
    envelope = read(synthetic.good_bundle())
    payload = canonical(value)
    changed = read(bundle.sealed(payload, synthetic.NEWEST))
    changed["signatures"] = envelope["signatures"]
    return canonical(changed)


def all_mutations() -> Iterator[Mutation]:
    """Every kind of change at every place."""
    for family in (
        _characters, _members, _proofs, _entries_moved, _entries_foreign, _items_changed,
        _items_moved, _whole,
    ):  # fmt: skip
        yield from family()


def _at(name: str, value: Statement, *places: int | None, envelope_only: bool = False) -> Mutation:
    return Mutation(
        name=name, statement=value, expected=frozenset(places), envelope_only=envelope_only
    )


def _flipped(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text))
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def _edited(text: str, **members: Any) -> str:
    value = {**read(text.encode()), **members}
    return checked({name: member for name, member in value.items() if member != ""}).decode()


def _characters() -> Iterator[Mutation]:
    chance = random.Random(6962)
    for place in range(len(entries_of(statement()))):
        for _ in range(4):
            value = statement()
            part = entries_of(value)[place]
            part["entry"] = _flipped(part["entry"], chance)
            yield _at(f"character of entry {place}", value, place)
        for number in range(len(entries_of(statement())[place]["items"])):
            value = statement()
            item = entries_of(value)[place]["items"][number]
            item["item"] = _flipped(item["item"], chance)
            yield _at(f"character of item {number} of entry {place}", value, place)


def _members() -> Iterator[Mutation]:
    changes: list[dict[str, Any]] = [
        {"verdict": "warn"}, {"kind": "time.stand"}, {"at": 1}, {"took": 0}, {"term": 99},
        {"principal": "nobody"}, {"index": 0}, {"index": 999}, {"log": "beta"}, {"verdict": ""},
        {"extra": "member"}, {"items": ""}, {"items": {"count": 1, "root": "0" * 64}},
        {"version": 2},
    ]  # fmt: skip
    for place in range(len(entries_of(statement()))):
        for change in changes:
            value = statement()
            part = entries_of(value)[place]
            before = part["entry"]
            part["entry"] = _edited(before, **change)
            if part["entry"] != before:
                yield _at(f"entry {place} with {change}", value, place)


def _proofs() -> Iterator[Mutation]:
    for place in range(len(entries_of(statement()))):
        for name in ("changed", "shortened", "lengthened", "emptied", "no hashes", "numbers"):
            value = statement()
            part = entries_of(value)[place]
            part["proof"] = _other_proof(name, part["proof"])
            yield _at(f"proof of entry {place} {name}", value, place)
        for number, good in enumerate(entries_of(statement())[place]["items"]):
            for name in ("changed", "lengthened", "no hashes"):
                if name == "changed" and not good["proof"]:
                    continue
                value = statement()
                item = entries_of(value)[place]["items"][number]
                item["proof"] = _other_proof(name, item["proof"])
                yield _at(f"proof of item {number} of entry {place} {name}", value, place)


def _other_proof(name: str, proof: list[str]) -> list[Any]:
    match name:
        case "changed":
            return ["0" * 64, *proof[1:]]
        case "shortened":
            return proof[:-1]
        case "lengthened":
            return [*proof, "0" * 64]
        case "emptied":
            return []
        case "numbers":
            return [7 for _ in proof]
        case _:
            return ["X" * 64 for _ in proof] or ["X"]


def _entries_moved() -> Iterator[Mutation]:
    count = len(entries_of(statement()))
    for place in range(count):
        value = statement()
        dropped = entries_of(value).pop(place)
        # A refusal that changed nothing about the run leaves no gap.
        silent = not dropped["items"]
        shown = None if silent else place
        if not silent and place + 1 < count and not entries_of(value)[place]["items"]:
            # Nor does it fill one: the gap shows at the entry behind it.
            shown = place + 1
        yield _at(f"entry {place} dropped", value, shown, envelope_only=silent)
        value = statement()
        entries_of(value).insert(place + 1, copy.deepcopy(entries_of(value)[place]))
        yield _at(f"entry {place} twice", value, place + 1)
        value = statement()
        entries_of(value)[place] = {}
        yield _at(f"entry {place} emptied", value, place)
        for other in range(place + 1, count):
            value = statement()
            rows = entries_of(value)
            rows[place], rows[other] = rows[other], rows[place]
            yield _at(f"entries {place} and {other} swapped", value, place)
        if place:
            value = statement()
            del entries_of(value)[place:]
            yield _at(f"cut off before entry {place}", value, place)
            value = statement()
            entries_of(value).insert(0, entries_of(value).pop(place))
            yield _at(f"entry {place} moved to the front", value, 0)


def _entries_foreign() -> Iterator[Mutation]:
    log = synthetic.diamond_log()
    same_shape, beta = synthetic.diamond_log("run-2"), synthetic.diamond_log(tenant="beta")
    foreign = {
        "other run": synthetic.content_of(log, "run-other").entries,
        "other tenant": synthetic.content_of(beta).entries,
        "other run, same shape": synthetic.content_of(same_shape, "run-2").entries,
    }
    for name, parts in foreign.items():
        content = synthetic.content_of(log)
        for place in range(len(parts)):
            value = statement()
            replayed = synthetic.built(replace(content, entries=[parts[place]]))
            replay = read(bundle.open_envelope(replayed).payload)
            row = entries_of(replay)[0]
            if row["entry"] == entries_of(value)[place]["entry"]:
                continue
            entries_of(value).insert(place, row)
            yield _at(f"entry of {name} added at {place}", value, place)
            value = statement()
            entries_of(value)[place] = row
            yield _at(f"entry of {name} in place of {place}", value, place)


def _items_changed() -> Iterator[Mutation]:
    changes: list[dict[str, Any]] = [
        {"at": 1}, {"kind": "task.checkpointed"}, {"run": "run-9"}, {"seq": 1}, {"term": 9},
        {"result": "sha256:" + "0" * 64}, {"extra": True}, {"task": "", "tasks": ["left"]},
        {"tasks": ["left", "load"]}, {"task": "", "tasks": ["left", "right", "load"]},
        {"task": "", "tasks": ["right", "left"]}, {"task": "left", "tasks": ""},
    ]  # fmt: skip
    for place, part in enumerate(entries_of(statement())):
        for number in range(len(part["items"])):
            for change in changes:
                value = statement()
                item = entries_of(value)[place]["items"][number]
                before = item["item"]
                item["item"] = _edited(before, **change)
                if before != item["item"]:
                    yield _at(f"item {number} of entry {place} with {change}", value, place)
            for position in (-1, 7, 2**40):
                value = statement()
                entries_of(value)[place]["items"][number]["position"] = position
                yield _at(f"item {number} of entry {place} at {position}", value, place)


def _items_moved() -> Iterator[Mutation]:
    parts = entries_of(statement())
    for place, part in enumerate(parts):
        count = len(part["items"])
        for number in range(count):
            value = statement()
            items = entries_of(value)[place]["items"]
            item = items.pop(number)
            # What is missing at the end of an entry shows at the next one only.
            following = {place} if number < count - 1 or count == 1 else {place, place + 1}
            name = f"item {number} of entry {place} dropped"
            yield _at(name, value, *following, *({place + 1} if place == len(parts) - 1 else ()))
            value = statement()
            entries_of(value)[place]["items"].insert(number, copy.deepcopy(item))
            yield _at(f"item {number} of entry {place} twice", value, place)
            if place + 1 < len(parts):
                value = statement()
                entries_of(value)[place + 1]["items"].append(copy.deepcopy(item))
                yield _at(f"item {number} of entry {place} also in the next", value, place + 1)
        if count > 1:
            value = statement()
            entries_of(value)[place]["items"].reverse()
            yield _at(f"items of entry {place} reversed", value, place)


def _whole() -> Iterator[Mutation]:
    """What concerns no single entry."""
    log = synthetic.diamond_log()
    stranger = synthetic.signing_key(9)
    other_root = keys.certificate(stranger, synthetic.INSTALLATION, 2, synthetic.NEWEST.verifier, 1)
    good = statement()["predicate"]
    tenants = synthetic.diamond_log(tenant="beta").checkpoint()
    replacements: list[tuple[str, list[Any]]] = [
        ("tenant", ["beta", "", 7]),
        ("run", ["run-2", "", None]),
        ("installation", [synthetic.OTHER_INSTALLATION, ""]),
        ("root_key", [stranger.verifier.text, synthetic.NEWEST.verifier.text, "x", ""]),
        ("certificates", [[], ["x"], [other_root], good["certificates"] * 2, "x", [7]]),
        ("checkpoint", [
            log.checkpoint(stranger), tenants, "x", good["checkpoint"].replace("\n20\n", "\n21\n"),
            good["checkpoint"].replace("— t", "— u"), good["checkpoint"][:-1],
        ]),
        ("definition", [good["definition"].replace('["extract"]', "[]"), "x", "{}"]),
        ("constitution", [
            {"platform": "{}", "tenant": ""}, {"platform": good["constitution"]["platform"],
            "tenant": "{}"}, {}, "x",
        ]),
        ("entries", [[], "x"]),
        ("more", ["than there should be"]),
    ]  # fmt: skip
    for name, others in replacements:
        for number, other in enumerate(others):
            value = statement()
            value["predicate"][name] = other
            # Without entries the first of them is missing.
            yield _at(f"{name} replaced, {number}", value, 0 if name == "entries" else None)
    for place in range(len(good["checkpoint"])):
        if place % 9 == 0:
            value = statement()
            text = value["predicate"]["checkpoint"]
            changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
            value["predicate"]["checkpoint"] = changed
            yield _at(f"character {place} of the checkpoint", value, None)
    for size in (14, 7):
        value = statement()
        value["predicate"]["checkpoint"] = log.checkpoint(size=size)
        yield _at(f"rolled back to {size} entries", value, 0)
    yield from _subjects()


def _subjects() -> Iterator[Mutation]:
    for number, (name, other) in enumerate(
        [("name", "run/run-2"), ("name", "x"), ("digest", {"sha256": "0" * 64}), ("digest", {})]
    ):
        for subject in (0, 1):
            value = statement()
            value["subject"][subject][name] = other
            yield _at(f"subject {subject} changed, {number}", value, None)
    value = statement()
    value["subject"].reverse()
    yield _at("subjects swapped", value, None)
    value = statement()
    value["predicateType"] = "urn:other"
    yield _at("another type", value, None)
