"""What checking data against a JSON Schema may cost, told from the schema.

A schema's *level* is the most that one value can be made to cost, over all schemas that come to
bear on it together, at any depth. So no data cost more than their number of values, times that.
Schemas that bring ever more to bear with every level, as recursive alternatives can, are refused,
and so is what would be fetched, what changes how references are read, and what cannot end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tenure_constitution import patterns

#: Objects and truth values that are schemas.
SCHEMAS_MAX = 5000
#: Deeper data cannot be written again.
LEVELS = 254
#: The most that the level may be, in units of half a microsecond.
LEVEL_MAX = 5000.0
#: Steps of all patterns that come to bear on one text.
PATTERN_STEPS_MAX = 4000

#: How often one schema may lead on to another for the same value.
IN_PLACE_MAX = 100

_PATH_MAX = 120
_WORK_MAX = 150_000
_ALTERNATIVES = "could cost too much: too many alternatives come to bear on one value"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REFUSED = frozenset(
    f"${word}"
    for word in (
        *("id", "anchor", "dynamicRef", "dynamicAnchor"),
        *("recursiveRef", "recursiveAnchor", "vocabulary"),
    )
)
_LISTS = ("allOf", "anyOf", "oneOf")
_ONES = ("not", "if", "then", "else")
_EACH_PROPERTY = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_EACH_ITEM = ("items", "contains", "unevaluatedItems")

_BRANCH = 1.0
_KEYWORD = 0.1
_OPTION = 0.1


class SchemaInvalid(ValueError):  # noqa: N818 - named for what happened
    """A schema is refused; the message says why, and where in it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one value may cost at most."""

    #: In units of half a microsecond.
    level: float
    #: For each character of a text.
    pattern_steps: int
    #: Whether data may be as deep as they like.
    recursive: bool
    #: Whether an error would list what each alternative objects to.
    alternatives: bool


@dataclass(slots=True)
class _Node:
    """A schema: what it costs by itself, and the numbers of those that it brings to bear."""

    cost: float = 0.0
    steps: int = 0
    #: On the same value.
    in_place: list[tuple[int, str]] = field(default_factory=list)
    #: On values of one property, of any property, of one place, of any place.
    named: dict[str, list[int]] = field(default_factory=dict)
    each_property: list[int] = field(default_factory=list)
    placed: dict[int, list[int]] = field(default_factory=dict)
    each_item: list[int] = field(default_factory=list)


def cost_of(schema: Any) -> Cost:
    """Tells what a schema may cost. Raises SchemaInvalid."""
    return _Costs(schema).cost()


class _Costs:
    def __init__(self, schema: Any) -> None:
        self._root = schema
        #: By the identity of a schema, all of which the root keeps alive.
        self._nodes: dict[int, _Node] = {}
        self._waiting: list[tuple[Any, str]] = []
        #: Nodes joined with all that comes to bear on the same value.
        self._whole: dict[int, _Node] = {}
        self._alternatives = False

    def cost(self) -> Cost:
        first = self._number(self._root, "")
        while self._waiting:
            self._read(*self._waiting.pop())
        for number in self._nodes:
            self._join(number, "", ())
        levels, steps, recursive = self._levels(first)
        return Cost(levels, steps, recursive, self._alternatives)

    def _number(self, schema: Any, path: str) -> int:
        """The number of a schema's node, which is read later when it is met for the first time."""
        number = id(schema)
        if number not in self._nodes:
            if len(self._nodes) >= SCHEMAS_MAX:
                _refuse(path, f"is one too many: at most {SCHEMAS_MAX} schemas are allowed in it")
            self._nodes[number] = _Node(cost=_KEYWORD)
            self._waiting.append((schema, path))
        return number

    def _read(self, schema: Any, path: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            _refuse(path, "must be an object, or true or false")
        node = self._nodes[id(schema)]
        node.cost += _KEYWORD * len(schema)
        self._own(schema, path, node)
        node.in_place.extend(
            (self._number(sub, where), where) for sub, where in self._in_place(schema, path)
        )
        self._children(schema, path, node)

    def _join(self, number: int, path: str, above: tuple[int, ...]) -> _Node:
        """A node with all that comes to bear on the same value."""
        if number in above:
            _refuse(path, "refers to itself without going deeper into the data")
        if number in self._whole:
            return self._whole[number]
        if len(above) > IN_PLACE_MAX:
            _refuse(path, f"leads on more than {IN_PLACE_MAX} times without going deeper")
        node = self._nodes[number]
        whole = _Node(node.cost, node.steps)
        _add(whole, node)
        for sub, where in node.in_place:
            other = self._join(sub, where, (*above, number))
            whole.cost += _BRANCH + other.cost
            whole.steps += other.steps
            _add(whole, other)
            if whole.cost > LEVEL_MAX:
                _refuse(where, _ALTERNATIVES)
        self._whole[number] = whole
        return whole

    def _own(self, schema: Mapping[str, Any], path: str, node: _Node) -> None:
        for word in _REFUSED & schema.keys():
            _refuse(f"{path}/{word}", "is not allowed here")
        if schema.get("$schema", _DRAFT).rstrip("#") != _DRAFT:
            _refuse(f"{path}/$schema", f"must be {_DRAFT}, or left out")
        for word in ("enum", "const"):
            if word in schema:
                node.cost += _OPTION * _values(schema[word])
        node.cost += _OPTION * len(schema.get("required", ()))
        for pattern in (schema.get("pattern"), *schema.get("patternProperties", ())):
            if pattern is not None:
                node.steps += _steps(pattern, path)

    def _in_place(self, schema: Mapping[str, Any], path: str) -> Iterator[tuple[Any, str]]:
        for word in _LISTS:
            self._alternatives |= word != "allOf" and word in schema
            for place, sub in enumerate(schema.get(word, ())):
                yield sub, f"{path}/{word}/{place}"
        for word in _ONES:
            if word in schema:
                yield schema[word], f"{path}/{word}"
        for name, sub in schema.get("dependentSchemas", {}).items():
            yield sub, f"{path}/dependentSchemas/{_escaped(name)}"
        if "$ref" in schema:
            yield self._target(schema["$ref"], f"{path}/$ref"), f"{path}/$ref"

    def _target(self, ref: Any, path: str) -> Any:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(path, "must point into the same schema, as in #/$defs/name")
        value = self._root
        for word in ref[2:].split("/") if ref != "#" else ():
            key = word.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                _refuse(path, f"points to {ref!r}, which is not there")
        return value

    def _children(self, schema: Mapping[str, Any], path: str, node: _Node) -> None:
        for name, sub in schema.get("properties", {}).items():
            where = f"{path}/properties/{_escaped(name)}"
            node.named.setdefault(name, []).append(self._number(sub, where))
        for name, sub in schema.get("patternProperties", {}).items():
            where = f"{path}/patternProperties/{_escaped(name)}"
            node.each_property.append(self._number(sub, where))
        for place, sub in enumerate(schema.get("prefixItems", ())):
            node.placed.setdefault(place, []).append(
                self._number(sub, f"{path}/prefixItems/{place}")
            )
        for words, into in ((_EACH_PROPERTY, node.each_property), (_EACH_ITEM, node.each_item)):
            into.extend(
                self._number(schema[word], f"{path}/{word}") for word in words if word in schema
            )

    def _levels(self, first: int) -> tuple[float, int, bool]:
        """The most that a value can cost at any depth, and whether there is no end to depths."""
        nodes = self._whole
        costs = {number: node.cost for number, node in nodes.items()}
        steps = {number: float(node.steps) for number, node in nodes.items()}
        level, most = costs[first], steps[first]
        for depth in range(1, LEVELS):
            if depth * len(nodes) > _WORK_MAX:
                _refuse("", "refers to itself, and is too large for that")
            before = costs, steps
            costs = {number: _deeper(node, costs) for number, node in nodes.items()}
            steps = {number: _deeper(node, steps) for number, node in nodes.items()}
            if costs[first] == 0:
                return level, int(most), False
            level, most = max(level, costs[first]), max(most, steps[first])
            if level > LEVEL_MAX:
                _refuse("", _ALTERNATIVES)
            if most > PATTERN_STEPS_MAX:
                _refuse("", "could cost too much: its patterns are too large together")
            if before == (costs, steps):
                break
        return level, int(most), True


def _add(whole: _Node, other: _Node) -> None:
    for name, numbers in other.named.items():
        whole.named.setdefault(name, []).extend(numbers)
    for place, numbers in other.placed.items():
        whole.placed.setdefault(place, []).extend(numbers)
    whole.each_property.extend(other.each_property)
    whole.each_item.extend(other.each_item)


def _deeper(node: _Node, costs: Mapping[int, float]) -> float:
    """The most that the costs below can be for one property or one item."""
    wild = sum(costs[number] for number in node.each_property)
    named = max((sum(map(costs.__getitem__, one)) for one in node.named.values()), default=0.0)
    every = sum(costs[number] for number in node.each_item)
    placed = max((sum(map(costs.__getitem__, one)) for one in node.placed.values()), default=0.0)
    return max(wild + named, every + placed)


def _values(value: Any) -> int:
    """How many values there are; lists of texts or of integers alone are looked up at once."""
    if isinstance(value, list):
        if all(type(one) is str for one in value) or all(type(one) is int for one in value):
            return 1 + len(value) // 100
        return 1 + sum(map(_values, value))
    if isinstance(value, dict):
        return 5 + sum(map(_values, value.values()))
    return 1


def _steps(pattern: Any, path: str) -> int:
    if not isinstance(pattern, str):
        _refuse(path, "has a pattern that is no text")
    try:
        return patterns.weight(f"r'{pattern}'", looping=False)
    except patterns.PatternError as error:
        _refuse(path, str(error))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refuse(path: str, reason: str) -> NoReturn:
    shown = path if len(path) <= _PATH_MAX else f"…{path[-_PATH_MAX:]}"
    raise SchemaInvalid(f"{shown}: {reason}" if path else reason)
