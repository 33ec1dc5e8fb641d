"""Constitutions and decisions in the store: versions, counts by day and scope, and no orphans."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_server.core.evidence import Act, Draft
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreConflict
from tenure_server.store.reads import TenantReads
from tenure_server.store.verdict_reads import DENIED, REFUSED, WARNED, Scope, VerdictReads

RUN = world.new_id(1)
ALL = Scope()


class Says:
    """An article that objects."""

    article = "a"
    message = sentence = "no"

    def __init__(self, effect: str) -> None:
        self.denies = effect == "deny"

    def members(self) -> dict[str, str]:
        effect = "deny" if self.denies else "warn"
        return {"id": "a", "law": "precedence", "perspective": "p", "effect": effect}


def write(store: Store, *acts: Act, tenant_id: str = TENANT, at_us: int = NOW) -> None:
    """Writes acts by which nothing happened."""
    drafts = [Draft(act, tenant_id, at_us) for act in acts]
    store.writer().act({tenant_id: 1}, lambda _: None, drafts)


def act(objects: str = "", **more: Any) -> Act:
    """An act to which an article objects, or none."""
    made = Act(kind="x.y", principal="k-1", **more)
    if objects:
        made.object(TENANT, [Says(objects)])
    return made


def test_the_same_constitution_twice_is_one_version(store: Store) -> None:
    world.settle(store)
    digests = ["sha256:1", "sha256:1", "sha256:2", "sha256:1"]
    made = [world.constitute(store, digest=digest) for digest in digests]
    assert [(version.version, new) for version, new in made] == [
        (1, True),
        (1, False),
        (2, True),
        (3, True),
    ]
    with store.reading():
        reads = TenantReads(store, TENANT)
        assert reads.constitution() == made[-1][0]
        assert reads.constitution(2) == made[2][0]
        assert reads.constitution(9) is None
        assert [one.version for one in reads.constitutions(3, 1)] == [2]


def test_a_run_without_its_definition_is_refused(store: Store) -> None:
    world.settle(store)
    world.settle(store, OTHER, name="other")
    changes: list[dict[str, Any]] = [
        {"workflow": "never-registered"},
        {"workflow": "other"},
        {"workflow_version": 2},
    ]
    for changed in changes:
        row = world.run_row(RUN, **changed)
        with pytest.raises(StoreConflict, match="breaks a rule"):
            store.writer().commit(world.changes(runs=[world.run_row(world.new_id(2)), row]))
    with store.reading():
        assert TenantReads(store, TENANT).run_ids_open() == []
    store.writer().commit(world.changes(runs=[world.run_row(RUN)]))


def test_a_run_of_a_tenant_that_is_not_there_is_refused(store: Store) -> None:
    world.settle(store)
    with pytest.raises(LookupError, match="seat"):
        store.writer().commit(world.changes(runs=[world.run_row(RUN, "nobody")]))


def test_decisions_come_newest_first_with_what_was_kept(store: Store) -> None:
    world.settle(store)
    write(store, act(), act("warn", facts={"points": ["call"], "rpc": {"method": "M"}}), act())
    with store.reading():
        reads = VerdictReads(store, TENANT)
        assert (reads.log_size(), reads.entry_count()) == (3, 3)
        found = reads.decisions(3, 2)
        assert [one.index for one in found] == [2, 1]
        assert found[1].facts == {"points": ["call"], "rpc": {"method": "M"}}
        assert found[1].entry["articles"][0]["id"] == "a"
        assert [one.index for one in reads.decisions(1, 2)] == [0]
        assert VerdictReads(store, OTHER).decisions(9, 9) == []


def test_standings_are_counted_in_their_span_of_time(store: Store) -> None:
    world.settle(store)
    write(store, act(), act("warn"), act("deny"), act("deny", refusal="X"), act(refusal="Y"))
    write(store, act("warn"), at_us=NOW + 10)
    with store.reading():
        reads = VerdictReads(store, TENANT)
        assert reads.standings(ALL, NOW, NOW + 10) == {0: 1, WARNED: 1, DENIED: 2, REFUSED: 1}
        assert reads.standings(ALL, NOW + 10, NOW + 11) == {WARNED: 1}
        first = reads.objected(ALL, NOW, NOW + 11, -1, 2)
        rest = reads.objected(ALL, NOW, NOW + 11, first[-1][0], 9)
        assert [index for index, _, _ in (*first, *rest)] == [1, 2, 3, 4, 5]


def test_what_happened_to_a_run_is_its_own_scope(store: Store) -> None:
    world.settle(store)
    world.register(store, name="other")
    other = world.new_id(2)
    runs = [world.run_row(RUN), world.run_row(other, workflow="other")]
    store.writer().commit(world.changes(runs=runs))
    for run_id, kind in ((RUN, "one"), (other, "two")):
        started = act()
        started.kind = kind
        changes = world.changes(
            events=[world.event_row(run_id, 1)],
            said=[{}],
            drafts=[Draft(started, TENANT, NOW, events=[0])],
        )
        store.writer().commit(changes)
    with store.reading():
        reads = VerdictReads(store, TENANT)
        for scope, count in ((ALL, 2), (Scope(run_id=RUN), 1), (Scope(workflow="other"), 1)):
            assert reads.standings(scope, 0, NOW + 1) == {0: count}
        assert reads.run_states(ALL, 0, NOW + 1) == [
            ("count", RunState.RUNNING, 1),
            ("other", RunState.RUNNING, 1),
        ]
        assert reads.run_states(Scope(workflow="other"), 0, NOW + 1) == [
            ("other", RunState.RUNNING, 1)
        ]
        assert reads.run_states(ALL, 0, NOW) == []
        assert set(reads.runs([RUN, other, "none"])) == {RUN, other}


def test_the_attempts_of_a_run_are_counted(store: Store) -> None:
    world.settle(store)
    store.writer().commit(world.changes(runs=[world.run_row(RUN)]))
    tasks = [
        world.task_row(RUN, 0, attempt=3, lost=2, agent="host-2"),
        world.task_row(RUN, 1, output=b"bolts", output_type=""),
    ]
    store.writer().commit(world.changes(tasks=tasks))
    with store.reading():
        reads = VerdictReads(store, TENANT)
        found = reads.attempts(RUN, 10)
        assert (found.attempts, found.retries, found.leases_lost) == (4, 2, 2)
        assert found.agents == ("host-1", "host-2")
        assert [reads.output_bytes(RUN, index) for index in (0, 1, 2)] == [0, 5, None]
        assert reads.attempts(world.new_id(9), 10).agents == ()
