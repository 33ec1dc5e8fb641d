"""The terms under which a run is found: its labels, and the words of its labels and reason.

A term is one text; `run_terms` has a row for each term of a run. A run without labels that ends
without a reason has none. Words of a workflow's name are kept once for the workflow, not for each
of its runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: Longer words are cut here, where they are kept as where they are looked for.
WORD_CHARACTERS_MAX = 64
#: Of so many different words of a run's labels, and as many of its reason, it is found by each.
WORDS_MAX = 64

# Letters and digits of any script; everything else parts words, the underscore too.
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The different words of a text in their order, in small letters, cut to length."""
    found = (match[:WORD_CHARACTERS_MAX] for match in _WORD.findall(text.casefold()))
    return list(dict.fromkeys(found))


def pair_term(key: str, value: str) -> str:
    """The term of a label with its value."""
    # With the key's length, because keys and values may hold any sign.
    return _storable(f"p{len(key)}:{key}={value}")


def key_term(key: str) -> str:
    """The term of a label, whatever its value is."""
    return _storable(f"k:{key}")


def word_term(word: str) -> str:
    """The term of a word as `words` gives it."""
    return f"w:{word}"


def label_terms(labels: Mapping[str, str]) -> list[str]:
    """The terms of a run's labels, each once."""
    terms = [key_term(key) for key in labels]
    terms += [pair_term(key, value) for key, value in labels.items()]
    return terms + _word_terms(labels.values())


def reason_terms(reason: str) -> list[str]:
    """The terms of the reason with which a run ended, each once."""
    return _word_terms([reason])


def _word_terms(texts: Iterable[str]) -> list[str]:
    found = dict.fromkeys(word for text in texts for word in words(text))
    return [word_term(word) for word in list(found)[:WORDS_MAX]]


def _storable(text: str) -> str:
    # PostgreSQL keeps no such sign; so it is another one on both databases.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
