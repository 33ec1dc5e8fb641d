"""The law of a tenant on its desk: what it asks for, what it remembers, and when it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.server.core.world import START_US, flow, task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_constitution.article import Article, Constitution
from tenure_constitution.facts import NO_LABELS
from tenure_constitution.laws import Effect, Law, Perspective, Point
from tenure_server.core import errors
from tenure_server.core.definitions.definition import digest_of
from tenure_server.core.leasing.leases import AgentSlots, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.engine.constitutions import Constitutions
from tenure_server.engine.registry import KnownWorkflow


def article(point: Point, expression: str, *, effect: Effect = Effect.DENY) -> Article:
    """An article in few words."""
    return Article(
        id=f"at-{point.word}",
        law=Law.PRECEDENCE,
        perspective=Perspective.RESOURCE_CONSTRAINT,
        point=point,
        effect=effect,
        expression=expression,
        message="not so",
    )


def version(
    number: int, *articles: Article, tenant_id: str = TENANT
) -> records.ConstitutionVersion:
    """A version as it is stored."""
    canonical = Constitution(articles=articles).canonical()
    return records.ConstitutionVersion(
        tenant_id=tenant_id,
        version=number,
        digest=digest_of(canonical),
        canonical=canonical,
        create_us=START_US,
        created_by="key-0",
    )


def constitutions(*platform: Article) -> Constitutions:
    """The constitutions of an installation whose agents say nothing of themselves."""

    def facts_of(holder: str, name: str) -> Mapping[str, Any]:
        return {"name": name, "labels": NO_LABELS}

    return Constitutions(Constitution(articles=platform), facts_of)


def live_run(**labels: str) -> LiveRun:
    """A run of one task."""
    definition = flow(task("a"))
    workflow = records.Workflow(
        tenant_id=TENANT,
        name="flow",
        version=1,
        digest=definition.digest(),
        task_count=1,
        dependency_count=0,
        create_us=START_US,
        created_by="key-0",
        canonical=definition.canonical(),
    )
    known = KnownWorkflow.of(workflow)
    record = records.Run(
        tenant_id=TENANT,
        run_id="run-1",
        workflow="flow",
        workflow_version=1,
        workflow_digest=workflow.digest,
        state=RunState.RUNNING,
        priority=0,
        labels=labels,
        input=None,
        correlation_id="",
        started_by="key-0",
        reason="",
        task_count=1,
        succeeded=0,
        failed=0,
        upstream_failed=0,
        cancelled=0,
        create_us=START_US,
        start_us=None,
        end_us=None,
    )
    return LiveRun(record, known.definition, known.graph, order=1, workflow_facts=known.facts)


def test_where_no_article_applies_nothing_objects() -> None:
    law = constitutions(article(Point.START, "false")).of(TENANT)
    agent = AgentSlots("host", "key-1")
    run, facts = live_run(), TaskFacts(attempt=1)
    assert law.on_lease(run, 0, facts, agent, START_US) == ()
    assert law.on_result(run, 0, facts, Success(), START_US) == ()


@pytest.mark.parametrize(
    "expression",
    [
        "task.kind == 'play' && task.attempt == 1",
        "agent.labels['zone'] == 'us'",
        "run.labels['zone'] == 'us'",
        "workflow.task_count == 2",
        "time.hour == 3",
    ],
)
def test_an_article_at_the_lease_sees_all_its_facts(expression: str) -> None:
    """Each of them can be asked for alone, and comes out true or false."""
    agent = AgentSlots("host", "key-1")
    agent.introduce({"zone": "eu"})
    run = live_run(zone="eu")
    law = constitutions(article(Point.LEASE, expression)).of(TENANT)
    [objection] = law.on_lease(run, 0, TaskFacts(attempt=1), agent, START_US)
    assert (objection.article, objection.problem) == ("at-lease", "")
    law = constitutions(article(Point.LEASE, f"!({expression})")).of(TENANT)
    assert law.on_lease(run, 0, TaskFacts(attempt=1), agent, START_US) == ()


@pytest.mark.parametrize(
    ("expression", "end", "objects"),
    [
        ("result.ok", Success(), False),
        ("result.ok", Failure("E"), True),
        ("result.code != 'E'", Failure("E"), True),
        ("task.key == 'a' && agent.name == 'host' && run.id == 'run-1'", Success(), False),
        ("workflow.name == 'other'", Success(), True),
    ],
)
def test_an_article_at_the_result_sees_all_its_facts(
    expression: str, end: Success | Failure, objects: bool
) -> None:
    law = constitutions(article(Point.SETTLE, expression)).of(TENANT)
    facts = TaskFacts(attempt=1, agent="host")
    found = law.on_result(live_run(), 0, facts, end, START_US)
    assert [one.problem for one in found] == ([""] if objects else [])


def test_a_lease_that_was_allowed_stands_for_no_other_run_and_no_other_agent() -> None:
    """Also not for the same agent once it says something else of its host."""
    law = constitutions(article(Point.LEASE, "run.labels['zone'] == agent.labels['zone']")).of(
        TENANT
    )
    agent, other = AgentSlots("host", "key-1"), AgentSlots("other", "key-1")
    agent.introduce({"zone": "eu"})
    other.introduce({"zone": "us"})
    here, there = live_run(zone="eu"), live_run(zone="us")
    facts = TaskFacts(attempt=1)
    for _ in range(2):
        assert law.on_lease(here, 0, facts, agent, START_US) == ()
        assert law.on_lease(there, 0, facts, other, START_US) == ()
        assert law.on_lease(here, 0, facts, other, START_US)
        assert law.on_lease(there, 0, facts, agent, START_US)
    agent.introduce({"zone": "us"})
    assert law.on_lease(here, 0, facts, agent, START_US)
    assert law.on_lease(there, 0, facts, agent, START_US) == ()


def test_more_leases_are_allowed_than_are_remembered() -> None:
    law = constitutions(article(Point.LEASE, "run.labels['zone'] == 'eu'")).of(TENANT)
    agent = AgentSlots("host", "key-1")
    for _ in range(4100):
        run = live_run(zone="eu")
        assert law.on_lease(run, 0, TaskFacts(attempt=1), agent, START_US) == ()
    assert law.on_lease(live_run(zone="us"), 0, TaskFacts(attempt=1), agent, START_US)


def test_a_tenants_law_is_its_own_and_never_an_older_one() -> None:
    """The platform's holds for whoever has none, and beside every other."""
    all_laws = constitutions(article(Point.START, "true"))
    plain = all_laws.of(TENANT).digest
    newer = all_laws.law_under(version(2, article(Point.LEASE, "false")))
    older = all_laws.law_under(version(1, article(Point.SETTLE, "false")))
    all_laws.enforce(newer)
    all_laws.enforce(older)
    assert all_laws.of(TENANT) is newer
    assert all_laws.of("other").digest == all_laws.of("").digest == plain != newer.digest
    assert all_laws.of(TENANT).applies(Point.START)
    assert not all_laws.of("other").applies(Point.LEASE)
    all_laws.forget(TENANT)
    assert all_laws.of(TENANT).digest == plain


def test_a_version_that_was_changed_is_not_enforced() -> None:
    stored = version(1, article(Point.LEASE, "false"))
    broken = records.ConstitutionVersion(
        tenant_id=TENANT,
        version=1,
        digest=stored.digest,
        canonical=stored.canonical.replace(b"false", b"true"),
        create_us=START_US,
        created_by="key-0",
    )
    with pytest.raises(ValueError, match="does not have its digest"):
        constitutions().law_under(broken)


async def test_a_new_law_binds_what_follows_and_not_what_was_started(house: House) -> None:
    """A run keeps the digest it was started under; its leases are judged by what is in force."""
    await house.register(task("a"))
    before = house.engine.constitutions.of(TENANT).digest
    run_id = await house.start()
    text = (
        '{"articles": [{"id": "shut", "law": "precedence", "perspective": "resource_constraint",'
        ' "point": "lease", "effect": "deny", "expression": "false", "message": "no"}]}'
    )
    enacted = await house.engine.legislature.enact(house.origin, text, None)
    assert (enacted.version.version, enacted.created) == (1, True)
    house.session().add_credits(1)
    await house.engine._floor.flushed()
    found = {event.kind: event for event in await house.events(run_id)}
    failed = found[EventKind.TASK_FAILED]
    assert (failed.code, EventKind.TASK_LEASED in found) == ("DENIED", False)
    assert failed.message.startswith("article shut (law of precedence, resource constraint) denies")
    assert (await house.run(run_id)).constitution_digest == before
    after = house.engine.constitutions.of(TENANT).digest
    assert (await house.run(await house.start())).constitution_digest == after != before


async def test_when_nobody_knows_whether_it_was_committed_what_is_stored_is_in_force(
    house: House,
) -> None:
    """Here nothing is: the constitution before goes on."""
    before = house.engine.constitutions.of(TENANT).digest
    house.engine._floor.desks[TENANT].term += 1
    with pytest.raises(errors.StoreUnavailable):
        await house.engine.legislature.enact(house.origin, "articles: []", None)
    house.engine._floor.desks[TENANT].term -= 1
    assert house.engine.constitutions.of(TENANT).digest == before


async def test_an_agent_is_judged_by_the_labels_it_came_with(house: House) -> None:
    """Also when another process comes under its name."""
    await house.register(task("a"), task("b"))
    text = (
        '{"articles": [{"id": "eu", "law": "precedence", "perspective": "security_boundary",'
        ' "point": "lease", "effect": "deny",'
        " \"expression\": \"'zone' in agent.labels && agent.labels['zone'] == 'eu'\","
        ' "message": "stay here"}]}'
    )
    await house.engine.legislature.enact(house.origin, text, None)
    await house.start()
    session = house.session(labels={"zone": "eu"})
    session.add_credits(1)
    assert len((await soon(session)).leases) == 1
    other = house.session(instance="instance-2", labels={"zone": "us"})
    other.add_credits(1)
    await house.engine._floor.flushed()
    assert other.agent.facts["labels"] == {"zone": "us"}
    assert len(other.agent.leases) == 1, "none but the one from before"
