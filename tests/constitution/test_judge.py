"""The judge: what verdict follows from articles and facts, remembered or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.constitution.making import LEASE, rule, rules, task

from tenure_constitution import cel, facts
from tenure_constitution.article import Constitution
from tenure_constitution.facts import FACTS, Kind, Labels
from tenure_constitution.judge import Judge, Verdict
from tenure_constitution.laws import Effect, Law, Perspective, Point, VerdictResult

ALLOW, WARN, DENY = VerdictResult.ALLOW, VerdictResult.WARN, VerdictResult.DENY


def verdict(*expressions: str | tuple[str, Effect], given: Mapping[str, Any] = LEASE) -> Verdict:
    made = []
    for number, item in enumerate(expressions):
        text, effect = item if isinstance(item, tuple) else (item, Effect.DENY)
        made.append(rule(text, effect=effect, article_id=f"a{number}"))
    return Judge(rules(*made)).judge(Point.LEASE, given)


def test_an_article_that_holds_does_not_object() -> None:
    assert verdict("task.kind == 'sql'") == Verdict(result=ALLOW, judged=1)


def test_an_article_that_does_not_hold_denies_and_says_so() -> None:
    found = verdict("task.kind == 'shell'")
    assert (found.result, found.denied, found.judged) == (DENY, True, 1)
    [objection] = found.objections
    assert objection.article == "a0"
    assert objection.law is Law.INTEGRITY
    assert objection.perspective is Perspective.SECURITY_BOUNDARY
    assert objection.effect is Effect.DENY
    assert not objection.errored
    assert objection.sentence == (
        "article a0 (law of integrity, security boundary) denies: a0 must hold"
    )


def test_an_article_with_the_effect_warn_warns() -> None:
    found = verdict(("task.kind == 'shell'", Effect.WARN))
    assert (found.result, found.denied) == (WARN, False)
    assert "warns: a0 must hold" in found.objections[0].sentence


def test_a_verdict_is_the_strictest_of_all_and_names_those_that_deny_first() -> None:
    found = verdict(("false", Effect.WARN), "false", "true", ("false", Effect.WARN), "false")
    assert (found.result, found.judged) == (DENY, 5)
    assert [item.article for item in found.objections] == ["a1", "a4", "a0", "a3"]


UNDECIDED: list[tuple[str, Mapping[str, Any], str]] = [
    ("1 / (task.attempt - 1) == 1", LEASE, "divide by zero"),
    ("run.labels.owner == 'me'", LEASE, "Key not found"),
    ("int(task.kind) == 1", LEASE, ""),
    ("9223372036854775807 + task.attempt > 0", LEASE, "overflow"),
    ("workflow.kinds[3] == 'a'", LEASE | {"workflow": {"kinds": ("a",)}}, ""),
    ("task.kind == 'sql'", {}, "task.kind is not given"),
    ("task.kind == 'sql'", {"task": {}}, "task.kind is not given"),
    ("task.kind == 'sql'", {"task": None}, "task.kind is not given"),
    ("task.kind == 'sql'", task(kind=None), "task.kind is not a text"),
    ("task.kind == 'sql'", task(kind="\ud800"), ""),
    ("task.kind == 'sql'", task(kind=["sql"]), "task.kind is not a text"),
    ("task.kind == 'sql'", task(kind="x" * 129), "task.kind has 129 characters"),
    ("task.attempt == 1", task(attempt=True), "task.attempt is not a number"),
    ("task.attempt == 1", task(attempt=1 << 63), "task.attempt is not a number"),
    ("task.attempt == 1", task(attempt=1.0), "task.attempt is not a number"),
    ("task.has_timeout", task(has_timeout=1), "task.has_timeout is not a flag"),
    ("size(run.labels) > 0", {"run": {"labels": None}}, "run.labels is not a table"),
    ("size(run.labels) > 0", {"run": {"labels": {"a": 1}}}, "an item that is not a text"),
    (
        "size(run.labels) > 0",
        {"run": {"labels": {"a": "x" * 256}}},
        "an item that has 256 characters",
    ),
    (
        "size(workflow.kinds) > 0",
        {"workflow": {"kinds": tuple(str(n) for n in range(65))}},
        "workflow.kinds has 65 items, of which an article may look at 64",
    ),
    ("size(workflow.kinds) > 0", {"workflow": {"kinds": "abc"}}, "is not a list"),
]


@pytest.mark.parametrize(("expression", "given_facts", "reason"), UNDECIDED)
@pytest.mark.parametrize("effect", Effect)
def test_an_article_that_cannot_be_evaluated_denies_whatever_its_effect(
    expression: str, given_facts: Mapping[str, Any], reason: str, effect: Effect
) -> None:
    found = verdict((expression, effect), given=given_facts)
    assert found.result is DENY
    [objection] = found.objections
    assert objection.errored
    assert objection.effect is Effect.DENY
    assert reason in objection.problem
    assert "could not be evaluated" in objection.sentence


@pytest.mark.parametrize(
    "expression", ["task.kind", "task.knd == ''", "(((", "(" * 500, "result.ok", "1 +", "true\x00"]
)
def test_an_article_that_does_not_compile_denies_and_keeps_nobody_from_work(
    expression: str,
) -> None:
    judge = Judge(rules(rule(expression, effect=Effect.WARN), rule("true", article_id="good")))
    found = judge.judge(Point.LEASE, LEASE)
    assert (found.result, found.judged) == (DENY, 2)
    assert [item.article for item in found.objections] == ["rule"]
    assert found.objections[0].errored


def test_what_is_neither_true_nor_false_on_the_way_need_not_be_decided() -> None:
    assert verdict("task.kind == 'sql' || run.labels.owner == 'me'").result is ALLOW
    assert verdict("task.kind == 'sql' || run.labels.owner == 'me'", given=task()).result is ALLOW


def test_articles_are_judged_at_their_point_only() -> None:
    judge = Judge(rules(rule("false", Point.SETTLE)))
    assert judge.judge(Point.LEASE, LEASE) == Verdict(result=ALLOW)
    assert [point for point in Point if judge.applies(point)] == [Point.SETTLE]
    assert judge.judge(Point.SETTLE, LEASE).result is DENY


def test_a_tenant_can_only_add_objections() -> None:
    strict = rules(rule("task.kind != 'sql'"))
    lax = rules(rule("true", article_id="tenant"))
    for platform, tenant in ((strict, lax), (lax, strict)):
        found = Judge(platform, tenant).judge(Point.LEASE, LEASE)
        assert (found.result, found.judged) == (DENY, 2)
    assert Judge(lax, Constitution()).judge(Point.LEASE, LEASE).result is ALLOW


def test_the_digest_tells_under_what_was_judged() -> None:
    one, two = rules(rule("true")), rules(rule("false"))
    found = {Judge(one).digest, Judge(two).digest, Judge(one, two).digest, Judge(two, one).digest}
    assert len(found) == 4
    assert Judge(one).digest == Judge(rules(rule("true"))).digest


def test_a_judge_tells_what_it_needs_to_know() -> None:
    judge = Judge(
        rules(
            rule("task.kind != 'a' && has(run.labels.team)"),
            rule("run.labels.all(k, k != agent.name)", article_id="b"),
            rule("true", Point.SETTLE, article_id="c"),
        )
    )
    assert judge.reads(Point.LEASE) == {"task.kind", "run.labels", "agent.name"}
    assert judge.roots(Point.LEASE) == {"task", "run", "agent"}
    assert judge.roots(Point.SETTLE) == judge.roots(Point.CALL) == frozenset()
    assert judge.judge(Point.SETTLE, {}).result is ALLOW


# -- remembered verdicts


class Counting:
    """An evaluator that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def compile(self, expression: str, point: Point, reads: frozenset[str]) -> cel.Program:
        program = cel.CelEvaluator().compile(expression, point, reads)
        counting = self

        class Counted:
            def holds(self, given: Mapping[str, Mapping[str, Any]]) -> bool:
                counting.asked += 1
                return program.holds(given)

        return Counted()


def test_a_verdict_is_remembered_by_what_the_articles_read_and_by_nothing_else() -> None:
    counting = Counting()
    judge = Judge(rules(rule("task.kind == 'sql' && size(run.labels) > 0")), evaluator=counting)
    for key in ("t1", "t2", "t3"):
        assert judge.judge(Point.LEASE, task(key=key)).result is ALLOW
    again = LEASE | {"run": LEASE["run"] | {"labels": Labels(team="red")}}
    assert judge.judge(Point.LEASE, again).result is ALLOW
    assert counting.asked == 1
    assert judge.judge(Point.LEASE, task(kind="shell")).result is DENY
    other = LEASE | {"run": LEASE["run"] | {"labels": Labels()}}
    assert judge.judge(Point.LEASE, other).result is DENY
    assert counting.asked == 3


def test_facts_that_cannot_be_hashed_are_judged_each_time() -> None:
    counting = Counting()
    judge = Judge(rules(rule("size(run.labels) > 0")), evaluator=counting)
    for _ in range(2):
        assert judge.judge(Point.LEASE, {"run": {"labels": {"a": "b"}}}).result is ALLOW
    assert counting.asked == 2


def test_what_could_not_be_evaluated_is_not_remembered() -> None:
    judge = Judge(rules(rule("task.attempt == 1")))
    assert judge.judge(Point.LEASE, task(attempt=True)).result is DENY
    assert judge.judge(Point.LEASE, task(attempt=1)).result is ALLOW


def test_no_more_verdicts_are_remembered_than_there_is_room_for() -> None:
    counting = Counting()
    judge = Judge(rules(rule("task.key != 't5'")), evaluator=counting, remembered_max=3)
    keys = [f"t{number}" for number in range(10)]
    found = [judge.judge(Point.LEASE, task(key=key)).result for key in keys]
    assert found == [DENY if key == "t5" else ALLOW for key in keys]
    assert counting.asked == 10
    judge.judge(Point.LEASE, task(key="t9"))
    assert counting.asked == 10


VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: st.sampled_from(["", "a", "sql"]),
    Kind.NUMBER: st.integers(0, 2),
    Kind.FLAG: st.booleans(),
    Kind.TEXTS: st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
    Kind.LABELS: st.dictionaries(
        st.sampled_from(["team", "a"]), st.sampled_from("ab"), max_size=2
    ).map(Labels),
}


def facts_at(point: Point) -> st.SearchStrategy[dict[str, dict[str, Any]]]:
    roots: dict[str, dict[str, st.SearchStrategy[Any]]] = {}
    for fact in facts.at(point):
        roots.setdefault(fact.root, {})[fact.name] = VALUES[fact.kind]
    return st.fixed_dictionaries(
        {root: st.fixed_dictionaries(of_root) for root, of_root in roots.items()}
    )


MIXED = rules(
    rule("task.kind != 'sql' || task.attempt < 2", article_id="a"),
    rule("has(run.labels.team) && run.labels.team == 'a'", article_id="b", effect=Effect.WARN),
    rule("workflow.kinds.all(k, k != 'c') || !task.has_timeout", article_id="c"),
    rule("agent.labels['team'] == 'a' || agent.name == ''", article_id="d", effect=Effect.WARN),
    rule("10 / task.priority > 4", article_id="e"),
)
REMEMBERING = Judge(MIXED, remembered_max=50)
FORGETTING = Judge(MIXED, remembered_max=0)


@given(st.lists(facts_at(Point.LEASE), min_size=1, max_size=10))
def test_a_remembered_verdict_is_the_one_that_would_be_found(
    acts: list[dict[str, dict[str, Any]]],
) -> None:
    for act in acts:
        fresh = Judge(MIXED).judge(Point.LEASE, act)
        assert REMEMBERING.judge(Point.LEASE, act) == fresh
        assert REMEMBERING.judge(Point.LEASE, act) == fresh
        assert FORGETTING.judge(Point.LEASE, act) == fresh


@given(facts_at(Point.LEASE))
def test_facts_that_were_written_down_get_the_verdict_they_got(
    act: dict[str, dict[str, Any]],
) -> None:
    again = facts.frozen(orjson.loads(orjson.dumps(act)) | {"weather": {"rain": True}})
    assert again == act
    assert REMEMBERING.judge(Point.LEASE, again) == Judge(MIXED).judge(Point.LEASE, act)


def test_a_verdict_that_is_remembered_costs_next_to_nothing() -> None:
    judge = Judge(MIXED)
    act = task(priority=2) | {"workflow": {"kinds": ("sql",)}}
    act["agent"] = {"name": "", "labels": Labels()}
    assert judge.judge(Point.LEASE, act).result is WARN
    best = 1.0
    for _ in range(20):
        began = time.thread_time()
        for _ in range(1000):
            judge.judge(Point.LEASE, act)
        best = min(best, time.thread_time() - began)
    # About 1 µs; ten times that says that it was not remembered.
    assert best / 1000 < 10e-6


def test_labels_cannot_be_changed_and_have_the_hash_of_their_content() -> None:
    labels = Labels(a="b", c="d")
    assert hash(labels) == hash(Labels(c="d", a="b"))
    changes: list[Callable[[], object]] = [
        lambda: labels.update(a="c"),
        lambda: labels.__setitem__("a", "c"),
        lambda: labels.pop("a"),
        lambda: labels.__ior__({"a": "c"}),
        labels.clear,
    ]
    for change in changes:
        with pytest.raises(TypeError, match="labels do not change"):
            change()
    assert labels == {"a": "b", "c": "d"}


def test_every_fact_of_every_point_can_be_read_and_judged() -> None:
    test = {
        Kind.TEXT: "{} == {}",
        Kind.NUMBER: "{} - {} == 0",
        Kind.FLAG: "{} || !{}",
        Kind.TEXTS: "{}.all(k, k in {})",
        Kind.LABELS: "{}.all(k, k in {})",
    }
    value = {Kind.TEXT: "a", Kind.NUMBER: 1, Kind.FLAG: False, Kind.TEXTS: ("a",)}
    value[Kind.LABELS] = Labels(a="b")
    for point in Point:
        act: dict[str, dict[str, Any]] = {}
        articles = []
        for number, fact in enumerate(facts.at(point)):
            act.setdefault(fact.root, {})[fact.name] = value[fact.kind]
            text = test[fact.kind].format(fact.path, fact.path)
            articles.append(rule(text, point, article_id=f"a{number}"))
        found = Judge(rules(*articles)).judge(point, act)
        assert found == Verdict(result=ALLOW, judged=len(articles))
    assert {fact for point in Point for fact in facts.at(point)} == set(FACTS.values())
