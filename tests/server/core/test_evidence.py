"""What an entry says: all that is known of an act, in one spelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tenure_evidence import canonical
from tenure_server.core.evidence import COORDINATOR, INSTALLATION, Act, Draft, entry_bytes
from tenure_server.core.ledger.journal import Journal, Row

NOW = 1_764_000_000_000_000
ROOT = "ab" * 32
DIGEST = "sha256:" + "cd" * 32


@dataclass(frozen=True, slots=True)
class Says:
    """An article that objects."""

    article: str = "no-work-on-sundays"
    denies: bool = True
    message: str = "not on a Sunday"
    sentence: str = "article no-work-on-sundays denies: not on a Sunday"

    def members(self) -> dict[str, str]:
        """As an entry has it."""
        effect = "deny" if self.denies else "warn"
        return {"id": self.article, "law": "precedence", "perspective": "tenant", "effect": effect}


def whole_act(**changes: Any) -> Act:
    """An act of which everything is known."""
    values: dict[str, Any] = {
        "kind": "run.start",
        "principal": "key-1",
        "roles": ("submitter", "viewer"),
        "method": "/tenure.v1.Runs/StartRun",
        "correlation_id": "tie-1",
        "request": DIGEST,
        "begin_us": NOW - 250,
        "subject": {"workflow": "etl", "version": "3"},
        "definition": DIGEST,
        "refusal": "ACT_DENIED",
        "objections": [("acme", Says())],
    }
    return Act(**{**values, **changes})


def entry(act: Act, *, tenant_id: str = "acme", constitution: str = DIGEST, **numbers: Any) -> Any:
    """What the entry of an act says."""
    draft = Draft(act, tenant_id, NOW, constitution)
    numbers = {"index": 7, "term": 2, "count": 3, "root": ROOT, **numbers}
    return canonical.read(entry_bytes(draft, **numbers))


def test_an_entry_says_all_that_is_known() -> None:
    """Each member of the format, and no other."""
    assert entry(whole_act()) == {
        "version": 1,
        "log": "acme",
        "index": 7,
        "at": NOW,
        "took": 250,
        "kind": "run.start",
        "method": "/tenure.v1.Runs/StartRun",
        "principal": "key-1",
        "roles": ["submitter", "viewer"],
        "correlation": "tie-1",
        "term": 2,
        "constitution": DIGEST,
        "definition": DIGEST,
        "subject": {"workflow": "etl", "version": "3"},
        "request": DIGEST,
        "verdict": "deny",
        "articles": [Says().members()],
        "refusal": "ACT_DENIED",
        "items": {"count": 3, "root": ROOT},
    }


def test_what_does_not_apply_is_left_out() -> None:
    """An act of the coordinator by which nothing happened."""
    act = Act(kind="time.pass")
    assert entry(act, tenant_id=INSTALLATION, constitution="", term=0, count=0, root="") == {
        "version": 1,
        "log": "",
        "index": 7,
        "at": NOW,
        "kind": "time.pass",
        "principal": COORDINATOR,
        "correlation": "",
        "term": 0,
        "verdict": "allow",
    }


words = some.text(some.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    some.builds(
        Act,
        kind=words,
        principal=words,
        roles=some.lists(words, max_size=3).map(tuple),
        correlation_id=words,
        subject=some.dictionaries(some.sampled_from(["run", "workflow", "task"]), words),
        begin_us=some.integers(0, 2 * NOW),
        objections=some.lists(
            some.tuples(some.sampled_from(["", "acme", "other"]), some.builds(Says, article=words)),
            max_size=2,
        ),
    )
)
def test_whatever_an_act_is_called_its_entry_has_one_spelling(act: Act) -> None:
    """Also for a clock that went back: no decision takes less than no time."""
    says = entry(act)
    assert canonical.checked(says) == canonical.canonical(says)
    assert says["principal"] == act.principal
    assert says.get("took", 0) == (max(0, NOW - act.begin_us) if act.begin_us else 0)


@pytest.mark.parametrize(
    ("objections", "verdict"),
    [
        ([], "allow"),
        ([Says(denies=False)], "warn"),
        ([Says(denies=False), Says("other")], "deny"),
        ([Says(), Says("other", denies=False)], "deny"),
    ],
)
def test_the_verdict_is_that_of_the_strictest_article(objections: list[Says], verdict: str) -> None:
    act = Act(kind="run.start")
    act.object("acme", objections)
    assert act.verdict_in("acme") == verdict


def test_a_tenant_learns_nothing_of_what_anothers_articles_say() -> None:
    """What the platform says, asked for no tenant, stands with everybody."""
    act = Act(kind="lease.work")
    act.object("acme", [Says(denies=False)])
    act.object("", [Says("platform", denies=False)])
    act.object("other", [Says("secret")])
    ours = entry(act)
    assert ours["verdict"] == "warn"
    assert [one["id"] for one in ours["articles"]] == ["no-work-on-sundays", "platform"]
    theirs = entry(act, tenant_id="other")
    assert theirs["verdict"] == "deny"
    assert [one["id"] for one in theirs["articles"]] == ["platform", "secret"]


def test_an_article_objects_once_to_an_act() -> None:
    """However many runs of a batch it objects to."""
    act = Act(kind="run.start")
    act.object("acme", [Says(), Says(message="again")])
    act.object("acme", [Says(), Says("other")])
    found = act.objections_in("acme")
    assert [one.article for one in found] == ["no-work-on-sundays", "other"]


def test_a_refusal_is_no_verdict_of_the_constitution() -> None:
    """What the gates refuse by themselves breaks no article."""
    assert Act(kind="run.read", refusal="NOT_FOUND").verdict_in("acme") == "allow"


def test_another_act_of_the_same_call_keeps_the_caller_and_nothing_else() -> None:
    """But what stands against the present message, where it is that message's own act."""
    act = whole_act(taken=True, facts={"n": 1})
    again = act.again("lease.settle")
    assert (again.kind, again.principal, again.roles) == ("lease.settle", "key-1", act.roles)
    assert (again.method, again.correlation_id) == (act.method, "tie-1")
    assert (again.request, again.begin_us) == (DIGEST, act.begin_us)
    assert (again.subject, again.definition, again.refusal) == ({}, "", "")
    assert (again.objections, again.facts, again.taken) == ([], None, False)
    own = act.again(objected=True)
    assert own.kind == "run.start"
    act.object("acme", [Says("later")])
    assert (own.objections, own.facts) == ([("acme", Says())], {"n": 1})


def _happen(journal: Journal, *tenant_ids: str) -> None:
    for tenant_id in tenant_ids:
        row: Row = (tenant_id, f"run-of-{tenant_id}", len(journal.events))
        journal.events.append(row)
        journal.said.append({})


def test_an_act_stands_with_every_tenant_to_which_something_happened_or_that_it_names() -> None:
    """Each log has the events of its own tenant only."""
    journal = Journal(lambda tenant_id: f"law of {tenant_id}")
    _happen(journal, "before")
    since = len(journal.events)
    _happen(journal, "b", "a", "b")
    drafts = journal.act(Act(kind="time.pass"), since, NOW, ["c", "a"])
    assert {draft.tenant_id: list(draft.events) for draft in drafts} == {
        "a": [2],
        "b": [1, 3],
        "c": [],
    }
    assert {draft.constitution for draft in drafts} == {"law of a", "law of b", "law of c"}
    assert {draft.at_us for draft in drafts} == {NOW}
    assert journal.seal().drafts == drafts


def test_an_act_that_is_closed_is_taken_and_has_the_objections_that_were_noted() -> None:
    """They are not the next act's."""
    journal = Journal()
    first, second = Act(kind="lease.settle"), Act(kind="lease.settle")
    journal.object("a", [Says(denies=False)])
    journal.act(first, 0, NOW, ["a"])
    journal.act(second, 0, NOW, ["a"])
    assert (first.taken, first.verdict_in("a")) == (True, "warn")
    assert (second.taken, second.verdict_in("a")) == (True, "allow")


def test_a_seal_hands_everything_over_once() -> None:
    journal = Journal()
    _happen(journal, "a")
    journal.act(Act(kind="time.pass"), 0, NOW)
    sealed = journal.seal()
    assert (len(sealed.events), len(sealed.said), len(sealed.drafts)) == (1, 1, 1)
    assert sealed
    assert not journal.seal()


def test_an_act_alone_is_something_to_write() -> None:
    """Nothing need have happened."""
    journal = Journal()
    journal.act(Act(kind="run.read"), 0, NOW, ["a"])
    assert journal.seal()


def test_without_evidence_no_act_is_kept_and_each_is_taken_all_the_same() -> None:
    journal = Journal(keeps_evidence=False)
    act = Act(kind="run.read")
    assert journal.act(act, 0, NOW, ["a"]) == []
    assert act.taken
    assert not journal.seal()
