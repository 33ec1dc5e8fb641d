"""Whose outputs expressions look at beyond the edges of the graph, so that they are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tenure_server.core.definitions.declared import Declared
from tenure_server.core.definitions.declared_texts import Use, expressions
from tenure_server.core.definitions.graph import NO_NEEDS, Needs
from tenure_server.core.expressions.evaluation import ExpressionInvalid, reads_of

#: Looked at when the run ends, or after it has failed.
_AT_THE_END = frozenset({Use.OUTPUT, Use.FAILURE_BINDING, Use.UNDO_BINDING})


def needs_of(
    declared: Declared, index: Mapping[str, int], upstream: Sequence[tuple[int, ...]]
) -> Needs:
    """Finds them in a definition; `index` and `upstream` are those of its graph."""
    before: defaultdict[int, set[int]] = defaultdict(set)
    # What undoes a task is given the task's output.
    to_the_end = {
        number for number, task in enumerate(declared.tasks) if task.compensation is not None
    }
    for place in expressions(declared):
        try:
            reads = reads_of(place.text)
        except ExpressionInvalid:
            # Registered by a version that knew it; it fails when it is evaluated.
            continue
        for read in reads:
            named = index.get(read.task) if read.root == "tasks.output" else None
            if named is None:
                continue
            if place.task is None or place.use in _AT_THE_END:
                to_the_end.add(named)
            elif named not in upstream[place.task]:
                before[place.task].add(named)
    if not before and not to_the_end:
        return NO_NEEDS
    behind: defaultdict[int, list[int]] = defaultdict(list)
    for number, named_ones in before.items():
        for one in named_ones:
            behind[one].append(number)
    return Needs(
        before={number: tuple(sorted(named)) for number, named in before.items()},
        behind={number: tuple(sorted(followers)) for number, followers in behind.items()},
        to_the_end=frozenset(to_the_end),
    )
