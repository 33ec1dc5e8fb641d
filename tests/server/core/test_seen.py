"""The filter of names that were seen: never wrong when it says no."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core.seen import LAYER_NAMES_MIN, Seen


@given(st.lists(st.text(max_size=20), max_size=200))
def test_every_name_that_was_added_may_be_there(names: list[str]) -> None:
    seen = Seen()
    for name in names:
        seen.add(name, 1)
    assert all(seen.may_hold(name) for name in names)


def test_new_names_are_nearly_always_known_to_be_new_even_in_a_full_layer() -> None:
    seen = Seen()
    for number in range(LAYER_NAMES_MIN):
        seen.add(f"old-{number}", 1)
    wrong = sum(seen.may_hold(f"new-{number}") for number in range(10_000))
    assert wrong < 200


def test_names_are_forgotten_by_layers_once_all_of_a_layer_are_old() -> None:
    seen = Seen()
    for number in range(LAYER_NAMES_MIN):
        seen.add(f"first-{number}", 10)
    seen.add("second", 20)
    seen.forget(10)
    assert seen.may_hold("first-0")
    seen.forget(11)
    assert not seen.may_hold("first-0")
    assert seen.may_hold("second")
    seen.forget(100)
    assert seen.may_hold("second"), "the newest layer stays"


def test_many_names_stand_in_few_layers() -> None:
    seen = Seen()
    for number in range(8 * LAYER_NAMES_MIN):
        seen.add(f"old-{number}", 1)
    assert len(seen._layers) == 4
    assert all(seen.may_hold(f"old-{number}") for number in range(0, 8 * LAYER_NAMES_MIN, 1000))
    wrong = sum(seen.may_hold(f"new-{number}") for number in range(10_000))
    assert wrong < 500


def test_layers_stop_growing_when_as_much_is_forgotten_as_is_added() -> None:
    seen = Seen()
    for number in range(6 * LAYER_NAMES_MIN):
        seen.forget(number - LAYER_NAMES_MIN)
        seen.add(f"name-{number}", number)
    assert max(layer.names_max for layer in seen._layers) <= 2 * LAYER_NAMES_MIN


def test_names_of_another_are_held_as_well() -> None:
    older, seen = Seen(), Seen()
    older.add("old", 10)
    seen.add("new", 20)
    seen.put_before(older)
    assert seen.may_hold("old")
    assert seen.may_hold("new")
    seen.forget(11)
    assert not seen.may_hold("old")
    assert seen.may_hold("new")
