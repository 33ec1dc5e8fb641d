"""Histories that are wrong on purpose in what workflows declare: each rule finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.chaos import checker, clocks, tale, test_checker
from tests.chaos.history import (
    Asked,
    Entry,
    Explained,
    Happening,
    Hindrance,
    Observation,
    Record,
    StoredEvent,
)
from tests.chaos.rules import (
    families,
    healing,
    kept,
    limits,
    lists,
    order,
    schedules,
    undoing,
    waits,
)

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import Concurrency, Rate, TriggerRule
from tenure_server.core.scheduling.fire_times import SECOND_US
from tenure_server.core.scheduling.schedules import (
    MISSED_COUNT_MAX,
    FireLine,
    Outcome,
    Overlap,
)

NAME = (tale.TENANT, "often")


@dataclass
class Case:
    """The tale, to be made wrong."""

    seen: list[Observation]
    record: Record

    def write(self, **words: Any) -> None:
        """Changes the record."""
        self.record = replace(self.record, **words)

    def edit_run(self, run_id: str, **words: Any) -> None:
        """Changes a stored run."""
        runs = dict(self.record.runs)
        runs[run_id] = replace(runs[run_id], **words)
        self.write(runs=runs)

    def edit_task(self, workflow: str, key: str, **words: Any) -> None:
        """Declares a task otherwise."""
        name = (tale.TENANT, workflow, 1)
        flow = self.record.workflows[name]
        tasks = tuple(replace(one, **words) if one.key == key else one for one in flow.tasks)
        self.edit_flow(name, replace(flow, tasks=tasks))

    def edit_flow(self, name: tuple[str, str, int], flow: WorkflowDefinition) -> None:
        """Declares a workflow otherwise."""
        self.write(workflows={**self.record.workflows, name: flow})

    def edit(self, run_id: str, change: Callable[[list[StoredEvent]], object]) -> None:
        """Changes the events of a run, and numbers them anew."""
        events = list(self.record.events[run_id])
        change(events)
        numbered = [one._replace(sequence=at) for at, one in enumerate(events, start=1)]
        self.write(events={**self.record.events, run_id: tuple(numbered)})

    def change(self, run_id: str, kind: str, key: str, /, **words: Any) -> None:
        """Changes the last event of a kind."""

        def otherwise(events: list[StoredEvent]) -> None:
            at = _last(events, kind, key)
            events[at] = events[at]._replace(**words)

        self.edit(run_id, otherwise)

    def drop(self, run_id: str, kind: str, key: str = "") -> None:
        """Leaves an event out."""
        self.edit(run_id, lambda events: events.pop(_last(events, kind, key)))

    def move(self, run_id: str, kind: str, key: str, before: str, of: str = "") -> None:
        """Puts an event before another one."""

        def moved(events: list[StoredEvent]) -> None:
            event = events.pop(_last(events, kind, key))
            events.insert(_last(events, before, of), event)

        self.edit(run_id, moved)

    def edit_log(self, change: Callable[[Entry], Entry]) -> None:
        """Changes every entry of the log."""
        log = tuple(change(entry) for entry in self.record.logs[tale.TENANT])
        self.write(logs={tale.TENANT: log})

    def edit_items(self, run_id: str, kind: str, key: str, /, **words: Any) -> None:
        """Changes what the evidence says of an event."""
        self.edit_log(
            lambda entry: replace(
                entry,
                items=tuple(
                    replace(item, **words)
                    if (item.run_id, item.kind, item.task) == (run_id, kind, key)
                    else item
                    for item in entry.items
                ),
            )
        )

    def asked(self, verb: str, **words: Any) -> None:
        """Changes what somebody asked for first."""
        at = next(
            at for at, one in enumerate(self.seen) if isinstance(one, Asked) and one.verb == verb
        )
        one = self.seen[at]
        assert isinstance(one, Asked)
        self.seen[at] = replace(one, **words)

    def edit_lines(self, change: Callable[[list[FireLine]], object]) -> None:
        """Changes the history of the schedule."""
        stored = self.record.schedules[NAME]
        lines = list(stored.lines)
        change(lines)
        self.write(schedules={NAME: replace(stored, lines=tuple(lines))})

    def explain(self, run_id: str, **tasks: tuple[Hindrance, ...]) -> None:
        """Explains a run otherwise."""
        self.seen = [
            one for one in self.seen if not (isinstance(one, Explained) and one.run_id == run_id)
        ]
        explained = Explained(actor="", tenant=tale.TENANT, run_id=run_id, at=0.0, tasks=tasks)
        self.seen.append(explained)


def _last(events: list[StoredEvent], kind: str, key: str) -> int:
    return max(at for at, one in enumerate(events) if (one.kind, one.task) == (kind, key))


def case() -> Case:
    """All of it, right."""
    right = tale.told()
    return Case(list(right.seen), right.record())


# -- lists


def more_items_at_once(it: Case) -> None:
    it.move("list", "task.leased", "each[2]", "task.succeeded", "each[0]")


def more_items_than_there_may_be(it: Case) -> None:
    it.change("list", "task.activated", "each", message="4 items")


def an_item_that_is_not_in_the_list(it: Case) -> None:
    it.change("list", "task.activated", "each", message="2 items")


def an_item_that_began_when_its_list_had_failed(it: Case) -> None:
    each = it.record.workflows[tale.TENANT, "list", 1].tasks[0].for_each
    assert each is not None
    it.edit_task("list", "each", for_each=replace(each, failures_max=0))
    it.move("list", "task.failed", "each[1]", "task.leased", "each[2]")


def a_list_that_succeeded_before_its_items(it: Case) -> None:
    it.move("list", "task.succeeded", "each", "task.succeeded", "each[2]")


def a_list_in_another_order(it: Case) -> None:
    each = replace(it.record.tasks["list", "each"], output=["c", None, "a"])
    it.write(tasks={**it.record.tasks, ("list", "each"): each})


# -- order


def a_task_began_though_its_trigger_did_not_hold(it: Case) -> None:
    it.edit_task("branches", "rescue", trigger=TriggerRule.NONE_FAILED)


def a_task_was_given_up_for_no_reason(it: Case) -> None:
    it.edit_task("branches", "both", trigger=TriggerRule.ALL_DONE)


def a_task_was_skipped_for_no_reason(it: Case) -> None:
    it.edit_task("branches", "never", trigger=TriggerRule.ALL_DONE)


def a_task_was_cancelled_alone(it: Case) -> None:
    it.change("branches", "task.upstream_failed", "both", kind="task.cancelled")


def a_task_began_while_its_run_was_paused(it: Case) -> None:
    it.move("branches", "run.resumed", "", "task.succeeded", "rescue")


def a_run_succeeded_though_a_task_had_failed(it: Case) -> None:
    it.change("branches", "run.failed", "", kind="run.succeeded")


def an_item_began_before_its_list(it: Case) -> None:
    it.move("list", "task.leased", "each[0]", "task.activated", "each")


def a_task_began_again_after_its_end(it: Case) -> None:
    it.drop("again", "task.reopened", "b")


# -- what undoes


def it_was_undone_in_the_order_in_which_it_was_done(it: Case) -> None:
    def swapped(events: list[StoredEvent]) -> None:
        other = {"pay~undo": "book~undo", "book~undo": "pay~undo"}
        events[:] = [one._replace(task=other.get(one.task, one.task)) for one in events]

    it.edit("saga", swapped)


def something_was_not_undone(it: Case) -> None:
    it.drop("saga", "task.leased", "book~undo")
    it.drop("saga", "task.succeeded", "book~undo")


def nothing_was_undone(it: Case) -> None:
    def none(events: list[StoredEvent]) -> None:
        events[:] = [one for one in events if "~" not in one.task and "comp" not in one.kind]

    it.edit("saga", none)


def two_were_undone_at_once(it: Case) -> None:
    it.move("saga", "task.leased", "book~undo", "task.succeeded", "pay~undo")


def what_had_failed_was_undone(it: Case) -> None:
    it.edit_task("saga", "ship", compensation=tale.UNDO)
    it.change("saga", "task.leased", "~on_failure", task="ship~undo")


# -- keys


def a_key_had_too_many_leases(it: Case) -> None:
    it.edit_items("first", "task.lease_returned", "work", kind="task.checkpointed")


def a_rate_was_not_kept(it: Case) -> None:
    it.edit_task("keyed", "work", rate=Rate(count=1, per_us=10_000_000, key=tale.KEY))


def a_key_had_too_many_runs(it: Case) -> None:
    name = (tale.TENANT, "keyed", 1)
    narrow = Concurrency(limit=1, key=tale.KEY)
    it.edit_flow(name, replace(it.record.workflows[name], concurrency=narrow))


def a_heavy_task_took_more_than_there_was(it: Case) -> None:
    it.edit_task("keyed", "work", weight=20)


# -- waits


def a_signal_is_lost(it: Case) -> None:
    it.edit_run("waits", signals={})


def a_signal_came_twice(it: Case) -> None:
    it.edit_run("waits", signals={"go": ["third", "first"]})


def a_signal_went_to_another_run(it: Case) -> None:
    it.asked("run.signal", run_id="again")


def signals_came_in_another_order(it: Case) -> None:
    it.edit_items("waits", "task.succeeded", "one", output="second")
    it.edit_items("waits", "task.succeeded", "two", output="first")


def an_event_was_taken_by_fewer_than_was_said(it: Case) -> None:
    it.asked("event.publish", served=2)


def an_event_was_taken_twice(it: Case) -> None:
    log = it.record.logs[tale.TENANT]
    again = next(entry for entry in log if entry.kind == "event.publish")
    it.write(logs={tale.TENANT: (*log, replace(again, index=len(log)))})


def an_event_started_another_number_of_runs(it: Case) -> None:
    it.edit_run("again", input={"event": "token"})


def the_run_of_an_event_is_not_there(it: Case) -> None:
    it.asked("event.publish", started=("nowhere",))


def somebody_consented_twice(it: Case) -> None:
    it.change("waits", "task.decided", "asked", message="ann consents")


def a_task_ended_without_consent(it: Case) -> None:
    it.drop("waits", "task.decided", "asked")


def a_rejected_task_succeeded(it: Case) -> None:
    it.change("waits", "task.decided", "asked", message="bob rejects")


def a_timer_came_early(it: Case) -> None:
    begun = it.record.events["waits"][0].at
    it.change("waits", "task.succeeded", "nap", at=begun + 4.9)


def an_attempt_timed_out_early(it: Case) -> None:
    it.change("branches", "task.failed", "a", at=it.record.events["branches"][0].at + 1)


def a_wait_was_in_vain_early(it: Case) -> None:
    late = {"kind": "task.failed", "code": "WAIT_TIMED_OUT"}
    it.change("waits", "task.succeeded", "news", **late)


# -- runs within runs


def a_run_was_started_twice_for_one_want(it: Case) -> None:
    it.drop("parent", "task.activated", "call")


def a_run_is_for_one_that_is_not_there(it: Case) -> None:
    it.edit_run("lost", parent="nowhere")


def a_run_is_of_another_workflow_than_was_wanted(it: Case) -> None:
    it.edit_run("lost", workflow="tick")


def a_run_goes_on_though_its_parent_has_ended(it: Case) -> None:
    it.edit_run("lost", state="RUNNING")


def a_task_came_to_something_else_than_its_run(it: Case) -> None:
    it.edit_run("kept", output={"a": 2})


def two_runs_of_a_task_at_once(it: Case) -> None:
    it.edit_items("lost", "run.failed", "", kind="run.paused")


# -- what was asked


def a_change_was_acknowledged_and_not_made(it: Case) -> None:
    it.asked("task.skip", task="b")


def a_change_was_made_twice(it: Case) -> None:
    """Opened again by two acts, though nobody asked for the second one."""
    log = it.record.logs[tale.TENANT]
    act = next(entry for entry in log if entry.kind == "run.reopen")
    it.write(logs={tale.TENANT: (*log, replace(act, index=len(log)))})

    def again(events: list[StoredEvent]) -> None:
        events.append(events[_last(events, "run.reopened", "")]._replace(entry=len(log)))

    it.edit("again", again)


# -- schedules


def a_time_was_left_out(it: Case) -> None:
    it.edit_lines(lambda lines: lines.__setitem__(2, replace(lines[2], nominal_us=1)))


def a_time_was_decided_twice(it: Case) -> None:
    again = Outcome.SKIPPED
    it.edit_lines(lambda lines: lines.append(replace(lines[0], number=7, outcome=again)))


def a_line_is_missing(it: Case) -> None:
    it.edit_lines(lambda lines: lines.pop(4))


def a_run_of_a_time_is_not_there(it: Case) -> None:
    runs = {run_id: one for run_id, one in it.record.runs.items() if run_id != "tick-10"}
    it.write(runs=runs)


def two_runs_of_one_time(it: Case) -> None:
    it.write(runs={**it.record.runs, "another": it.record.runs["tick-10"]})


def a_run_is_of_another_time(it: Case) -> None:
    labels = {**it.record.runs["tick-0"].labels, "tenure.scheduled_at": "2023-11-14T22:30:10Z"}
    it.edit_run("tick-0", labels=labels)


def what_waits_is_forgotten(it: Case) -> None:
    stored = it.record.schedules[NAME]
    forgotten = replace(stored, standing=replace(stored.standing, waiting=()))
    it.write(schedules={NAME: forgotten})


def a_schedule_began_beside_its_open_run(it: Case) -> None:
    it.edit_items("tick-0", "run.succeeded", "", kind="run.paused")


# -- healing


def a_run_stands_still_and_nobody_can_say_why(it: Case) -> None:
    it.seen = [one for one in it.seen if not isinstance(one, Explained)]


def a_run_stands_still_behind_others(it: Case) -> None:
    it.explain("guest", stay=(Hindrance(kind="BEHIND_OTHERS"),))


def a_run_waits_for_one_that_does_not_wait(it: Case) -> None:
    it.explain("host", call=(Hindrance(kind="CHILD_RUN", child="kept"),))


def a_task_waits_for_one_that_is_not_told_of(it: Case) -> None:
    it.explain(
        "host",
        call=(Hindrance(kind="CHILD_RUN", child="guest"),),
        b=(Hindrance(kind="TASKS", tasks=("nobody",)),),
    )


WRONG: dict[checker.Rule, list[Callable[[Case], None]]] = {
    lists.items_are_bounded: [
        more_items_at_once,
        more_items_than_there_may_be,
        an_item_that_is_not_in_the_list,
        an_item_that_began_when_its_list_had_failed,
        a_list_that_succeeded_before_its_items,
        a_list_in_another_order,
    ],
    order.graphs_are_followed: [
        a_task_began_though_its_trigger_did_not_hold,
        a_task_was_given_up_for_no_reason,
        a_task_was_skipped_for_no_reason,
        a_task_was_cancelled_alone,
        a_task_began_while_its_run_was_paused,
        a_run_succeeded_though_a_task_had_failed,
        an_item_began_before_its_list,
        a_task_began_again_after_its_end,
    ],
    undoing.undone_in_reverse: [
        it_was_undone_in_the_order_in_which_it_was_done,
        something_was_not_undone,
        nothing_was_undone,
        two_were_undone_at_once,
        what_had_failed_was_undone,
    ],
    limits.limits_hold: [a_heavy_task_took_more_than_there_was],
    limits.keys_hold: [a_key_had_too_many_leases, a_rate_was_not_kept],
    limits.run_keys_hold: [a_key_had_too_many_runs],
    waits.signals_come_once: [
        a_signal_is_lost,
        a_signal_came_twice,
        a_signal_went_to_another_run,
        signals_came_in_another_order,
    ],
    waits.events_come_once: [
        an_event_was_taken_by_fewer_than_was_said,
        an_event_was_taken_twice,
        an_event_started_another_number_of_runs,
        the_run_of_an_event_is_not_there,
    ],
    waits.consent_counts_once: [
        somebody_consented_twice,
        a_task_ended_without_consent,
        a_rejected_task_succeeded,
    ],
    waits.nothing_comes_early: [
        a_timer_came_early,
        an_attempt_timed_out_early,
        a_wait_was_in_vain_early,
    ],
    families.runs_within_runs: [
        a_run_was_started_twice_for_one_want,
        a_run_is_for_one_that_is_not_there,
        a_run_is_of_another_workflow_than_was_wanted,
        a_run_goes_on_though_its_parent_has_ended,
        a_task_came_to_something_else_than_its_run,
        two_runs_of_a_task_at_once,
    ],
    kept.what_was_asked_is_done_once: [
        a_change_was_acknowledged_and_not_made,
        a_change_was_made_twice,
    ],
    schedules.each_time_fires_once: [
        a_time_was_left_out,
        a_time_was_decided_twice,
        a_line_is_missing,
        a_run_of_a_time_is_not_there,
        two_runs_of_one_time,
        a_run_is_of_another_time,
        what_waits_is_forgotten,
    ],
    schedules.overlaps_are_kept: [a_schedule_began_beside_its_open_run],
    healing.every_run_ends_or_waits: [
        a_run_stands_still_and_nobody_can_say_why,
        a_run_stands_still_behind_others,
        a_run_waits_for_one_that_does_not_wait,
        a_task_waits_for_one_that_is_not_told_of,
    ],
}


def test_the_tale_is_right_before_it_is_made_wrong() -> None:
    it = case()
    assert checker.check(it.seen, it.record) == []


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """Here, or among those that any workflow can break."""
    broken = {rule.__name__ for rule in (*WRONG, *test_checker.WRONG)}
    assert broken == set(checker.RULES)


def test_schedules_that_allow_it_begin_beside_their_open_runs() -> None:
    it = case()
    a_schedule_began_beside_its_open_run(it)
    stored = it.record.schedules[NAME]
    it.write(
        schedules={
            NAME: replace(stored, schedule=replace(stored.schedule, overlap=Overlap.ALLOW_ALL))
        }
    )
    assert list(schedules.overlaps_are_kept(it.seen, it.record)) == []


def test_a_rate_is_not_judged_across_a_clock_that_was_set() -> None:
    it = case()
    a_rate_was_not_kept(it)
    [*_, last] = (
        item
        for entry in it.record.logs[tale.TENANT]
        for item in entry.items
        if (item.kind, item.task) == ("task.leased", "work")
    )
    it.edit_items(last.run_id, "task.leased", "work", at=last.at - 2 * clocks.STEP_SECONDS)
    found = list(limits.keys_hold(it.seen, it.record))
    assert not any(last.run_id in one for one in found), found


def test_more_missed_times_than_anybody_counts_are_not_left_out() -> None:
    """As many as a clock makes that is set forward; none that follows them may be."""
    it = case()
    stored = it.record.schedules[NAME]
    lines, standing = list(stored.lines), stored.standing
    late_us = 5 * MISSED_COUNT_MAX * 10 * SECOND_US
    lines[4] = replace(lines[4], times=MISSED_COUNT_MAX)
    lines[5] = replace(lines[5], nominal_us=lines[5].nominal_us + late_us)
    waiting = tuple(
        replace(fire, nominal_us=fire.nominal_us + late_us) for fire in standing.waiting
    )
    standing = replace(standing, cursor_us=standing.cursor_us + late_us, waiting=waiting)
    it.write(schedules={NAME: replace(stored, lines=tuple(lines), standing=standing)})
    assert list(schedules.each_time_fires_once(it.seen, it.record)) == []
    standing = replace(standing, cursor_us=standing.cursor_us + 10 * SECOND_US)
    it.write(schedules={NAME: replace(stored, lines=tuple(lines), standing=standing)})
    assert list(schedules.each_time_fires_once(it.seen, it.record))


@pytest.mark.parametrize(("acts", "wrong"), [(0, True), (1, False)])
def test_an_item_that_is_settled_while_its_list_gives_up_is_cancelled(
    acts: int, wrong: bool
) -> None:
    """And stands before the list, which fails by the same act."""
    asked = Asked(
        actor="a", tenant="t", verb="task.settle", began=1, ended=2, outcome="OK", run_id="r",
        task="each[1]",
    )  # fmt: skip
    left = [
        Happening(run_id="r", sequence=8, kind="task.cancelled", at=1.5, task="each[1]"),
        Happening(run_id="r", sequence=9, kind="task.failed", at=1.5, task="each"),
    ]
    log = [Entry(index=number, kind="task.settle", items=left) for number in range(acts)]
    told = kept.what_was_asked_is_done_once([asked], Record(logs={"t": log}))
    assert bool(list(told)) is wrong


def test_a_clock_that_was_set_back_makes_no_wait_early() -> None:
    it = case()
    before = it.record.events["waits"][0].at - 2 * clocks.STEP_SECONDS
    it.change("waits", "task.succeeded", "nap", at=before + 5)
    assert list(waits.nothing_comes_early(it.seen, it.record)) == []
    it.change("waits", "task.succeeded", "nap", at=before + 4.9)
    assert list(waits.nothing_comes_early(it.seen, it.record))


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
