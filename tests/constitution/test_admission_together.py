"""What articles may cost together at a point, and what only the worst of texts brings to light."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from tests.constitution.making import rule, rules

from tenure_constitution import admission
from tenure_constitution.admission import ArticleRefused
from tenure_constitution.laws import Point


def test_articles_that_are_each_cheap_are_refused_when_they_are_not_together() -> None:
    loop = "{0}.all(k, {0}[k] != k + '1' && {0}[k] != k + '2' && {0}[k] != k + '3')"
    cheap, dear = loop.format("workflow.labels"), loop.format("workflow.dimensions")
    many = [rule(cheap, Point.START, article_id=f"a{number}") for number in range(99)]
    costly = rule(dear, Point.START, article_id="z")
    told = "article z: the articles at start take too long .* together: .* at most 5 ms"
    with pytest.raises(ArticleRefused, match=told):
        admission.admit(rules(*many, costly))
    admission.admit(rules(*many[:2], costly))


def test_what_a_lease_may_take_is_less_than_what_a_start_may() -> None:
    expression = (
        "workflow.labels.all(k, workflow.labels[k].matches('(a|b)*a[ab][ab][ab][ab][ab]z'))"
    )
    admission.admit(rules(rule(expression, Point.START)))
    with pytest.raises(ArticleRefused, match=r"at lease take too long .* at most 0\.5 ms"):
        admission.admit(rules(rule(expression, Point.LEASE)))


def test_a_slow_trial_is_held_once_more_before_anybody_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, again = [0.0004, 0.0003], [0.0006, 0.0001]
    for trials, refused in (([slow, again], False), ([slow, slow], True)):
        left = iter(trials)

        def answer(*_: object, left: Iterator[list[float]] = left, **__: object) -> object:
            lines = [
                json.dumps({"id": name, "problem": "", "seconds": seconds}) + "\n"
                for name, seconds in zip(("one", "two"), next(left), strict=True)
            ]
            return subprocess.CompletedProcess([], 0, "".join(lines).encode(), b"")

        monkeypatch.setattr(subprocess, "run", answer)
        both = rules(rule("true", article_id="one"), rule("true", article_id="two"))
        if refused:
            with pytest.raises(ArticleRefused, match=r"one: .*together: 0\.70 ms.*most, 0\.40 ms"):
                admission.admit(both)
        else:
            assert admission.admit(both).seconds == {"one": 0.0004, "two": 0.0001}


#: Each has thousands of states, which only a text that never repeats itself brings about.
STATES: list[str] = [
    "(a|b)*a" + "." * 50 + "z",
    "(x|y)*x" + "." * 50 + "z",
    "(\U0001f600|\U0001f601)*\U0001f600" + "." * 50 + "z",
]


@pytest.mark.parametrize("pattern", STATES)
@pytest.mark.parametrize(
    "form",
    [
        "workflow.labels.all(k, workflow.labels[k].matches('{}'))",
        "workflow.labels.exists(k, !workflow.labels[k].matches('{}'))",
        "workflow.name != 'x' || workflow.labels.all(k, workflow.labels[k].matches('{}'))",
    ],
)
def test_a_pattern_with_very_many_states_is_refused(pattern: str, form: str) -> None:
    """Also where a condition, or the first item, would end the loop before it costs anything."""
    # On a busy machine its trial may be over before it has come out how long it takes.
    with pytest.raises(ArticleRefused, match="takes too long"):
        admission.admit(rules(rule(form.format(pattern), Point.REGISTER)))
