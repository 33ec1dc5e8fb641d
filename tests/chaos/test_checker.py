"""The checker finds nothing in right histories, and in wrong ones what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chaos import checker, history, honest
from tests.chaos.history import (
    Granted,
    Observation,
    Read,
    Record,
    Settled,
    Shown,
    Started,
    StoredEvent,
    Watched,
)
from tests.chaos.rules import evidence, healing, kept, limits, order, spans
from tests.chaos.rules.spans import certain_spans


@given(st.lists(st.integers(0, 10_000), max_size=120))
def test_nothing_is_found_in_the_history_of_an_honest_coordinator(drawn: list[int]) -> None:
    numbers = iter(drawn)
    world = honest.story(lambda below: next(numbers, 0) % below, len(drawn) // 3)
    assert checker.check(world.seen, world.record()) == []


@dataclass
class Case:
    """A right history, to be made wrong."""

    seen: list[Observation]
    record: Record

    def first(self, kind: type[Observation]) -> int:
        """Where the first observation of a kind stands."""
        return next(at for at, one in enumerate(self.seen) if isinstance(one, kind))

    def change(self, at: int, **words: object) -> None:
        """Changes an observation."""
        self.seen[at] = replace(self.seen[at], **words)  # type: ignore[arg-type]

    def write(self, **words: object) -> None:
        """Changes the record."""
        self.record = replace(self.record, **words)  # type: ignore[arg-type]

    def edit_run(self, run_id: str, **words: object) -> None:
        """Changes a stored run."""
        runs = dict(self.record.runs)
        runs[run_id] = replace(runs[run_id], **words)  # type: ignore[arg-type]
        self.write(runs=runs)

    def edit_events(self, run_id: str, change: Callable[[list[StoredEvent]], object]) -> None:
        """Changes a run's events."""
        events = list(self.record.events[run_id])
        change(events)
        self.write(events={**self.record.events, run_id: tuple(events)})

    def edit_log(self, tenant: str, change: Callable[[list[history.Entry]], object]) -> None:
        """Changes a tenant's log."""
        log = list(self.record.logs[tenant])
        change(log)
        self.write(logs={**self.record.logs, tenant: tuple(log)})


def case() -> Case:
    """Runs of two tenants: two succeed, one of them with two tasks at once; one is cancelled."""
    world = honest.Honest()
    world.start("alpha", "wide")
    world.start("beta", "narrow")
    world.start("alpha", "narrow")
    first, second = world.lease("one"), world.lease("two")
    assert first is not None
    assert second is not None
    world.renew(first)
    world.lose(second)
    world.settle(first)
    world.lease("one")
    world.lease("two")
    world.cancel("run-3")
    world.finish()
    return Case(world.seen, world.record())


def a_run_is_lost(it: Case) -> None:
    it.write(runs={k: v for k, v in it.record.runs.items() if k != "run-1"})


def a_run_is_another_tenants(it: Case) -> None:
    it.change(it.first(Started), tenant="beta")


def a_cancellation_is_lost(it: Case) -> None:
    it.edit_run("run-3", state="SUCCEEDED")


def a_result_is_lost(it: Case) -> None:
    at = it.first(Settled)
    lease = it.seen[at].lease  # type: ignore[union-attr]
    it.change(at, lease=(*lease[:2], 7))


def a_shown_event_is_gone(it: Case) -> None:
    it.edit_events("run-1", lambda events: events.pop())


def a_watcher_saw_a_gap(it: Case) -> None:
    at = it.first(Watched)
    events = it.seen[at].events  # type: ignore[union-attr]
    it.change(at, events=(events[0], *events[2:]))


def an_acknowledged_run_cannot_be_read(it: Case) -> None:
    it.seen.append(
        Read(actor="client", tenant="alpha", run_id="run-1", at=1.0, outcome="NOT_FOUND")
    )


def a_request_became_two_runs(it: Case) -> None:
    it.edit_run("run-3", request_id="request-run-1")


def a_repeated_request_got_another_answer(it: Case) -> None:
    it.change(it.first(Started) + 1, run_id="run-3", workflow="narrow")


def a_result_was_applied_twice(it: Case) -> None:
    it.change(it.first(Settled) + 1, verdict="APPLIED")


def a_result_was_written_twice(it: Case) -> None:
    def again(events: list[StoredEvent]) -> None:
        done = next(event for event in events if event.kind == "task.succeeded")
        events.append(done._replace(sequence=len(events) + 1))

    it.edit_events("run-1", again)


def a_tenant_had_too_many(it: Case) -> None:
    it.write(tenants={**it.record.tenants, "alpha": 1})


def a_workflow_had_too_many(it: Case) -> None:
    flows = dict(it.record.workflows)
    flows["alpha", "wide", 1] = replace(flows["alpha", "wide", 1], max_leases=1)
    it.write(workflows=flows)


def an_agent_had_too_many(it: Case) -> None:
    it.write(agents={"one": 0, "two": 1})


def two_leases_of_a_task_at_once(it: Case) -> None:
    at = it.first(Granted)
    grant = it.seen[at]
    assert isinstance(grant, Granted)
    run_id, task, term = grant.lease
    # The log says nothing of it, but two agents were told.
    it.seen.insert(at, replace(grant, agent="two", lease=(run_id, task, term + 5)))


def a_task_began_too_early(it: Case) -> None:
    def earlier(events: list[StoredEvent]) -> None:
        early = next(event for event in events if event.task == "last")
        events.remove(early)
        events.insert(1, early)
        events[:] = [one._replace(sequence=at) for at, one in enumerate(events, start=1)]

    it.edit_events("run-1", earlier)


def a_task_was_handed_out_too_early(it: Case) -> None:
    at = next(
        at for at, one in enumerate(it.seen) if isinstance(one, Granted) and one.lease[1] == "last"
    )
    it.change(at, received=0.0)


def a_run_ended_before_its_tasks(it: Case) -> None:
    def sooner(events: list[StoredEvent]) -> None:
        del events[-2]
        events[-1] = events[-1]._replace(sequence=len(events))

    it.edit_events("run-1", sooner)


def something_followed_the_end(it: Case) -> None:
    it.edit_events(
        "run-1", lambda events: events.append(StoredEvent(len(events) + 1, "task.leased", "x", 1))
    )


def a_change_has_no_evidence(it: Case) -> None:
    it.edit_log("alpha", lambda log: log.__setitem__(0, replace(log[0], items=())))


def a_change_has_two_pieces_of_evidence(it: Case) -> None:
    it.edit_log("alpha", lambda log: log.append(replace(log[0], index=len(log))))


def the_evidence_says_something_else(it: Case) -> None:
    other = replace(it.record.logs["alpha"][0].items[0], kind="run.cancelled")
    it.edit_log("alpha", lambda log: log.__setitem__(0, replace(log[0], items=(other,))))


def there_is_evidence_of_nothing(it: Case) -> None:
    more = replace(it.record.logs["alpha"][0].items[0], sequence=99)
    entry = history.Entry(index=99, kind="lease.settle", items=(more,))
    it.edit_log("alpha", lambda log: log.append(entry))


def evidence_lies_in_a_foreign_log(it: Case) -> None:
    entry = it.record.logs["alpha"][0]
    it.edit_log("alpha", lambda log: log.pop(0))
    it.edit_log("beta", lambda log: log.append(entry))


def the_audit_found_something(it: Case) -> None:
    it.write(audit=("entry 3 of alpha is missing",))


def a_foreign_run_was_shown(it: Case) -> None:
    it.change(it.first(Shown), names=(("RUN", "run-2"),))


def a_foreign_tenant_was_named(it: Case) -> None:
    it.change(it.first(Shown), names=(("TENANT", "beta"),))


def a_foreign_key_was_shown(it: Case) -> None:
    it.change(it.first(Shown), names=(("API_KEY", "key-beta"),))


def a_run_never_ended(it: Case) -> None:
    it.edit_run("run-2", state="RUNNING")


WRONG = {
    kept.acknowledged_is_kept: [
        a_run_is_lost,
        a_run_is_another_tenants,
        a_cancellation_is_lost,
        a_result_is_lost,
        a_shown_event_is_gone,
        a_watcher_saw_a_gap,
        an_acknowledged_run_cannot_be_read,
    ],
    kept.a_request_is_one_run: [
        a_request_became_two_runs,
        a_repeated_request_got_another_answer,
    ],
    kept.one_result_per_term: [a_result_was_applied_twice, a_result_was_written_twice],
    limits.limits_hold: [a_tenant_had_too_many, a_workflow_had_too_many, an_agent_had_too_many],
    spans.limits_hold_as_seen: [
        a_tenant_had_too_many,
        a_workflow_had_too_many,
        an_agent_had_too_many,
        two_leases_of_a_task_at_once,
    ],
    order.graphs_are_followed: [
        a_task_began_too_early,
        a_task_was_handed_out_too_early,
        a_run_ended_before_its_tasks,
        something_followed_the_end,
    ],
    evidence.evidence_is_whole: [
        a_change_has_no_evidence,
        a_change_has_two_pieces_of_evidence,
        the_evidence_says_something_else,
        there_is_evidence_of_nothing,
        evidence_lies_in_a_foreign_log,
        the_audit_found_something,
    ],
    evidence.nothing_foreign_is_shown: [
        a_foreign_run_was_shown,
        a_foreign_tenant_was_named,
        a_foreign_key_was_shown,
    ],
    healing.every_run_ends_or_waits: [a_run_never_ended],
}


def test_the_case_is_right_before_it_is_made_wrong() -> None:
    it = case()
    assert checker.check(it.seen, it.record) == []


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        pytest.param(rule, spoil, id=f"{rule.__name__}-{spoil.__name__}")
        for rule, spoils in WRONG.items()
        for spoil in spoils
    ],
)
def test_a_rule_finds_what_breaks_it(rule: checker.Rule, spoil: Callable[[Case], None]) -> None:
    it = case()
    spoil(it)
    assert list(rule(it.seen, it.record))


def test_a_lease_whose_time_may_be_over_is_given_the_benefit_of_the_doubt() -> None:
    """A renewal that nobody answered keeps nothing for certain."""
    it = case()
    at = it.first(Granted)
    grant = it.seen[at]
    assert isinstance(grant, Granted)
    it.change(at, received=grant.granted + grant.accept_seconds)
    spans = certain_spans([one for one in it.seen if isinstance(one, Granted)], it.record)
    assert grant.lease not in {span.lease for span in spans}


def test_a_lease_that_the_coordinator_ended_is_not_certain_to_its_agent() -> None:
    """The attempt took too long, or was settled by hand, whatever was answered before."""
    it = case()
    at = it.first(Granted)
    grant = it.seen[at]
    assert isinstance(grant, Granted)
    (span,) = [one for one in certain_spans(it.seen, it.record) if one.lease == grant.lease]
    soon = span.end - grant.granted - 0.05

    def sooner(events: list[StoredEvent]) -> None:
        begun = next(event for event in events if event.kind == "task.leased")
        ended = next(event for event in events if event.kind == "task.succeeded")
        events[events.index(ended)] = ended._replace(at=begun.at + soon)

    it.edit_events(grant.lease[0], sooner)
    (shorter,) = [one for one in certain_spans(it.seen, it.record) if one.lease == grant.lease]
    assert shorter.end < span.end


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    it = case()
    written = history.History(tmp_path / "history.jsonl")
    for one in it.seen:
        written.add(one)
    written.close()
    assert history.read(tmp_path / "history.jsonl") == it.seen
