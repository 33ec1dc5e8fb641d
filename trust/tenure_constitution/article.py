"""Articles and constitutions: read strictly from a file, identified by a digest.

    description: What we ask of workflows here.
    articles:
      - id: tasks-have-timeouts
        law: precedence
        perspective: resource_constraint
        point: register
        effect: deny
        expression: workflow.tasks_with_timeout == workflow.task_count
        message: every task needs an attempt_timeout

The expression says what must hold; the message what people are told when it does not. The order
of articles means nothing, so the digest does not depend on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson

from tenure_constitution import document
from tenure_constitution.laws import Effect, Law, Perspective, Point, Word
from tenure_evidence.canonical import hash_text
from tenure_evidence.digests import constitution_digest

ARTICLES_MAX = 100
EXPRESSION_BYTES_MAX = 2000
MESSAGE_CHARACTERS_MAX = 500
DESCRIPTION_CHARACTERS_MAX = 4000
VIOLATIONS_MAX = 20

ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
_KEYS = ("description", "articles")
_WORDS: dict[str, type[Word]] = {
    "law": Law,
    "perspective": Perspective,
    "point": Point,
    "effect": Effect,
}
_ARTICLE_KEYS = ("id", *_WORDS, "expression", "message")


class ConstitutionInvalid(ValueError):  # noqa: N818 - named for what happened
    """A text is no constitution. `violations` are pairs of a place in it and a reason."""

    def __init__(self, origin: str, violations: Iterable[tuple[str, str]]) -> None:
        self.origin = origin
        self.violations = tuple(violations)
        lines = (f"{path}: {reason}" if path else reason for path, reason in self.violations)
        super().__init__(f"{origin}: " + "; ".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One rule: what must hold where, and what follows when it does not."""

    id: str
    law: Law
    perspective: Perspective
    point: Point
    effect: Effect
    #: CEL over the facts of the point; it holds when it is true.
    expression: str
    #: For people, as it stands: nothing is filled in.
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constitution:
    """Articles, ordered by their ids."""

    articles: tuple[Article, ...] = ()
    description: str = ""

    def canonical(self) -> bytes:
        """The bytes that the digest is made over: JSON, keys sorted, no white space."""
        value = {
            "description": self.description,
            "articles": [_as_json(article) for article in self.articles],
        }
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """The identity of this constitution, such as ``sha256:9f86…``."""
        return _digest(self.canonical())


def read(text: str, *, origin: str) -> Constitution:
    """Reads a constitution from YAML or JSON; `origin` names the text in messages.

    Raises ConstitutionInvalid, naming the first twenty violations. Says nothing about whether
    the expressions are good: that is `admission.admit`.
    """
    try:
        value = document.read(text)
    except document.DocumentError as error:
        raise ConstitutionInvalid(origin, [(error.where, error.reason)]) from error
    violations: list[tuple[str, str]] = []
    constitution = _constitution(value, violations)
    if violations:
        raise ConstitutionInvalid(origin, violations[:VIOLATIONS_MAX])
    return constitution


def parse(canonical: bytes) -> Constitution:
    """Reads a constitution back from its canonical bytes."""
    value = orjson.loads(canonical)
    return Constitution(
        description=value["description"],
        articles=tuple(_from_words(item) for item in value["articles"]),
    )


def platform_default() -> Constitution:
    """The platform's constitution that is shipped with this package."""
    text = resources.files(__package__).joinpath("platform.yaml").read_text(encoding="utf-8")
    return read(text, origin="platform.yaml")


def effective_digest(platform: Constitution, tenant: Constitution | None) -> str:
    """The digest of both constitutions that an act was judged under, the tenant's if it has one.

    As it stands in entries and items of evidence; see `docs/evidence-format.md`.
    """
    beneath = b"" if tenant is None else tenant.canonical()
    return hash_text(constitution_digest(platform.canonical(), beneath))


def check_beneath(platform: Constitution, tenant: Constitution) -> None:
    """Refuses a tenant's constitution that uses an id of the platform's.

    That is all it takes for a tenant to be able to be stricter only. All articles of both are
    judged, a verdict is the strictest of what they say, and none can say "allow": adding one can
    only add objections. What is left is to speak under another's name.

    Raises ConstitutionInvalid.
    """
    taken = {article.id for article in platform.articles}
    violations = [
        (f"articles[{article.id}].id", "is the id of an article of the platform")
        for article in tenant.articles
        if article.id in taken
    ]
    if violations:
        raise ConstitutionInvalid("constitution", violations[:VIOLATIONS_MAX])


def _digest(canonical: bytes) -> str:
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def _as_json(article: Article) -> dict[str, str]:
    return {
        "id": article.id,
        "law": article.law.word,
        "perspective": article.perspective.word,
        "point": article.point.word,
        "effect": article.effect.word,
        "expression": article.expression,
        "message": article.message,
    }


def _from_words(value: dict[str, str]) -> Article:
    return Article(
        id=value["id"],
        law=Law[value["law"].upper()],
        perspective=Perspective[value["perspective"].upper()],
        point=Point[value["point"].upper()],
        effect=Effect[value["effect"].upper()],
        expression=value["expression"],
        message=value["message"],
    )


def _constitution(value: Any, violations: list[tuple[str, str]]) -> Constitution:
    if not isinstance(value, dict):
        violations.append(("", f"must be a table of keys and values, {document.kind_of(value)}"))
        return Constitution()
    violations.extend(_unknown("", value, _KEYS))
    description = value.get("description", "")
    if (problem := _text_problem(description, DESCRIPTION_CHARACTERS_MAX)) is not None:
        violations.append(("description", problem))
    items = value.get("articles", [])
    if not isinstance(items, list):
        violations.append(("articles", f"must be a list, {document.kind_of(items)}"))
    elif "articles" not in value:
        violations.append(("articles", "is missing; an empty list says that there are none"))
    elif len(items) > ARTICLES_MAX:
        reason = f"has {len(items)} articles, at most {ARTICLES_MAX} are allowed"
        violations.append(("articles", reason))
    if violations:
        return Constitution()
    articles = [_article(f"articles[{n}]", item, violations) for n, item in enumerate(items)]
    first: dict[str, int] = {}
    for number, article in enumerate(articles):
        if article and first.setdefault(article.id, number) != number:
            reason = f"is the id of articles[{first[article.id]}] too"
            violations.append((f"articles[{number}].id", reason))
    found = sorted((article for article in articles if article), key=lambda article: article.id)
    return Constitution(articles=tuple(found), description=_one_line(description))


def _article(path: str, value: Any, violations: list[tuple[str, str]]) -> Article | None:
    before = len(violations)
    if not isinstance(value, dict):
        violations.append((path, f"must be a table of keys and values, {document.kind_of(value)}"))
        return None
    violations.extend(_unknown(f"{path}.", value, _ARTICLE_KEYS))
    for key in _ARTICLE_KEYS:
        if key not in value:
            violations.append((f"{path}.{key}", "is missing"))
        elif (problem := _problem(key, value[key])) is not None:
            violations.append((f"{path}.{key}", problem))
    if len(violations) > before:
        return None
    return _from_words(
        value | {"expression": value["expression"].strip(), "message": _one_line(value["message"])}
    )


def _problem(key: str, value: Any) -> str | None:
    if key == "expression":
        problem = _text_problem(value, EXPRESSION_BYTES_MAX, empty=False)
        if problem is None and (size := len(value.encode())) > EXPRESSION_BYTES_MAX:
            return f"has {size} bytes, at most {EXPRESSION_BYTES_MAX} are allowed"
        return problem
    if key == "message":
        return _text_problem(value, MESSAGE_CHARACTERS_MAX, empty=False)
    if not isinstance(value, str):
        return f"must be text, {document.kind_of(value)}"
    if key == "id":
        if ID.fullmatch(value):
            return None
        return "must be lower-case letters, digits and '-', beginning with a letter, at most 63"
    words = [member.word for member in _WORDS[key]]
    return None if value in words else f"must be one of {', '.join(words)}, not {value[:60]!r}"


def _text_problem(value: Any, characters_max: int, *, empty: bool = True) -> str | None:
    if not isinstance(value, str):
        return f"must be text, {document.kind_of(value)}"
    if len(value) > characters_max:
        return f"has {len(value)} characters, at most {characters_max} are allowed"
    if any(not character.isprintable() and character not in "\n\t" for character in value):
        return "holds a character that cannot be printed"
    return None if empty or value.strip() else "is empty"


def _unknown(path: str, value: dict[str, Any], keys: tuple[str, ...]) -> list[tuple[str, str]]:
    reason = f"is not a key that is known here; known are {', '.join(keys)}"
    return [(f"{path}{key[:60]}", reason) for key in value if key not in keys]


def _one_line(text: str) -> str:
    return " ".join(text.split())
