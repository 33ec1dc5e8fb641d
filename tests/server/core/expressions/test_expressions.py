"""Expressions look at what there is, keep integers exact, say what is wrong, and end in time."""

from __future__ import annotations

import contextlib
import datetime as dt
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_constitution.stopwatch import Stopwatch
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX, Payload
from tenure_server.core.expressions.evaluation import (
    Budget,
    EvaluationFailed,
    ExpressionInvalid,
    Unreadable,
    compiled,
)
from tenure_server.core.expressions.results import DEPTH_MAX, ResultInvalid, as_json
from tenure_server.core.runs import data_flow

NAMES: dict[str, Any] = {
    "run": {
        "id": "run-1",
        "labels": {"team": "blue", "cost-centre": "7"},
        "input": {
            "a": {"b": 5, "big": (1 << 64) - 1, "low": -(1 << 63)},
            "files": [{"name": "x", "size": 3}, {"name": "y", "size": 5}],
            "numbers": [3, 1, 2],
            "at": "2026-05-01T12:00:00Z",
            "text": "héllo",
            "none": None,
            "yes": True,
            "half": 0.5,
            "odd key": 1,
            "it's": 2,
        },
    },
    "tasks": {
        "fetch": {"output": {"items": [{"id": 9007199254740993}]}, "state": "SUCCEEDED"},
        "my-key": {"output": [1, 2], "state": "FAILED"},
        "raw": {"output": Unreadable("is not JSON but image/png"), "state": "SUCCEEDED"},
    },
    "attempt": 2,
    "item": {"n": 7},
    "index": 3,
    "output": {"done": True},
    "iteration": 4,
    "event": {"name": "paid", "key": "k1", "payload": {"sum": 10}},
}


def value(source: str) -> Any:
    return compiled(source).value(NAMES, Budget())


def problem(source: str) -> str:
    with pytest.raises(EvaluationFailed) as failed:
        value(source)
    return str(failed.value)


def refusal(source: str) -> str:
    with pytest.raises(ExpressionInvalid) as refused:
        compiled(source)
    return str(refused.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run.input.a.b", 5),
        ("run.input.a.big", (1 << 64) - 1),
        ("run.input.a.low", -(1 << 63)),
        ("run.input.files[1].name", "y"),
        ("run.input['odd key']", 1),
        ('run.input["it\'s"]', 2),
        ("run.input['it\\'s']", 2),
        ("run.input.none", None),
        ("run.labels['cost-centre']", "7"),
        ("run.labels", {"team": "blue", "cost-centre": "7"}),
        ("tasks.fetch.output.items[0].id", 9007199254740993),
        ("tasks['my-key'].output[1]", 2),
        ("tasks['my-key']['state']", "FAILED"),
        ("attempt", 2),
        ("item.n", 7),
        ("index", 3),
        ("event.payload.sum", 10),
    ],
)
def test_a_plain_path_gives_what_lies_there_without_a_compiler(source: str, expected: Any) -> None:
    assert compiled(source).is_plain
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run.input.a.b + 1", 6),
        ("-run.input.a.b", -5),
        ("run.input.half * 2.0", 1.0),
        ("'id-' + run.id + '-' + string(index)", "id-run-1-3"),
        ("run.labels.team == 'blue' && attempt < 3", True),
        ("has(run.input.nothing)", False),
        ("has(run.input.a.b) && !has(run.labels.region)", True),
        ("has(run.input.nothing) ? run.input.nothing : 'none'", "none"),
        ("true || run.input.nothing", True),
        ("'b' in run.input.a", True),
        ("size(run.input.text)", 5),
        ("run.input.text.matches('^h.llo$')", True),
        ("{'a': [attempt, 0.5, null], 'b': {'c': run.input.text}}", None),
        ("run.input.numbers[attempt]", 2),
        ("timestamp(run.input.at) + duration('90.5s')", "2026-05-01T12:01:30.500000Z"),
        ("duration('1h30m')", "5400s"),
        ("bytes('ab')", "YWI="),
        ("tasks.fetch.output.items[0].id + 1", 9007199254740994),
        ("uint(1) + uint(2)", 3),
        ("(run.input.numbers).map(x, x * x)", [9, 1, 4]),
        ("run.input.files.map(f, f.size > 3, f.name)", ["y"]),
        ("run.input.files.filter(f, f.size > 3).map(f, f.name + run.id)", ["yrun-1"]),
        ("run.input.files.all(f, f.size > 2)", True),
        ("run.input.files.exists(f, f.size > 4)", True),
        ("run.input.files.exists_one(f, f.size > 2)", False),
        ("run.input.files.exists_one(f, f.size > 4)", True),
        ("run.input.a.map(k, k)", ["b", "big", "low"]),
        ("[1, 2].map(x, [x].size() + 1)", [2, 2]),
        ("size([run.input.numbers.map(x, x), run.input.numbers].filter(l, size(l) == 3))", 2),
        ("run.input.yes ? [] : run.input.nothing.map(x, x)", []),
        ("run.input.files.exists(f, f.size == 3 || f.nothing)", True),
    ],
)
def test_what_is_more_than_a_path_is_computed(source: str, expected: Any) -> None:
    if expected is None:
        expected = {"a": [2, 0.5, None], "b": {"c": "héllo"}}
    found = value(source)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("run.input.nothing", "run.input has no 'nothing'"),
        ("run.input.a.b.c", "run.input.a.b is an integer, which does not have the key 'c'"),
        ("run.input.numbers[3]", "run.input.numbers has 3 items, so no [3]"),
        ("run.input.none.x", "run.input.none is null, which does not have the key 'x'"),
        ("run.input.nothing + 1", "run.input has no 'nothing'"),
        ("has(run.input.text.x)", "run.input.text is text, which has no keys"),
        ("tasks.raw.output", "tasks.raw.output is not JSON but image/png"),
        ("tasks.raw.output.x", "tasks.raw.output is not JSON but image/png"),
        ("tasks.other.output", "tasks.other.output is not known here"),
        ("1 / (attempt - 2)", "divide by zero"),
        ("0.0 / 0.0", "comes out as something that is no number, or an infinite one"),
        ("{attempt: 1}", "comes out as something that has a key that is no text: 2"),
        ("run.input.text.map(x, x)", "map runs over a list or a table, not over text"),
        ("run.input.files.map(f, f.nothing)", 'Key not found in map : "nothing"'),
    ],
)
def test_what_comes_to_no_value_says_why(source: str, reason: str) -> None:
    assert problem(source) == reason


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "is empty"),
        ("run.input.a +", "Syntax error: mismatched input '<EOF>'"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("run.id + 1", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("runs.input", "'runs' is not known here; did you mean run?"),
        ("run.inputs", "there is no run.inputs; there are run.input, run.labels, run.id"),
        ("run", "run is nothing by itself; there are run.input, run.labels, run.id"),
        ("tasks.a", "tasks.a is nothing by itself; there are tasks.a.output, tasks.a.state"),
        ("tasks[index].output", "tasks needs the key of a task, as in tasks.fetch.output"),
        ("{a: 1}", "'a' is not known here; a key of a table stands in quotes"),
        ("run.input.x.replace('a', 'b')", "there is no method replace"),
        ("run.input.x.startWith('a')", "there is no method startWith; did you mean startsWith?"),
        ("run.input.x.map(y, y.map(z, z))", "map has another loop inside of it"),
        ("run.input.x.map(run, 1)", "'run' is no name that a loop can use"),
        ("run.input.x.map(y)", "map needs a name, a comma and an expression"),
        ("run.input.x.matches(run.id)", "the pattern of matches must be a text that stands there"),
        ("run.input.x.matches('(a{100}){100}')", "a pattern repeats more than 256 times in all"),
        ("has(run.input)", "has() asks for a key of a table, as in has(run.input.name)"),
        ("(1", "has brackets that do not match"),
        ("[" * 17 + "]" * 17, "has brackets more than 16 levels deep"),
        ("+".join(["1"] * 130), "has 129 operators and calls, at most 128 are allowed"),
        ("'" + "a" * 2000 + "'", "has 2002 characters, at most 2000 are allowed"),
        ("run.input{'a': 1}", "a table is written with keys in quotes"),
        ("1 // one", "comments are not allowed"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_words(source: str, reason: str) -> None:
    assert refusal(source).startswith(reason)


def test_a_loop_takes_ten_thousand_items_and_no_more() -> None:
    names = {"run": {"input": list(range(10_000))}}
    found = compiled("run.input.filter(x, x % 2 == 0).map(x, x + 1)").value(names, Budget())
    assert found == [x + 1 for x in range(0, 10_000, 2)]
    names["run"]["input"].append(1)
    with pytest.raises(EvaluationFailed, match="would run over 10001 items, at most 10000"):
        compiled("run.input.map(x, x)").value(names, Budget())


MIB = 1 << 20
DENSE = [[0] * 9_000 for _ in range(58)]
COSTLY = [
    ("run.input.map(x, x)", DENSE),
    ("run.input == run.input", DENSE),
    ("run.input.map(x, run.input)", [0] * 10_000),
    ("run.input.filter(x, x in run.input)", list(range(10_000))),
    ("run.input.l.map(x, run.input.t + run.input.t)", {"l": [0] * 9_000, "t": "x" * MIB}),
    ("run.input.l.filter(x, run.input.t == run.input.u)", {"l": [0] * 9_000, "t": "x" * MIB,
                                                           "u": "x" * MIB}),
    ("[run.input]" + ".map(t, t + t)" * 8, "x" * MIB),
    ("run.input.l.map(x, run.input.t)", {"l": [0] * 9_000, "t": "x" * 100_000}),
    ("run.input.map(x, [" + ", ".join(["x"] * 300) + "])", ["x" * 1000] * 1000),
    ("run.input.matches('(.*a.{9}b|.*b[ab]*c)d')", "ab" * (MIB // 2)),
    ("run.input.filter(x, x.matches('(a|b)*a(a|b)+c'))", ["ab" * 50] * 10_000),
    ("run.input" + "+ run.input" * 29, "x" * MIB),
    ("[" + "run.input," * 180 + "1]", "x" * MIB),
    (
        " || ".join(["run.input.t == run.input.u"] * 60),
        {"t": "x" * MIB, "u": "x" * (MIB - 1) + "y"},
    ),
    ("run.input.map(x, " + " + ".join(["x"] * 28) + ")", list(range(10_000))),
    ("run.input.all(x, x.n in run.input[0].l)", [{"n": n, "l": list(range(900))}
                                                  for n in range(100)]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "data"), COSTLY, ids=range(len(COSTLY)))
def test_no_expression_over_a_mebibyte_stalls(source: str, data: Any) -> None:
    names = {"run": {"input": data}}
    expression = compiled(source)
    # 50 ms of one machine are meant; what else runs beside the tests gets some room.
    try:
        expression.value(names, Budget())
    except EvaluationFailed as error:
        failed = str(error)
    else:
        failed = ""
    assert not failed or "too long" in failed or "values at once" in failed, failed
    taken = Stopwatch().seconds(lambda: _evaluate(expression, names), 0.05)
    assert taken < 0.15, f"{taken * 1000:.0f} ms"


def _evaluate(expression: Any, names: Any) -> None:
    with contextlib.suppress(EvaluationFailed):
        expression.value(names, Budget())


def test_the_expressions_of_one_evaluation_share_a_budget() -> None:
    names = {"run": {"input": list(range(5_000))}}
    expression, budget = compiled("run.input.map(x, x + 1)"), Budget()
    assert len(expression.value(names, budget)) == 5_000
    evaluations = iter(lambda: expression.value(names, budget), None)
    with pytest.raises(EvaluationFailed, match="would take too long"):
        list(islice(evaluations, 100))


def test_the_same_text_is_compiled_once() -> None:
    assert compiled("attempt + 41") is compiled("attempt + 41")


KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_passes_through_unchanged_by_path_and_by_compiler(data: Any) -> None:
    names = {"run": {"input": data}}
    for source in ("run.input", "[run.input].map(x, x)[0]", "{'a': run.input}['a']"):
        found = compiled(source).value(names, Budget())
        assert orjson.dumps(found, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            data, option=orjson.OPT_SORT_KEYS
        )


@given(st.lists(st.integers(-1000, 1000), max_size=200), st.integers(-5, 5))
def test_loops_in_parts_mean_what_loops_mean(numbers: list[int], n: int) -> None:
    names = {"run": {"input": numbers}, "index": n}
    for macro, expected in {
        "map(x, x + index)": [x + n for x in numbers],
        "filter(x, x > index)": [x for x in numbers if x > n],
        "all(x, x > index)": all(x > n for x in numbers),
        "exists(x, x == index)": n in numbers,
        "exists_one(x, x == index)": numbers.count(n) == 1,
        "map(x, x > index, -x)": [-x for x in numbers if x > n],
    }.items():
        assert compiled(f"run.input.{macro}").value(names, Budget()) == expected


@given(st.lists(KEYS | st.integers(0, 5), max_size=4), JSON)
def test_a_path_leads_to_the_same_with_and_without_the_compiler(
    steps: list[str | int], leaf: Any
) -> None:
    data = leaf
    for step in reversed(steps):
        data = {step: data} if isinstance(step, str) else [None] * step + [data]
    path = "".join(f"[{step!r}]" for step in steps if not isinstance(step, str) or step.isascii())
    if any(isinstance(step, str) and not step.isprintable() for step in steps):
        return
    names = {"run": {"input": data}}
    outcomes = []
    for source in (f"run.input{path}", f"true ? run.input{path} : null"):
        try:
            outcomes.append(
                orjson.dumps(compiled(source).value(names, Budget()), option=orjson.OPT_SORT_KEYS)
            )
        except (EvaluationFailed, ExpressionInvalid) as error:
            outcomes.append(str(error).encode())
    assert outcomes[0] == outcomes[1]


@given(st.text(max_size=80) | st.text("run.input[]()'\"\\+mapx,{}:0 ", max_size=60))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    outcome = ""
    try:
        outcome = orjson.dumps(compiled(text).value(NAMES, Budget())).decode()
    except (ExpressionInvalid, EvaluationFailed) as error:
        outcome = str(error)
    assert outcome


def test_a_key_that_the_library_would_cut_off_is_refused() -> None:
    names = {"run": {"input": {"a\0b": 1}}}
    assert compiled("run.input").value(names, Budget()) == {"a\0b": 1}
    with pytest.raises(EvaluationFailed, match="a key with a NUL character"):
        compiled("[run.input]").value(names, Budget())


def test_results_become_json_or_are_refused() -> None:
    assert as_json(dt.datetime(2026, 1, 2, tzinfo=dt.UTC)) == "2026-01-02T00:00:00Z"
    assert as_json(-dt.timedelta(milliseconds=1500)) == "-1.5s"
    assert as_json(bytearray(b"\xff")) == "/w=="
    deep: Any = 1
    for _ in range(DEPTH_MAX + 2):
        deep = [deep]
    for bad in (float("inf"), 1 << 64, -(1 << 63) - 1, {1: 2}, object(), deep):
        with pytest.raises(ResultInvalid):
            as_json(bad)


# What expressions are asked for


def test_conditions_lists_keys_and_times_are_of_their_kind() -> None:
    assert data_flow.holds("attempt == 2", NAMES)
    assert data_flow.items("run.input.numbers", NAMES) == [3, 1, 2]
    assert data_flow.text("run.labels.team", NAMES) == "blue"
    for call, reason in (
        (lambda: data_flow.holds("run.input.a.b", NAMES), "must come out true or false, not as 5"),
        (lambda: data_flow.items("run.id", NAMES), 'must come out as a list, not as "run-1"'),
        (lambda: data_flow.text("run.input.a.b", NAMES), "must come out as text, not as 5"),
    ):
        with pytest.raises(EvaluationFailed, match=reason):
            call()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run.input.at", 1_777_636_800_000_000),
        ("timestamp(run.input.at) + duration('1s')", 1_777_636_801_000_000),
        ("1777636800", 1_777_636_800_000_000),
        ("1777636800.5", 1_777_636_800_500_000),
        ("'2026-05-01T14:00:00+02:00'", 1_777_636_800_000_000),
    ],
)
def test_a_time_is_a_timestamp_a_text_or_seconds(source: str, expected: int) -> None:
    assert data_flow.moment_us(source, NAMES) == expected


@pytest.mark.parametrize(
    "source", ["run.id", "'2026-05-01T14:00:00'", "true", "1000000000000000000", "null"]
)
def test_what_is_no_time_is_told(source: str) -> None:
    with pytest.raises(EvaluationFailed, match="time"):
        data_flow.moment_us(source, NAMES)


def test_fields_are_laid_onto_an_input() -> None:
    onto = Payload(b'{"keep":1,"n":18446744073709551615,"url":"old"}')
    merged = data_flow.fields({"url": "'u/' + run.id", "size": "run.input.a.b"}, NAMES, onto)
    assert merged.data == b'{"keep":1,"n":18446744073709551615,"size":5,"url":"u/run-1"}'
    assert data_flow.fields({"x": "attempt"}, NAMES).data == b'{"x":2}'


def test_a_field_that_fails_is_named_with_its_expression() -> None:
    with pytest.raises(data_flow.FieldFailed) as failed:
        data_flow.fields({"x": "attempt", "url": "run.input.gone"}, NAMES)
    assert str(failed.value) == "url: run.input.gone: run.input has no 'gone'"
    assert (failed.value.field, failed.value.source) == ("url", "run.input.gone")


def test_fields_together_have_at_most_a_mebibyte() -> None:
    names = {"run": {"input": "x" * (PAYLOAD_BYTES_MAX // 2)}}
    assert data_flow.fields({"a": "run.input"}, names)
    with pytest.raises(data_flow.FieldFailed, match="bytes with all fields, at most 1048576"):
        data_flow.fields({"a": "run.input", "b": "run.input"}, names)


def test_payloads_are_given_as_json_or_as_unreadable() -> None:
    assert data_flow.given(None) is None
    assert data_flow.given(Payload(b"[1]")) == [1]
    assert isinstance(data_flow.given(Payload(b"x", "image/png")), Unreadable)
    long = data_flow.given(Payload(b"[123456789012345678901234567890]"))
    assert isinstance(long, Unreadable)
    assert "more than 64 bits" in long.reason
