"""Articles from strangers: what is refused before it is compiled, or in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constitution.making import rule, rules

from tenure_constitution import admission, bounds, cel, facts, patterns, trial
from tenure_constitution.admission import ArticleRefused
from tenure_constitution.laws import Point

#: What no admitted article may take, whatever the facts.
STALL_SECONDS = 0.050

REFUSED: list[tuple[str, str]] = [
    # Size and depth.
    ("true" + " " * 2000, "bytes"),
    ("'" + "x" * 100_000 + "' == ''", "bytes"),
    ("(" * 13 + "true" + ")" * 13, "more than 12 levels"),
    ("(" * 900 + "true" + ")" * 900, "more than 12 levels"),
    ("[" * 900 + "]" * 900, "more than 12 levels"),
    ("(true", "do not match"),
    ("true)", "do not match"),
    ("(true]", "do not match"),
    ("true" + "&&true" * 65, "operators and calls"),
    ("true" + "||true" * 300, "operators and calls"),
    ("!" * 70 + "true", "operators and calls"),
    ("true ? true : " * 40 + "true", "operators and calls"),
    ("size('a') == 1 && " * 40 + "true", "operators and calls"),
    ("1" + "+1" * 9 + " == 10", "additions"),
    ("task.key" + " + task.key" * 9 + " == ''", "additions"),
    ("1" + "-1" * 50 + " == 10", "recursion"),
    ("task.kind in [" + ",".join("'a'" for _ in range(65)) + "]", "more than 64 items"),
    ("task.attempt in [" + ",".join("1" for _ in range(900)) + "]", "more than 64 items"),
    ("run.labels in [run.labels, run.labels]", "a list can only be of texts or of numbers"),
    # Loops.
    ("workflow.kinds.all(a, workflow.kinds.all(b, a == b))", "more than one loop"),
    ("workflow.kinds.all(a, true) && workflow.kinds.all(b, true)", "more than one loop"),
    ("workflow.kinds.filter(a, true).all(b, true)", "more than one loop"),
    ("[1, 2].all(a, a > 0)", "must run over a fact"),
    ("(workflow.kinds + workflow.kinds).all(a, true)", "must run over a fact"),
    ("task.kind.all(a, true)", "must run over a fact"),
    ("all(a, true)", "'all' is not known here"),
    ("workflow.kinds.all(workflow, true)", "is no name that a loop can use"),
    ("workflow.kinds.all(1, true)", "is no name that a loop can use"),
    ("workflow.kinds.all(a)", "needs a name, a comma and a condition"),
    ("workflow.kinds.all(a, b, true)", "'b' is not known here"),
    ("workflow.kinds.all(a, true) && a == 'b'", "'a' is not known here"),
    ("workflow.kinds.all(a, " + "!" * 17 + "true)", "inside its loop"),
    ("workflow.kinds.map(a, a) == []", "there is no method map"),
    # Patterns.
    (r"task.key.matches('(a{10}){30}')", "repeats more than 256 times"),
    (r"task.key.matches('(((a{10}){10}){10}){10}')", "repeats more than 256 times"),
    (r"task.key.matches('a{1000}{1000}')", "repeats more than 256 times"),
    (r"task.key.matches('(.{0,16}){16}')", "too large with all their repetitions"),
    (r"task.key.matches(r'(\W{16}){16}')", "too large with all their repetitions"),
    (r"task.key.matches('" + "a" * 201 + "')", "more than 200 characters"),
    (r"task.key.matches(r'\pL')", "not allowed"),
    (r"task.key.matches('\x61{1\x30}')", "must be a raw text"),
    (r"task.key.matches('a\u007b1000}')", "must be a raw text"),
    ("task.key.matches(task.kind)", "must be a text that stands there"),
    ("task.key.matches('a' + 'b')", "must be a text that stands there"),
    ("matches(task.key, 'a')", "'matches' is not known here"),
    ("(task.key + task.key).matches('a')", "only be asked of a fact"),
    ("'aaaa'.matches('a')", "only be asked of a fact"),
    ("string(1).matches('a')", "only be asked of a fact"),
    ("workflow.kinds.all(k, (k + k).matches('a'))", "only be asked of a fact"),
    ("workflow.kinds.all(k, k.matches('a{3}'))", "a counted repetition"),
    ("workflow.kinds.all(k, k.matches('" + "a" * 65 + "'))", "more than 64 characters"),
    ("task.key.matches('a')" + " && task.key.matches('a')" * 3, "calls of matches"),
    ("task.key.matches('(a')", "invalid regular expression"),
    ("task.key == 'x' && task.key.matches('(a')", "invalid regular expression"),
    # Texts and characters.
    ("true\x00", "not allowed outside"),
    ("\u00a0true", "not allowed outside"),
    ("\uff41 == 1", "not allowed outside"),
    ("task.\u043aind == ''", "not allowed outside"),
    ("'\u202e' == ''", "cannot be printed"),
    ("'\x00' == ''", "cannot be printed"),
    ("'''a''' == 'a'", "triple quotes"),
    ('r"""a""" == "a"', "triple quotes"),
    ("b'a' == b'a'", "bytes"),
    ("rb'a' == b'a'", "bytes"),
    ("'a", "does not end"),
    ("'a\n' == ''", "does not end"),
    ("r'a\\' == 'b'", ""),
    ("true // and no more", "comments are not allowed"),
    ("task.`kind` == ''", "not allowed outside"),
    ("{'a': 1}.a == 1", "not allowed outside"),
    ("google.protobuf.Int32Value{value: 1} == 1", "not allowed outside"),
    ("1u == 1u", "'u' is not known here"),
    ("1e5 == 1.0", "'e5' is not known here"),
    ("dyn(1) == 'a'", "'dyn' is not known here"),
    ("timestamp('2026-01-01T00:00:00Z') == 1", "'timestamp' is not known here"),
    ("type(1) == 1", "'type' is not known here"),
    ("cel.bind(x, 1, true)", "'cel' is not known here"),
    (".task.kind == ''", "a dot must stand between"),
    ("task.kind. == ''", "a dot must stand between"),
    ("task.kind.[0] == ''", "a dot must stand between"),
    # Names and types.
    ("", "expecting"),
    ("task.kind", "must come out true or false, but comes out as string"),
    ("1", "must come out true or false"),
    ("task == task", "is no fact by itself"),
    ("task.knd == ''", "there is no fact task.knd; did you mean task.kind?"),
    ("tsk.kind == ''", "'tsk' is not known here; did you mean task"),
    ("result.ok", "result.ok is not known at lease, only at settle"),
    ("task.kind == 1", "no matching overload"),
    ("task.attempt > '1'", "no matching overload"),
    ("task.attempt > 1.5", "no matching overload"),
    ("run.labels.team > 1", "no matching overload"),
    ("task.kind.startsWith(1)", "no matching overload"),
    ("task.kind.reverse() == ''", "there is no method reverse"),
    ("has(task.has_timeout)", "asks for a key of a table"),
    ("has(task.kind.size)", "asks for a key of a table"),
    ("has(run.labels)", "asks for a key of a table"),
    ("task.kind.foo == ''", ""),
    ("true true", "Syntax error"),
]
ADMITTED: list[str] = [
    "true",
    "task.kind != 'shell'",
    "task.kind in ['sql', 'http', \"it's\"]",
    "task.attempt in [-1, 0x10, 3] || task.attempt > -5",
    "has(run.labels.team) && run.labels.team == 'red'",
    "'team' in run.labels && run.labels['team'].startsWith('r')",
    "workflow.kinds.all(k, k.startsWith('team-') || k in ['sql', 'http'])",
    "workflow.kinds.exists_one(k, k == 'sql')",
    "workflow.kinds.filter(k, k.contains('sql')).size() < 3",
    "run.labels.all(k, run.labels[k] != '')",
    "workflow.kinds.all(k, k.matches('^sql-'))",
    r"task.key.matches(r'^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$')",
    r"run.labels.team.matches('^[a-z]{1,20}$') || run.labels['team'].matches('x')",
    r"task.key.matches('\\d+\\{3}')",
    "workflow.kinds[0].matches('a')",
    "(task.priority > 5 ? agent.labels['tier'] == 'fast' : true) && size(task.key) < 100",
    "int(run.labels['attempts']) >= task.attempt",
    "string(task.attempt) + '/' + task.kind != '3/sql'",
    "'é☃' != task.key",
    "time.hour >= 6 && time.hour < 20 || time.weekday > 4",
    "task.kind\n  != 'a'\n\t&& true",
]


@pytest.mark.parametrize(("expression", "reason"), [row for row in REFUSED if row[1]])
def test_a_bad_expression_is_refused_and_the_reason_told(expression: str, reason: str) -> None:
    problem, _ = trial.attempt(expression, Point.LEASE)
    assert reason in problem
    assert problem.isprintable()


@pytest.mark.parametrize("expression", [row[0] for row in REFUSED if not row[1]])
def test_what_only_the_compiler_can_tell_is_refused_too(expression: str) -> None:
    problem, _ = trial.attempt(expression, Point.LEASE)
    assert problem


def test_good_articles_are_admitted_with_what_they_cost() -> None:
    articles = [rule(text, article_id=f"a{number}") for number, text in enumerate(ADMITTED)]
    # All of them would take too long together for one lease.
    for part in (articles[number::4] for number in range(4)):
        seconds = admission.admit(rules(*part)).seconds
        assert seconds.keys() == {article.id for article in part}
        assert all(0 < took <= 0.0005 for took in seconds.values())


def test_admission_names_the_article_that_is_refused() -> None:
    good, bad = rule("true", article_id="good"), rule("task.kind", article_id="bad")
    with pytest.raises(ArticleRefused, match="article bad: must come out true or false") as caught:
        admission.admit(rules(good, bad))
    assert caught.value.article_id == "bad"


def test_what_the_bounds_refuse_reaches_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(ArticleRefused, match="more than 12 levels"):
        admission.admit(rules(rule("(" * 500 + "true" + ")" * 500)))
    admission.admit(rules())


def test_nothing_is_compiled_here_before_it_was_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cel, "environment", None)
    admission.admit(rules(rule("task.kind != 'shell'")))
    with pytest.raises(ArticleRefused, match="no matching overload"):
        admission.admit(rules(rule("task.kind != 1")))


def test_an_article_that_stalls_its_trial_is_stopped_and_named() -> None:
    # Nothing that compiles is known to stall, so a program stands in that hears no handler of
    # Python's while it runs, as native code does not.
    stand_in = (
        "import re\n"
        "from tenure_constitution import trial\n"
        "attempt = trial.attempt\n"
        "def stalling(expression, point, stopwatch):\n"
        "    if 'shell' in expression:\n"
        "        re.fullmatch('(a+)+', 'a' * 64 + 'b')\n"
        "    return attempt(expression, point, stopwatch)\n"
        "trial.ARTICLE_SECONDS_MAX = 0.3\n"
        "trial.attempt = stalling\n"
        "trial.main()\n"
    )
    items = [
        {"id": name, "point": "lease", "expression": f"task.kind != '{name}'"}
        for name in ("sql", "shell", "http")
    ]
    ended = subprocess.run(
        [sys.executable, "-c", stand_in],
        input=json.dumps(items).encode(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(Path(admission.__file__).parent.parent)},
        timeout=30,
        check=False,
    )
    assert ended.returncode == -signal.SIGALRM
    assert set(admission.answers(ended.stdout)) == {"sql"}


def test_an_article_without_an_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        line = json.dumps({"id": "one", "problem": "", "seconds": 0.001})
        return subprocess.CompletedProcess([], -14, line.encode() + b'\n{"id": "tw', b"")

    monkeypatch.setattr(subprocess, "run", killed)
    one, two = rule("true", article_id="one"), rule("true", article_id="two")
    with pytest.raises(ArticleRefused, match="article two: takes too long, or too much memory"):
        admission.admit(rules(one, two))


def test_a_trial_that_cannot_be_held_is_no_fault_of_an_article(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(admission.TrialFailed, match="cannot start a trial"):
        admission.admit(rules(rule("true")))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(admission.TrialFailed, match="ended with 1"):
        admission.admit(rules(rule("true")))


# -- whatever is admitted is cheap

_D = "workflow.dimensions"
COSTLY: list[str] = [
    f"{_D}.all(k, " + " && ".join([f"{_D} == {_D}"] * 8) + ")",
    f"{_D}.all(k, !{_D}[k].matches(r'(\\w?\\w?\\w?\\w?\\w?\\w?\\w?\\w?\\w?\\w?\\w?\\w?)*@'))",
    f"{_D}.all(k, !{_D}[k].matches(r'.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a.*a@'))",
    f"{_D}.all(k, !{_D}[k].matches(r'(a|b)*a[ab]?[ab]?[ab]?[ab]?[ab]?[ab]?[ab]?c'))",
    f"{_D}.all(k, !{_D}[k].matches(r'(.?[^a]?.?[^b]?.?[^c]?.?[^d]?.?[^e]?.?[^f]?)*@'))",
    f"!{_D}.x.matches(r'([ab]?.?[ab]?.?[ab]?.?[ab]?.?[ab]?.?[ab]?[ab]?){{0,30}}c')",
    f"!{_D}.x.matches(r'(a|b)*a(\\w\\w\\w){{0,120}}c')",
    f"!{_D}.x.matches(r'(.?){{0,80}}c') && !{_D}.x.matches(r'([^a]?){{0,60}}c')",
    f"{_D}.all(k, (k+k+k).contains(k+'b') == (k+k+k).contains(k+'b'))",
    f"{_D}.all(k, k + k + k + k + k + k + k + k + k != '')",
    "workflow.kinds.all(k, (" + "+".join(["workflow.kinds"] * 9) + ").size() > 0)",
    "workflow.kinds.all(k, " + " && ".join(f"!('{n}' in workflow.kinds)" for n in range(5)) + ")",
    "workflow.kinds.all(k, " + " == ".join(["(k < 'é')"] * 8) + ")",
    " && ".join([f"{_D} == {_D}"] * 30),
]


def seconds_of(expression: str, point: Point) -> float:
    program = cel.CelEvaluator().compile(expression, point, bounds.check(expression, point))
    longest = 0.0
    for given_facts in trial.worst_facts(point):
        best = 1.0
        for _ in range(3):
            began = time.thread_time()
            with suppress(cel.CannotTell):
                program.holds(given_facts)
            best = min(best, time.thread_time() - began)
        longest = max(longest, best)
    return longest


@pytest.mark.parametrize("expression", COSTLY)
def test_the_costliest_that_the_bounds_let_through_stalls_nobody(expression: str) -> None:
    assert seconds_of(expression, Point.REGISTER) < STALL_SECONDS


_TEXTS = st.sampled_from(
    ["workflow.name", "workflow.dimensions.x", "workflow.labels['a']", "'a'", "time.date"]
)
_NUMBERS = st.sampled_from(["workflow.depth", "1", "size(workflow.kinds)", "size(workflow.name)"])
_TABLES = st.sampled_from(["workflow.kinds", "workflow.labels", "workflow.dimensions"])
_PATTERNS = st.text("ab.*+?()[]^{}0123,|\\w\\W", min_size=1, max_size=40)


def _join(parts: tuple[str, ...]) -> str:
    return "".join(parts)


_CONDITIONS = st.recursive(
    st.tuples(_TEXTS, st.sampled_from([" == ", " != ", " < "]), _TEXTS).map(_join)
    | st.tuples(_NUMBERS, st.sampled_from([" == ", " >= "]), _NUMBERS).map(_join)
    | st.tuples(_TABLES, st.just(" == "), _TABLES).map(_join)
    | st.tuples(_TEXTS, st.just(" in "), _TABLES).map(_join)
    | st.tuples(_TEXTS, st.just(".contains("), _TEXTS, st.just(")")).map(_join)
    | st.tuples(_TEXTS, st.just(".matches(r'"), _PATTERNS, st.just("')")).map(_join),
    lambda inner: (
        st.tuples(st.just("("), inner, st.sampled_from([") && (", ") || ("]), inner, st.just(")"))
        | st.tuples(st.just("!("), inner, st.just(")"))
        | st.tuples(_TABLES, st.just(".all(k, "), inner, st.just(")"))
        | st.tuples(inner, st.just(" ? "), inner, st.just(" : "), inner)
    ).map(_join),
    max_leaves=12,
)


@given(_CONDITIONS)
@settings(max_examples=200)
def test_whatever_is_admitted_stalls_nobody(expression: str) -> None:
    with suppress(bounds.BoundsExceeded, cel.CompileFailed):
        assert seconds_of(expression, Point.REGISTER) < STALL_SECONDS


@given(st.text("abk.task kind()[]!&|=<>'\"\\+-,?:0189rb{}\n#/`\x00é", max_size=60))
@settings(max_examples=300)
def test_any_text_is_refused_with_a_reason_or_compiles(expression: str) -> None:
    problem = ""
    try:
        reads = bounds.check(expression, Point.LEASE)
        cel.CelEvaluator().compile(expression, Point.LEASE, reads)
    except (bounds.BoundsExceeded, cel.CompileFailed) as error:
        problem = str(error) or "none given"
    assert problem != "none given"
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("literal", "weight"),
    [
        ("'abc'", 3),
        ("r'[a-z0-9]+x'", 3),
        ("'a{3}'", 3),
        ("r'[A-Z][a-z]{0,127}'", 254),
        ("'(ab){2}{3}'", 24),
        (r"r'\d\W.'", 17),
        ("'[^a]'", 10),
        (r"r'[\x{ea}-\x{ef}]'", 8),
        ("'[à-é]'", 8),
        ("r'[[:^alpha:]]'", 8),
        (r"'\\d'", 1),
    ],
)
def test_a_pattern_weighs_what_it_becomes(literal: str, weight: int) -> None:
    assert patterns.weight(literal, looping=False) == weight


def test_the_facts_that_an_expression_reads_are_all_that_it_needs() -> None:
    """Given nothing but those, an expression never lacks one."""
    for expression in ADMITTED:
        reads = bounds.check(expression, Point.LEASE)
        given_facts = next(iter(trial.worst_facts(Point.LEASE)))
        some: dict[str, dict[str, object]] = {root: {} for root in facts.ROOTS}
        for path in reads:
            root, name = path.split(".")
            some[root][name] = given_facts[root][name]
        program = cel.CelEvaluator().compile(expression, Point.LEASE, reads)
        problem = ""
        try:
            program.holds(some)
        except cel.CannotTell as error:
            problem = str(error)
        assert "Activation" not in problem
        assert "is not given" not in problem


@given(_CONDITIONS)
def test_what_an_expression_reads_is_what_the_compiler_says_it_refers_to(expression: str) -> None:
    """A verdict is remembered by what was read off the text: that must miss nothing."""
    with suppress(bounds.BoundsExceeded, RuntimeError):
        reads = bounds.check(expression, Point.REGISTER)
        checked = cel.environment(Point.REGISTER).compile(expression).serialize()
        found = re.findall(rb"[a-z]+\.[a-z_]+", checked)
        assert reads == {name.decode() for name in found} & facts.FACTS.keys()
