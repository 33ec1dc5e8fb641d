"""The judge: all articles of a point over the facts of one act, as one verdict.

A verdict depends on nothing but the facts that the point's articles read. So it is remembered by
their values: on the way of every lease and result, where kinds and labels come again and again,
a verdict costs one look into a table. A fact that is new each time, such as ``task.key``, makes
the articles of its point be evaluated each time; that is the price of reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tenure_constitution import bounds, cel
from tenure_constitution.article import Article, Constitution, effective_digest
from tenure_constitution.laws import Effect, Law, Perspective, Point, VerdictResult

#: How many verdicts are remembered at each point. All are forgotten when there are more.
REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """An article that does not hold for an act."""

    #: The article's id.
    article: str
    law: Law
    perspective: Perspective
    #: Where it was asked.
    point: Point
    #: What follows. Always DENY for an article that could not be evaluated.
    effect: Effect
    message: str
    #: Why the article could not be evaluated; empty when it could.
    problem: str = ""

    @property
    def denies(self) -> bool:
        """Whether the act must not happen because of it."""
        return self.effect is Effect.DENY

    def members(self) -> dict[str, str]:
        """What evidence keeps of it, in words."""
        words = {
            "id": self.article,
            "law": self.law.word,
            "perspective": self.perspective.word,
            "point": self.point.word,
            "effect": self.effect.word,
            "message": self.message,
        }
        if self.problem:
            words["problem"] = self.problem
        return words

    @property
    def errored(self) -> bool:
        """Whether the article could not be evaluated."""
        return self.problem != ""

    @property
    def sentence(self) -> str:
        """What people are told, the same everywhere."""
        verb = "denies" if self.denies else "warns"
        side = self.perspective.word.replace("_", " ")
        cause = f" (it could not be evaluated: {self.problem})" if self.problem else ""
        law = self.law.word
        return f"article {self.article} (law of {law}, {side}) {verb}: {self.message}{cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the constitution says of one act."""

    result: VerdictResult
    #: The articles that do not hold: those that deny first, then by id.
    objections: tuple[Objection, ...] = ()
    #: How many articles were judged.
    judged: int = 0

    @property
    def denied(self) -> bool:
        """Whether the act must not happen."""
        return self.result is VerdictResult.DENY


#: The verdict where no article applies.
UNOPPOSED = Verdict(result=VerdictResult.ALLOW)


class Judge:
    """Judges acts under a platform's constitution and, beneath it, a tenant's.

    Compiles all articles once. An article that does not compile does not keep the judge from
    work: it cannot be evaluated, so it denies.
    """

    def __init__(
        self,
        platform: Constitution,
        tenant: Constitution | None = None,
        *,
        evaluator: cel.Evaluator | None = None,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        evaluator = evaluator or cel.CelEvaluator()
        articles = (*platform.articles, *(tenant.articles if tenant else ()))
        #: The digest of both constitutions together, as runs and evidence record it.
        self.digest = effective_digest(platform, tenant)
        # By number, which is quicker than by member.
        self._dockets: list[_Docket | None] = [None] * (max(Point) + 1)
        for point in Point:
            mine = sorted((a for a in articles if a.point is point), key=lambda a: a.id)
            if mine:
                self._dockets[point] = _Docket(mine, evaluator, remembered_max)

    def applies(self, point: Point) -> bool:
        """Whether any article applies there. If not, no facts need to be gathered."""
        return self._dockets[point] is not None

    def reads(self, point: Point) -> frozenset[str]:
        """The paths of the facts that articles read there, such as ``task.kind``."""
        docket = self._dockets[point]
        return docket.reads if docket else frozenset()

    def roots(self, point: Point) -> frozenset[str]:
        """The roots of the facts that articles read there: no others need to be given."""
        return frozenset(path.split(".")[0] for path in self.reads(point))

    def judge(self, point: Point, facts: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Judges an act by its facts, one mapping a root; see `facts` for what they hold.

        Raises nothing: an article whose facts are missing or wrong cannot be evaluated.
        """
        docket = self._dockets[point]
        if docket is None:
            return UNOPPOSED
        remembered = docket.remembered
        try:
            key = docket.key(facts)
            verdict = remembered.get(key)
        except (KeyError, TypeError):
            # A fact is missing, or is a list or dict that cannot be hashed.
            return docket.decide(facts)
        if verdict is not None:
            return verdict
        verdict = docket.decide(facts)
        # To Python true is 1: what one of them could not be judged by must not stand for the other.
        if not any(objection.problem for objection in verdict.objections):
            if len(remembered) >= docket.remembered_max:
                remembered.clear()
            remembered[key] = verdict
        return verdict


class _Docket:
    """The articles of one point, compiled, and the verdicts that are remembered."""

    def __init__(
        self, articles: list[Article], evaluator: cel.Evaluator, remembered_max: int
    ) -> None:
        self.remembered: dict[Hashable, Verdict] = {}
        self.remembered_max = remembered_max
        self._articles = [(article, *_compile(article, evaluator)) for article in articles]
        self.reads = frozenset(path for *_, reads in self._articles for path in reads)
        self.key = _key_of(self.reads)
        self._allow = Verdict(result=VerdictResult.ALLOW, judged=len(articles))

    def decide(self, facts: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Evaluates every article."""
        objections = []
        for article, program, _ in self._articles:
            try:
                if not program.holds(facts):
                    objections.append(_objection(article))
            except cel.CannotTell as error:
                objections.append(_objection(article, problem=str(error) or "no reason given"))
        if not objections:
            return self._allow
        objections.sort(key=lambda objection: objection.effect)
        denied = objections[0].effect is Effect.DENY
        return Verdict(
            result=VerdictResult.DENY if denied else VerdictResult.WARN,
            objections=tuple(objections),
            judged=len(self._articles),
        )


class _Unusable:
    """Stands for an article that does not compile."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def holds(self, given: Mapping[str, Mapping[str, Any]]) -> bool:
        raise cel.CannotTell(self._reason)


def _compile(article: Article, evaluator: cel.Evaluator) -> tuple[cel.Program, frozenset[str]]:
    try:
        reads = bounds.check(article.expression, article.point)
        return evaluator.compile(article.expression, article.point, reads), reads
    except (bounds.BoundsExceeded, cel.CompileFailed) as error:
        return _Unusable(str(error)), frozenset()


def _objection(article: Article, *, problem: str = "") -> Objection:
    return Objection(
        article=article.id,
        law=article.law,
        perspective=article.perspective,
        point=article.point,
        effect=Effect.DENY if problem else article.effect,
        message=article.message,
        problem=problem,
    )


def _key_of(reads: frozenset[str]) -> Callable[[Mapping[str, Mapping[str, Any]]], Hashable]:
    """Makes the function that picks what a verdict depends on out of the facts."""
    names: dict[str, list[str]] = {}
    for path in sorted(reads):
        root, name = path.split(".")
        names.setdefault(root, []).append(name)
    getters = [(root, itemgetter(*of_root)) for root, of_root in names.items()]
    if len(getters) == 1:
        [(root, get)] = getters
        return lambda facts: get(facts[root])
    return lambda facts: tuple([get(facts[root]) for root, get in getters])
