"""The filter of names that were seen: never wrong when it says no."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core.seen import NAMES_PER_LAYER, Seen


@given(st.lists(st.text(max_size=20), max_size=200))
def test_every_name_that_was_added_may_be_there(names: list[str]) -> None:
    seen = Seen()
    for name in names:
        seen.add(name, 1)
    assert all(seen.may_hold(name) for name in names)


def test_new_names_are_nearly_always_known_to_be_new_even_in_a_full_layer() -> None:
    seen = Seen()
    for number in range(NAMES_PER_LAYER):
        seen.add(f"old-{number}", 1)
    wrong = sum(seen.may_hold(f"new-{number}") for number in range(10_000))
    assert wrong < 200


def test_names_are_forgotten_by_layers_once_all_of_a_layer_are_old() -> None:
    seen = Seen()
    for number in range(NAMES_PER_LAYER):
        seen.add(f"first-{number}", 10)
    seen.add("second", 20)
    seen.forget(10)
    assert seen.may_hold("first-0")
    seen.forget(11)
    assert not seen.may_hold("first-0")
    assert seen.may_hold("second")
    seen.forget(100)
    assert seen.may_hold("second"), "the newest layer stays"
