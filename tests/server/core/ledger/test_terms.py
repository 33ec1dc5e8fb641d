"""What a run is found by: labels exactly, words of texts whatever stands around them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from tenure_server.core.ids import new_id
from tenure_server.core.ledger import terms
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.core.seeing.filters import (
    PREFIX_CHARACTERS_MIN,
    RunFilter,
    Span,
    ids_beginning_with,
)

keys = some.text(min_size=1, max_size=6)
labels = some.dictionaries(keys, some.text(max_size=6), max_size=4)
#: Of signs that might be taken for those of a term.
tricky = some.text(alphabet="a1:=", max_size=4)
tricky_labels = some.dictionaries(tricky, tricky, max_size=4)


def test_words_are_letters_and_digits_in_small_letters() -> None:
    assert terms.words("Blue-Team_7: BLUE straße/İx") == ["blue", "team", "7", "strasse", "i", "x"]
    assert terms.words(" -_- ") == []
    assert terms.words("x" * 99) == ["x" * terms.WORD_CHARACTERS_MAX]


@given(some.text())
def test_a_text_is_found_by_each_of_its_words(text: str) -> None:
    """Cutting it again changes nothing, so that what is kept is what is looked for."""
    for word in terms.words(text):
        assert terms.words(word) == [word]
        assert terms.words(word.upper()) == terms.words(word.upper().casefold())


@given(tricky_labels, tricky_labels)
def test_other_labels_have_other_terms(one: dict[str, str], other: dict[str, str]) -> None:
    """No key and value run together, whatever signs they hold."""
    pairs, plain = (
        [{make(*pair) for pair in it.items()} for it in (one, other)]
        for make in (terms.pair_term, lambda key, value: (key, value))
    )
    assert len(pairs[0] & pairs[1]) == len(plain[0] & plain[1])


@given(labels)
def test_no_term_holds_what_a_database_cannot_keep(given_labels: dict[str, str]) -> None:
    found = terms.label_terms(given_labels)
    assert not any("\0" in term for term in found)
    assert len(found) >= 2 * len(given_labels)


def test_words_of_a_run_are_bounded() -> None:
    text = " ".join(f"w{number}" for number in range(500))
    assert len(terms.reason_terms(text)) == terms.WORDS_MAX
    assert terms.reason_terms("") == []
    assert terms.label_terms({}) == []


@given(some.integers(0, 2**47), some.binary(min_size=6, max_size=6), some.integers(6, 36))
def test_ids_that_begin_alike_lie_in_a_range_of_ids_and_of_time(
    milliseconds: int, random: bytes, length: int
) -> None:
    at_us = milliseconds * 1000 + 7
    run_id = new_id("acme", at_us, random)
    found = ids_beginning_with(run_id[:length].upper())
    assert found is not None
    assert found.from_id <= run_id < found.until_id
    assert found.made.from_us <= at_us < found.made.until_us
    if length > 13:
        # All of the time is said: no more than a millisecond is meant.
        assert found.made.until_us - found.made.from_us == 1000


def test_what_is_no_beginning_of_an_id_is_none() -> None:
    run_id = new_id("acme", 1_764_000_000_000_000, b"random")
    short = run_id[: PREFIX_CHARACTERS_MIN - 1]
    for text in ("", short, f"{run_id}0", run_id.replace("-", ""), "0123456g", "01234567x"):
        assert ids_beginning_with(text) is None, text


def test_a_filter_by_end_means_runs_that_have_ended() -> None:
    assert RunFilter().wanted_states() == sorted(RunState)
    assert RunFilter(ended=Span(5)).wanted_states() == sorted(RUN_ENDED)
    running = frozenset({RunState.RUNNING})
    assert RunFilter(ended=Span(5), states=running).wanted_states() == []
    assert RunFilter(states=running).wanted_states() == [RunState.RUNNING]


def test_a_label_that_is_asked_for_by_value_is_not_asked_for_twice() -> None:
    wanted = RunFilter(labels={"env": "prod"}, label_keys=frozenset({"env", "team"}))
    assert wanted.terms() == [terms.pair_term("env", "prod"), terms.key_term("team")]
