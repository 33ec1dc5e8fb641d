"""Graphs of tasks as the client needs them: checked before they are sent, measured afterwards."""

import difflib
from collections import deque
from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]


class DefinitionError(ValueError):
    """A definition breaks a rule. `path` leads to the culprit, such as `("tasks", 3, "kind")`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{spell(path)}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def spell(path: Path) -> str:
    """Writes a path the way people read it: `tasks[3].retry.max_attempts`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Gives `; did you mean 'x'?` when a candidate is near, else nothing."""
    # Comparing is slow, and a hint from the first thousands is as good as one from all.
    pool = [candidate for candidate, _ in zip(candidates, range(5_000), strict=False)]
    near = difflib.get_close_matches(word, pool, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def upstream_of(tasks: Sequence[tuple[str, Sequence[str]]]) -> list[list[int]]:
    """Turns pairs of key and dependencies into numbers, and checks that they form a graph.

    Raises DefinitionError: a key used twice, an unknown dependency or one that is named twice,
    a task that depends on itself, a cycle (each of its tasks named).
    """
    numbers: dict[str, int] = {}
    for number, (key, _) in enumerate(tasks):
        first = numbers.setdefault(key, number)
        if first != number:
            reason = f"the key {key!r} is taken by tasks[{first}]"
            raise DefinitionError(("tasks", number, "key"), reason)
    upstream: list[list[int]] = []
    for number, (key, depends_on) in enumerate(tasks):
        found: dict[int, None] = {}
        for position, name in enumerate(depends_on):
            path: Path = ("tasks", number, "depends_on", position)
            dependency = numbers.get(name)
            if dependency is None:
                hint = did_you_mean(name, numbers)
                raise DefinitionError(path, f"there is no task {name!r}{hint}")
            if dependency == number:
                raise DefinitionError(path, f"task {key!r} depends on itself")
            if dependency in found:
                raise DefinitionError(path, f"{name!r} is named twice")
            found[dependency] = None
        upstream.append(list(found))
    if len(topological(upstream)) < len(tasks):
        names = [tasks[number][0] for number in _cycle(upstream)]
        raise DefinitionError(("tasks",), f"the tasks form a cycle: {' -> '.join(names)}")
    return upstream


def topological(upstream: Sequence[Sequence[int]]) -> list[int]:
    """Orders tasks so that each comes after what it depends on; leaves out those behind a cycle."""
    downstream: list[list[int]] = [[] for _ in upstream]
    missing = [len(dependencies) for dependencies in upstream]
    for number, dependencies in enumerate(upstream):
        for dependency in dependencies:
            downstream[dependency].append(number)
    ready = deque(number for number, count in enumerate(missing) if count == 0)
    order = []
    while ready:
        number = ready.popleft()
        order.append(number)
        for follower in downstream[number]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    return order


def longest_path(upstream: Sequence[Sequence[int]], weights: Sequence[float]) -> float:
    """Gives the greatest sum of weights along any chain of dependencies."""
    ends = [0.0] * len(upstream)
    for number in topological(upstream):
        before = max((ends[dependency] for dependency in upstream[number]), default=0.0)
        ends[number] = before + weights[number]
    return max(ends, default=0.0)


def _cycle(upstream: Sequence[Sequence[int]]) -> list[int]:
    """Finds one cycle, in the order of execution; its first task stands at the end again."""
    done = set(topological(upstream))
    number = next(number for number in range(len(upstream)) if number not in done)
    trail: dict[int, None] = {}
    while number not in trail:
        trail[number] = None
        number = next(dependency for dependency in upstream[number] if dependency not in done)
    walked = list(trail)
    cycle = walked[walked.index(number) :]
    cycle.append(number)
    return cycle[::-1]
