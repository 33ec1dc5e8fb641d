"""Constitutions as files: what is read, what is refused where, and what the digest depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_constitution import article
from tenure_constitution.article import Constitution, ConstitutionInvalid
from tenure_constitution.laws import Effect, Law, Perspective, Point

GOOD = {
    "id": "tasks-have-timeouts",
    "law": "precedence",
    "perspective": "resource_constraint",
    "point": "register",
    "effect": "deny",
    "expression": "workflow.tasks_with_timeout == workflow.task_count",
    "message": "every task needs an attempt_timeout",
}
YAML = """
description: >
  What we ask
  of workflows.
articles:
  - id: tasks-have-timeouts
    law: precedence
    perspective: resource_constraint
    point: register
    effect: deny
    expression: >
      workflow.tasks_with_timeout == workflow.task_count
    message: every task needs an attempt_timeout
"""


def read(value: Any) -> Constitution:
    return article.read(value if isinstance(value, str) else json.dumps(value), origin="file.yaml")


def refusal(value: Any) -> tuple[tuple[str, str], ...]:
    with pytest.raises(ConstitutionInvalid) as caught:
        read(value)
    assert str(caught.value).startswith("file.yaml: ")
    str(caught.value).encode()
    return caught.value.violations


def test_yaml_is_read_into_articles() -> None:
    constitution = read(YAML)
    assert constitution.description == "What we ask of workflows."
    [only] = constitution.articles
    assert only == article.Article(
        id="tasks-have-timeouts",
        law=Law.PRECEDENCE,
        perspective=Perspective.RESOURCE_CONSTRAINT,
        point=Point.REGISTER,
        effect=Effect.DENY,
        expression="workflow.tasks_with_timeout == workflow.task_count",
        message="every task needs an attempt_timeout",
    )


def test_yaml_and_json_of_the_same_content_have_the_same_digest() -> None:
    value = {"description": "What we ask of workflows.", "articles": [GOOD]}
    assert read(YAML).digest() == read(value).digest()
    assert read(YAML).digest() == read(json.dumps(value, indent="\t")).digest()


def test_the_digest_of_a_content_never_changes() -> None:
    assert read(YAML).canonical() == (
        b'{"articles":[{"effect":"deny",'
        b'"expression":"workflow.tasks_with_timeout == workflow.task_count",'
        b'"id":"tasks-have-timeouts","law":"precedence",'
        b'"message":"every task needs an attempt_timeout","perspective":"resource_constraint",'
        b'"point":"register"}],"description":"What we ask of workflows."}'
    )
    assert Constitution().digest() == (
        "sha256:24c4f00083ebe7c2ca01a4695f62e7323bdb31e0ec13ce0390aee5c3966d9411"
    )


def test_the_order_of_articles_means_nothing() -> None:
    one, two = GOOD, GOOD | {"id": "another"}
    assert read({"articles": [one, two]}).digest() == read({"articles": [two, one]}).digest()


@pytest.mark.parametrize("key", [key for key in GOOD if key != "id"])
def test_every_part_of_an_article_is_part_of_the_digest(key: str) -> None:
    other = {
        "law": "integrity",
        "perspective": "tenant_isolation",
        "point": "start",
        "effect": "warn",
        "expression": "true",
        "message": "no",
    }
    changed = GOOD | {key: other[key]}
    assert read({"articles": [GOOD]}).digest() != read({"articles": [changed]}).digest()


def test_the_effective_digest_depends_on_both_and_on_which_is_which() -> None:
    a, b, empty = (article.Constitution(description=text) for text in ("a", "b", ""))
    found = {
        article.effective_digest(platform, tenant)
        for platform in (a, b)
        for tenant in (a, b, None, empty)
    }
    assert len(found) == 8


BAD_ARTICLES: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "Upper"}, "articles[0].id", "lower-case letters"),
    ({"id": "-a"}, "articles[0].id", "lower-case letters"),
    ({"id": "a" * 64}, "articles[0].id", "at most 63"),
    ({"id": "a\n"}, "articles[0].id", "lower-case letters"),
    ({"id": ""}, "articles[0].id", "lower-case letters"),
    ({"id": 7}, "articles[0].id", "must be text, it is 7; put it in quotes"),
    ({"law": "Integrity"}, "articles[0].law", "must be one of verifiability, precedence"),
    ({"law": ["integrity"]}, "articles[0].law", "must be text, it is a list"),
    ({"effect": "allow"}, "articles[0].effect", "must be one of deny, warn, not 'allow'"),
    ({"point": None}, "articles[0].point", "must be text, it is empty"),
    ({"perspective": True}, "articles[0].perspective", "it is true; put it in quotes"),
    ({"expression": True}, "articles[0].expression", "it is true; put it in quotes"),
    ({"expression": " "}, "articles[0].expression", "is empty"),
    ({"expression": "a" * 2001}, "articles[0].expression", "has 2001 characters"),
    ({"expression": "'" + "é" * 1500 + "'"}, "articles[0].expression", "has 3002 bytes"),
    ({"expression": "true\x00"}, "articles[0].expression", "cannot be printed"),
    ({"message": "x" * 501}, "articles[0].message", "has 501 characters, at most 500"),
    ({"message": "\x1b[31mred"}, "articles[0].message", "cannot be printed"),
    ({"message": {}}, "articles[0].message", "must be text, it is a table"),
    ({"colour": "red"}, "articles[0].colour", "is not a key that is known here"),
]


@pytest.mark.parametrize(("change", "path", "reason"), BAD_ARTICLES)
def test_a_bad_article_is_refused_with_its_place(
    change: dict[str, Any], path: str, reason: str
) -> None:
    [(where, why)] = refusal({"articles": [GOOD | change]})
    assert where == path
    assert reason in why


@pytest.mark.parametrize("key", GOOD)
def test_nothing_of_an_article_may_be_missing(key: str) -> None:
    value = {name: text for name, text in GOOD.items() if name != key}
    assert refusal({"articles": [value]}) == ((f"articles[0].{key}", "is missing"),)


BAD_TEXTS: list[tuple[str, str, str]] = [
    ("", "", "is empty"),
    ("- a\n", "", "must be a table of keys and values, it is a list"),
    ("{}", "articles", "is missing"),
    ("articles: 5\n", "articles", "must be a list, it is 5"),
    ("articles:\n", "articles", "must be a list, it is empty"),
    ("articles: [7]\n", "articles[0]", "must be a table"),
    ("articles: []\nversion: '1'\n", "version", "is not a key that is known here"),
    ("articles: []\ndescription: 5\n", "description", "it is 5; put it in quotes"),
    ("articles: []\narticles: []\n", "line 2", "the key 'articles' comes twice"),
    ('{"articles": [], "articles": []}', "", "the key 'articles' comes twice"),
    ("articles: &a []\nb: *a\n", "line 2", "aliases are not allowed"),
    ("articles: !!python/object:os.system []\n", "line 1", "the tag"),
    ("articles: []\n---\narticles: []\n", "line 2", "a second document"),
    ("articles: " + "[" * 20 + "]" * 20, "line 1", "nested more than 8 levels"),
    ("articles: [\n", "line 2", "is not YAML"),
    ('{"articles": ' + "[" * 100_000, "", "is nested too deeply"),
    ('{"articles": ' + "[" * 100_000 + "]" * 100_000 + "}", "", "is nested too deeply"),
    ('{"articles": ["\\ud800"]}', "", "half of a surrogate pair"),
    ("articles: \x00", "", "is not YAML"),
    ("? [a]\n: b\n", "line 1", "a key must be text"),
    ("description: '" + "x" * 4001 + "'\narticles: []", "description", "has 4001 characters"),
    ("# " + "x" * 262_144, "", "bytes, at most 262144"),
    ('{"articles": ' + "1" * 5000 + "}", "", "thousands of digits"),
]


@pytest.mark.parametrize(("text", "path", "reason"), BAD_TEXTS)
def test_a_bad_text_is_refused_with_its_place(text: str, path: str, reason: str) -> None:
    where, why = refusal(text)[0]
    assert where == path
    assert reason in why


def test_an_id_can_be_used_once() -> None:
    assert refusal({"articles": [GOOD, GOOD | {"effect": "warn"}]}) == (
        ("articles[1].id", "is the id of articles[0] too"),
    )


def test_there_are_at_most_a_hundred_articles() -> None:
    articles = [GOOD | {"id": f"a{number}"} for number in range(101)]
    assert len(read({"articles": articles[:100]}).articles) == 100
    [(path, _)] = refusal({"articles": articles})
    assert path == "articles"


def test_of_many_violations_the_first_twenty_are_told() -> None:
    assert len(refusal({"articles": [{}] * 90})) == 20


def test_a_tenant_cannot_speak_under_an_id_of_the_platform() -> None:
    platform = read({"articles": [GOOD]})
    article.check_beneath(platform, read({"articles": [GOOD | {"id": "mine"}]}))
    with pytest.raises(ConstitutionInvalid, match="is the id of an article of the platform"):
        article.check_beneath(platform, read({"articles": [GOOD | {"effect": "warn"}]}))


TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=50)
ARTICLES = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True),
        "law": st.sampled_from([law.word for law in Law]),
        "perspective": st.sampled_from([side.word for side in Perspective]),
        "point": st.sampled_from([point.word for point in Point]),
        "effect": st.sampled_from([effect.word for effect in Effect]),
        "expression": TEXTS,
        "message": TEXTS,
    }
)


@given(st.lists(ARTICLES, max_size=5, unique_by=lambda value: value["id"]), TEXTS)
def test_the_canonical_form_can_be_read_back(
    articles: list[dict[str, str]], description: str
) -> None:
    constitution = read({"articles": articles, "description": description})
    again = article.parse(constitution.canonical())
    assert again == constitution
    assert again.canonical() == constitution.canonical()
    assert read(constitution.canonical().decode()) == constitution


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    violations: tuple[tuple[str, str], ...] | None = None
    try:
        article.read(text, origin="x")
    except ConstitutionInvalid as error:
        violations = error.violations
    assert violations is None or violations
