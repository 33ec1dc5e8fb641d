"""What an article may look at: a table of names, with types and bounds, by point.

Facts reach the judge as one mapping a root, such as ``{"task": {"kind": "sql", …}, …}``. Texts are
`str`, numbers `int`, flags `bool`, lists of texts tuples, and tables of texts `Labels`; these two
can be hashed, which is what verdicts are remembered by.

The bounds are part of what keeps an article cheap. A fact beyond its bound cannot be looked at:
the article that tries cannot be evaluated, and so denies.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn

from tenure_constitution.laws import Point

TEXT_MAX = 1000
ITEMS_MAX = 64


class Kind(enum.Enum):
    """The type of a fact; the value is how CEL writes it."""

    TEXT = "string"
    NUMBER = "int"
    FLAG = "bool"
    TEXTS = "list(string)"
    LABELS = "map(string, string)"


class Labels(dict[str, str]):
    """A table of texts that does not change, and so can be hashed; the hash is made once."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(self.items()))
            return self._hash

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("labels do not change")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


NO_LABELS = Labels()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One row of the table."""

    root: str
    name: str
    kind: Kind
    #: The most characters of a text, or of each text in a list or table.
    characters_max: int
    meaning: str

    @property
    def path(self) -> str:
        """How an article writes it, such as ``task.kind``."""
        return f"{self.root}.{self.name}"


_CALL, _REGISTER, _START = Point.CALL, Point.REGISTER, Point.START
_LEASE, _SETTLE = Point.LEASE, Point.SETTLE

#: Where each root can be looked at.
ROOTS: dict[str, tuple[Point, ...]] = {
    "principal": (_CALL, _REGISTER, _START),
    "rpc": (_CALL,),
    "tenant": (_CALL, _REGISTER, _START),
    "workflow": (_REGISTER, _START, _LEASE, _SETTLE),
    "run": (_START, _LEASE, _SETTLE),
    "task": (_LEASE, _SETTLE),
    "agent": (_LEASE, _SETTLE),
    "result": (_SETTLE,),
    "time": (_CALL, _REGISTER, _START, _LEASE),
}

_TABLE = """
principal.id            TEXT    128   the id of the caller's key
principal.roles         TEXTS   32    viewer, submitter, agent, tenant_admin, operator
rpc.service             TEXT    128   the service without its package, such as `Runs`
rpc.method              TEXT    128   the method, such as `StartRun`
rpc.mutation            FLAG    0     whether the call changes anything
tenant.id               TEXT    128   the tenant that is acted for; empty for a call without one
tenant.open_runs        NUMBER  0     its runs that have not ended, before this act
tenant.open_tasks       NUMBER  0     the tasks of these, ended ones included
tenant.live_leases      NUMBER  0     its leases that are live
tenant.max_leases       NUMBER  0     the most leases that may be live at once; 0: no such limit
workflow.name           TEXT    128   the workflow's name
workflow.task_count     NUMBER  0     how many tasks it has
workflow.dependency_count NUMBER 0    how many edges its graph has
workflow.depth          NUMBER  0     tasks in its longest chain
workflow.width          NUMBER  0     tasks on the widest level of its graph
workflow.max_fan_out    NUMBER  0     the most tasks that depend on one task
workflow.max_fan_in     NUMBER  0     the most tasks that one task depends on
workflow.kinds          TEXTS   128   its kinds of tasks, of what undoes them and of what follows a failure, each once, sorted
workflow.kind_count     NUMBER  0     how many kinds of tasks it has
workflow.labels         LABELS  255   its labels
workflow.dimensions     LABELS  1000  what it declares of the thirteen dimensions, by name
workflow.covered        TEXTS   32    names of the dimensions it declares
workflow.derived        TEXTS   32    names of those that can be told from the rest of it
workflow.missing        TEXTS   32    names of those of which neither is true
workflow.tasks_with_retry NUMBER 0    tasks that have more than one attempt
workflow.tasks_with_timeout NUMBER 0  tasks whose attempts have a time limit
workflow.max_attempts   NUMBER  0     the most attempts that a task has
workflow.max_attempt_timeout_seconds NUMBER 0 the longest time limit of an attempt, rounded up; 0: none has one
workflow.total_timeout_seconds NUMBER 0 how long a run may take, rounded up; 0: no such limit
workflow.tasks_waiting  NUMBER  0     tasks that wait for something, and that no agent executes
workflow.timers         NUMBER  0     those of them that wait for a time
workflow.approvals      NUMBER  0     those of them that wait for the consent of people
workflow.approvers      TEXTS   128   who is named to decide these, each once, sorted
workflow.sub_workflows  TEXTS   128   the workflows that its tasks run, each once, sorted
workflow.events         TEXTS   128   the events that start a run of it, each once, sorted
workflow.tasks_with_for_each NUMBER 0 tasks that are executed once for each item of a list
workflow.max_items      NUMBER  0     the most items that one of these may have
workflow.tasks_with_compensation NUMBER 0 tasks that can be undone
workflow.tasks_with_placement NUMBER 0 tasks that say which agents execute them
workflow.on_failure     FLAG    0     whether something is executed after a run has failed
workflow.max_runs       NUMBER  0     runs of one key that may be open for work at once; 0: no such limit
workflow.input_bytes    NUMBER  0     bytes of all its inputs, of tasks and of what is executed beside them
workflow.description_length NUMBER 0  characters of its description
workflow.max_leases     NUMBER  0     the most leases of its runs that may be live at once; 0: no such limit
run.id                  TEXT    128   the run's id
run.priority            NUMBER  0     the run's priority
run.labels              LABELS  255   the run's labels
run.input_bytes         NUMBER  0     bytes of the run's input
task.key                TEXT    200   the task's key
task.kind               TEXT    128   the task's kind
task.attempt            NUMBER  0     which attempt this is, from 1
task.priority           NUMBER  0     the task's priority
task.has_timeout        FLAG    0     whether its attempts have a time limit
agent.name              TEXT    128   the agent's name
agent.labels            LABELS  255   what the agent says of its host
result.ok               FLAG    0     whether the attempt succeeded
result.code             TEXT    128   the code of the failure; empty for a success
result.output_bytes     NUMBER  0     bytes of the output
time.unix               NUMBER  0     seconds since 1970
time.hour               NUMBER  0     hour of the day in UTC, 0 to 23
time.minute             NUMBER  0     minute of the hour, 0 to 59
time.weekday            NUMBER  0     day of the week in UTC, 0 is Monday
time.date               TEXT    10    the day in UTC, such as `2026-07-14`
"""  # noqa: E501 - a row stays a row


def _rows(table: str) -> Iterable[Fact]:
    for row in table.strip().splitlines():
        path, kind, characters, meaning = row.split(maxsplit=3)
        root, name = path.split(".")
        yield Fact(
            root=root,
            name=name,
            kind=Kind[kind],
            characters_max=int(characters),
            meaning=meaning,
        )


#: Every fact by its path.
FACTS: dict[str, Fact] = {fact.path: fact for fact in _rows(_TABLE)}


def at(point: Point) -> tuple[Fact, ...]:
    """The facts that an article may look at there."""
    return tuple(fact for fact in FACTS.values() if point in ROOTS[fact.root])


def of_time(unix_seconds: float) -> dict[str, Any]:
    """The facts of an instant, which are the same for a whole second. Not to be changed."""
    return _of_second(int(unix_seconds))


@lru_cache(maxsize=16)
def _of_second(unix: int) -> dict[str, Any]:
    instant = datetime.fromtimestamp(unix, UTC)
    return {
        "unix": unix,
        "hour": instant.hour,
        "minute": instant.minute,
        "weekday": instant.weekday(),
        "date": instant.date().isoformat(),
    }


def frozen(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Facts as the judge likes them, from such that were written as JSON and read back.

    What the table does not have is left out. Raises nothing: a value of a wrong type stays as it
    is, for the judge to object to.
    """
    found: dict[str, dict[str, Any]] = {}
    for root, of_root in given.items():
        for name, value in of_root.items():
            if f"{root}.{name}" in FACTS:
                found.setdefault(root, {})[name] = _frozen(value)
    return found


def _frozen(value: Any) -> Any:
    match value:
        case list():
            return tuple(value)
        case dict():
            return Labels(value)
        case _:
            return value


def problem_of(fact: Fact, value: Any) -> str | None:
    """Says why a value is not to be looked at: another type than the table's, or too large."""
    kind = fact.kind
    if kind is Kind.NUMBER:
        # A bool is an int to Python, and CEL would take it for one without a word.
        good = type(value) is int and -(1 << 63) <= value < 1 << 63
        return None if good else "is not a number of 64 bits"
    if kind is Kind.FLAG:
        return None if type(value) is bool else "is not a flag"
    if kind is Kind.TEXT:
        return _text_problem(value, fact.characters_max)
    texts: Iterable[Any]
    if kind is Kind.TEXTS:
        if not isinstance(value, tuple | list):
            return "is not a list"
        texts = value
    else:
        if not isinstance(value, dict):
            return "is not a table"
        texts = (*value, *value.values())
    if len(value) > ITEMS_MAX:
        return f"has {len(value)} items, of which an article may look at {ITEMS_MAX}"
    for text in texts:
        if (problem := _text_problem(text, fact.characters_max)) is not None:
            return f"has an item that {problem}"
    return None


def _text_problem(value: Any, characters_max: int) -> str | None:
    if not isinstance(value, str):
        return "is not a text"
    if len(value) > characters_max:
        return f"has {len(value)} characters, of which an article may look at {characters_max}"
    return None


def markdown() -> str:
    """The table as Markdown, for `docs/constitution.md`."""
    points = " | ".join(point.word for point in Point)
    lines = [f"| fact | type | {points} | meaning |", "|---|---|" + ":-:|" * len(Point) + "---|"]
    for fact in FACTS.values():
        where = " | ".join("✓" if point in ROOTS[fact.root] else " " for point in Point)
        lines.append(f"| `{fact.path}` | {fact.kind.value} | {where} | {fact.meaning} |")
    return "\n".join(lines) + "\n"
