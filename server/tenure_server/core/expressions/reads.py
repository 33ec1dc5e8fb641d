"""What an expression can look at: reads, each a root with the constant steps after it."""

from __future__ import annotations

from dataclasses import dataclass

from tenure_constitution.cel import Sort

#: What can be read, and as what.
ROOTS = {
    "run.input": Sort.ANY,
    "run.labels": Sort.LABELS,
    "run.id": Sort.TEXT,
    "run.reason": Sort.TEXT,
    "tasks.output": Sort.ANY,
    "tasks.state": Sort.TEXT,
    "attempt": Sort.INTEGER,
    "item": Sort.ANY,
    "index": Sort.INTEGER,
    "output": Sort.ANY,
    "iteration": Sort.INTEGER,
    "failed": Sort.ANY,
    "event.name": Sort.TEXT,
    "event.key": Sort.TEXT,
    "event.payload": Sort.ANY,
}
#: The words with which a read begins.
FIRST = frozenset(root.partition(".")[0] for root in ROOTS)


@dataclass(frozen=True, slots=True)
class Read:
    """One thing that an expression looks at."""

    #: One of `ROOTS`.
    root: str
    #: The key of a task, for the roots that begin with ``tasks``.
    task: str = ""
    #: Keys of tables and places in lists, as far as they are constant.
    steps: tuple[str | int, ...] = ()
    #: Whether it asks only if the last step is there: ``has(run.input.name)``.
    asks: bool = False

    @property
    def source(self) -> str:
        """The read without its steps, as people write it."""
        if not self.task:
            return self.root
        member = self.root.partition(".")[2]
        return f"tasks{step_text(self.task)}.{member}"

    @property
    def sort(self) -> Sort:
        """What it can be, as far as that is known."""
        if self.asks:
            return Sort.FLAG
        sort = ROOTS[self.root]
        if not self.steps:
            return sort
        return Sort.TEXT if sort is Sort.LABELS and len(self.steps) == 1 else Sort.ANY

    def __str__(self) -> str:
        path = self.source + "".join(map(step_text, self.steps))
        return f"has({path})" if self.asks else path


def step_text(step: str | int) -> str:
    """A step as people write it."""
    if isinstance(step, str) and step.isidentifier() and step.isascii():
        return f".{step}"
    return f"[{step!r}]"


def no_member(first: str, task: str, member: str | int | None) -> str:
    """Why a root cannot be read like this, and what can."""
    known = [root.partition(".")[2] for root in ROOTS if root.startswith(f"{first}.")]
    what = f"tasks{step_text(task)}" if task else first
    choice = ", ".join(f"{what}.{name}" for name in known)
    if member is None:
        return f"{what} is nothing by itself; there are {choice}"
    return f"there is no {what}{step_text(member)}; there are {choice}"
