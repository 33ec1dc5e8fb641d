"""A graph is built or refused, and then knows what follows what."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core import errors
from tenure_server.core.definitions.graph import Graph

Edges = list[tuple[str, tuple[str, ...]]]


@st.composite
def dags(draw: st.DrawFn) -> Edges:
    """Acyclic graphs in any order of definition."""
    size = draw(st.integers(1, 12))
    upstream = [draw(st.sets(st.integers(0, size), max_size=4)) for _ in range(size)]
    tasks = [
        (f"t{number}", tuple(f"t{up}" for up in ups if up < number))
        for number, ups in enumerate(upstream)
    ]
    return draw(st.permutations(tasks))


@given(dags())
def test_a_graph_says_what_a_naive_reading_says(tasks: Edges) -> None:
    graph = Graph.build(tasks)
    depends_on = dict(tasks)
    keys = [key for key, _ in tasks]

    @cache
    def depth(key: str) -> int:
        return 1 + max((depth(up) for up in depends_on[key]), default=0)

    assert graph.keys == tuple(keys)
    assert graph.index == {key: number for number, key in enumerate(keys)}
    assert [tuple(keys[up] for up in ups) for ups in graph.upstream] == list(depends_on.values())
    for number, key in enumerate(keys):
        followers = {keys[down] for down in graph.downstream[number]}
        assert followers == {one for one in keys if key in depends_on[one]}
        assert len(graph.downstream[number]) == len(followers)
    assert list(graph.missing) == [len(ups) for ups in depends_on.values()]
    assert graph.dependency_count == sum(map(len, depends_on.values()))
    assert graph.depth == max(map(depth, keys))


@given(dags(), st.data())
def test_a_cycle_is_found_and_named_in_order(tasks: Edges, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 5))
    ring = [f"ring{number}" for number in range(length)]
    edges = [(key, (ring[number - 1],)) for number, key in enumerate(ring)]
    order = data.draw(st.permutations([*tasks, *edges]))
    with pytest.raises(errors.GraphInvalid) as refused:
        Graph.build(order)
    [(field, reason)] = refused.value.violations
    named = reason.removeprefix("the tasks form a cycle: ").split(" → ")
    assert named[0] == named[-1]
    assert sorted(named[1:]) == sorted(ring)
    depends_on = dict(edges)
    for before, after in pairwise(named):
        assert before in depends_on[after]
    keys = [key for key, _ in order]
    assert field == f"definition.tasks[{keys.index(named[0])}].depends_on"


def violations(*tasks: tuple[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """What is wrong with these tasks."""
    with pytest.raises(errors.GraphInvalid) as refused:
        Graph.build(tasks)
    return list(refused.value.violations)


def test_a_task_that_depends_on_itself_is_a_cycle() -> None:
    assert violations(("a", ("a",))) == [
        ("definition.tasks[0].depends_on", "the tasks form a cycle: a → a")
    ]


def test_a_duplicate_key_is_named_where_it_stands_again() -> None:
    assert violations(("a", ()), ("b", ()), ("a", ())) == [
        ("definition.tasks[2].key", "duplicate task key 'a'")
    ]


def test_an_unknown_dependency_is_named() -> None:
    assert violations(("a", ()), ("b", ("a", "c"))) == [
        ("definition.tasks[1].depends_on", "task 'b' depends on 'c', which is not in the workflow")
    ]


def test_a_dependency_named_twice_is_refused() -> None:
    assert violations(("a", ()), ("b", ("a", "a"))) == [
        ("definition.tasks[1].depends_on", "task 'b' names a dependency twice")
    ]


def test_a_graph_names_at_most_twenty_violations() -> None:
    assert len(violations(*((f"t{number}", ("nowhere",)) for number in range(50)))) == 20


def test_a_long_cycle_is_shown_with_its_middle_left_out() -> None:
    keys = [f"t{number}" for number in range(20_000)]
    [(_, reason)] = violations(*((key, (keys[at - 1],)) for at, key in enumerate(keys)))
    assert " → … → " in reason
    assert len(reason) < 200


def test_the_largest_graph_is_built() -> None:
    # A chain twenty thousand deep, which nothing recursive survives, with ten more edges a task.
    keys = [f"t{number}" for number in range(20_000)]
    tasks = [(key, tuple(keys[max(0, at - 10) : at])) for at, key in enumerate(keys)]
    graph = Graph.build(tasks)
    assert graph.depth == 20_000
    assert graph.dependency_count == 10 * 20_000 - 55
