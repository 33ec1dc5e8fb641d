"""What operators do to a run comes out the same, whatever happens before and behind it.

Each verb is tried on a run that rests, on one that was read back, and then the run is played on:
with a restart or a pause at each step in turn, with lost agents, failing attempts, and a cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.server.core.player import Player
from tests.server.core.world import LEASE_US, World, flow, json_payload, task
from tests.server.feature_table import waits
from tests.server.features import BROKEN, TWICE, Feature

from tenure_server.core import errors
from tenure_server.core.definitions.features import ForEach, SignalWait, TriggerRule
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState, Verdict
from tenure_server.core.runs.live import LiveRun

Act = Callable[[Player, LiveRun], object]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something that is done to a run, and how the run then ends."""

    name: str
    act: Act
    #: What goes before; the run is then as far as it comes by itself, unless something is said.
    prepare: Callable[[Player], object] = Player.play
    #: Whether it opens a run again that has ended.
    reopens: bool = False
    state: RunState = RunState.SUCCEEDED
    reason: str = ""
    #: Of all tasks; those that are not named succeed.
    states: Mapping[str, str] = field(default_factory=dict)
    #: What the last attempt of a task was given.
    inputs: Mapping[str, Any] = field(default_factory=dict)


FLOW = flow(
    task("first"),
    task("stuck", "first", kind="nobody"),
    task("behind", "stuck", bindings={"by": "tasks.stuck.output.by"}),
    task("none", "stuck", trigger=TriggerRule.NONE_FAILED),
    task("any", "stuck", trigger=TriggerRule.ANY_FAILED),
    waits("asked", wait=SignalWait(name="never-sent")),
    task("each", for_each=ForEach(items="[1, 2]", failures_max=1), retry=TWICE),
    task("bad", "each"),
    name="verbs",
)
#: Its last task fails the first time that it is executed.
FEATURE = Feature(name="verbs", definition=FLOW, ends={"bad": [BROKEN]})
BROKEN_ONCE = Failure("BUSY")
HAND = Success(json_payload({"by": "hand"}))


def _desk(player: Player) -> Any:
    return player.world.desk.interventions


def _index(run: LiveRun, key: str) -> int:
    return run.graph.index[key]


def skip(key: str) -> Act:
    """Skips a task, and the one that waits for the world, so that the run can end."""

    def act(player: Player, run: LiveRun) -> None:
        for one in (key, "asked"):
            _desk(player).skip(run, _index(run, one), "not today", player.world.now_us)

    return act


def settle(end: Success | Failure) -> Act:
    """Settles both by hand."""

    def act(player: Player, run: LiveRun) -> None:
        for one in ("stuck", "asked"):
            _desk(player).settle(run, _index(run, one), end, "by phone", player.world.now_us)

    return act


def close(player: Player, run: LiveRun) -> None:
    """Ends the run at once."""
    _desk(player).close(run, "stuck", player.world.now_us)
    player.hands.clear()


def finish(player: Player) -> None:
    """Plays to the end, in which the last task fails: what hung is done by hand."""
    player.play()
    settle(HAND)(player, player.world.desk.runs[player.runs[0]])
    player.play()


def again(*keys: str, rest: bool = False) -> Act:
    """Executes tasks and what depends on them again; without keys what has failed."""
    return lambda player, run: player.world.execute_again(run, *keys, pause=rest)


_BAD = {"bad": "FAILED"}
_FAILED: dict[str, Any] = {"state": RunState.FAILED, "reason": "task bad failed: BROKEN"}
_AGAIN: dict[str, Any] = {"prepare": finish, "reopens": True, "states": {"any": "SKIPPED"}}
VERBS = [
    Verb(
        name="skip",
        act=skip("stuck"),
        states={**_BAD, **dict.fromkeys(("stuck", "behind", "any", "asked"), "SKIPPED")},
        **_FAILED,
    ),
    Verb(
        name="settle",
        act=settle(HAND),
        states={**_BAD, "any": "SKIPPED"},
        inputs={"behind": {"by": "hand"}},
        **_FAILED,
    ),
    Verb(
        name="declare failed",
        act=settle(Failure("WHATEVER")),
        states={
            **dict.fromkeys(("stuck", "asked", "bad"), "FAILED"),
            **dict.fromkeys(("behind", "none"), "UPSTREAM_FAILED"),
        },
        **_FAILED,
    ),
    Verb(
        name="close",
        act=close,
        prepare=Player.step,
        state=RunState.CLOSED,
        reason="stuck",
        states=dict.fromkeys((*(one.key for one in FLOW.tasks), "each[0]", "each[1]"), "CANCELLED"),
    ),
    Verb(name="retry", act=again(), **_AGAIN, inputs={"behind": {"by": "hand"}}),
    Verb(name="rerun", act=again("none", "each"), **_AGAIN),
    Verb(name="rerun an item", act=again("each[1]"), **_AGAIN),
]
verbs = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)


def after(verb: Verb, *, restart: bool = False, rest: bool = False, **how: bool) -> Player:
    """A run to which a verb was done, perhaps one that was read back, or that rested."""
    player = Player(FEATURE, **how)
    verb.prepare(player)
    if restart:
        player.reopen()
    if rest and not verb.reopens:
        pause(player)
    run = player.world.desk.runs.get(player.runs[0]) or player.ended()
    verb.act(player, run)
    player.world.commit()
    return player


def check(verb: Verb, player: Player) -> None:
    """The run has ended as the verb says."""
    player.world.commit()
    run = player.world.tables.run(player.runs[0])
    assert (run.state, run.reason) == (verb.state, verb.reason)
    rows = player.world.tables.tasks_of(run.run_id).values()
    ends = {row.task_key: row.state.name for row in rows}
    assert ends == {key: verb.states.get(key, "SUCCEEDED") for key in ends}
    assert verb.states.keys() <= ends.keys()
    assert {key: player.inputs[key] for key in verb.inputs} == verb.inputs
    player.check_nothing_is_left()


def pause(player: Player) -> None:
    """Pauses the run."""
    for run_id in player.open_runs():
        _desk(player).pause(player.world.desk.runs[run_id], "a walk", player.world.now_us)


def resume(player: Player) -> None:
    """Lets it go on."""
    for run_id in player.open_runs():
        _desk(player).resume(player.world.desk.runs[run_id], "", player.world.now_us)


@verbs
def test_a_verb_does_what_it_says(verb: Verb) -> None:
    player = after(verb)
    player.play()
    check(verb, player)


@verbs
def test_restarts_before_and_behind_it_change_nothing(verb: Verb) -> None:
    steps = after(verb).play()
    for step in range(steps + 1):
        player = after(verb, restart=True)
        player.play(player.reopen, at=step)
        check(verb, player)


@verbs
def test_agents_that_are_lost_change_nothing_of_it(verb: Verb) -> None:
    player = after(verb, lossy=True)
    player.play()
    check(verb, player)


@verbs
def test_attempts_that_fail_are_tried_again(verb: Verb) -> None:
    player = after(verb, flaky=True)
    player.play()
    check(verb, player)


@verbs
def test_it_is_done_to_a_run_that_rests_too(verb: Verb) -> None:
    player = after(verb, rest=True)
    assert verb.reopens or verb.state is RunState.CLOSED or player.take() is False
    resume(player)
    player.play()
    check(verb, player)


def test_a_run_that_is_opened_again_may_rest_at_first() -> None:
    player = Player(FEATURE)
    finish(player)
    again(rest=True)(player, player.ended())
    assert player.take() is False
    resume(player)
    assert player.take() is True


@verbs
def test_a_pause_behind_it_only_holds_up(verb: Verb) -> None:
    steps = after(verb).play()
    for step in range(steps):
        player = after(verb)
        player.play(lambda: _rest(player), at=step)  # noqa: B023 - called at once
        check(verb, player)


def _rest(player: Player) -> None:
    """Pauses, restarts, and lets go on."""
    pause(player)
    player.reopen()
    resume(player)


@verbs
def test_a_cancel_behind_it_ends_the_run(verb: Verb) -> None:
    steps = after(verb).play()
    for step in range(steps):
        player = after(verb)
        player.play(lambda: _cancel(player), at=step)  # noqa: B023 - called at once
        assert player.world.tables.run(player.runs[0]).state is RunState.CANCELLED
        player.check_nothing_is_left()


def _cancel(player: Player) -> None:
    run = player.world.desk.runs[player.runs[0]]
    player.world.desk.cancel_run(run, "enough", player.world.now_us)


@pytest.mark.parametrize(
    "act", [skip("stuck"), settle(HAND), again("first")], ids=["skip", "settle", "rerun"]
)
def test_nothing_of_a_run_that_is_being_cancelled_is_changed(act: Act) -> None:
    player = Player(FEATURE)
    player.step()
    _cancel(player)
    run = player.world.desk.runs[player.runs[0]]
    assert run.state is RunState.CANCELLING
    states = list(run.states)
    with pytest.raises(errors.RunStands):
        act(player, run)
    assert list(run.states) == states
    assert states.count(TaskState.LEASED)


@pytest.mark.parametrize("how", ["skip", "settle"])
@pytest.mark.parametrize("trouble", ["retrying", "lost"])
def test_a_task_is_skipped_or_settled_while_it_waits_for_another_agent(
    trouble: str, how: str
) -> None:
    world = World()
    run = world.start(task("a", retry=TWICE), task("b", "a"))
    lease = world.hold_one()
    if trouble == "retrying":
        world.settle(lease, BROKEN_ONCE)
    else:
        world.wait(LEASE_US)
    interventions = world.desk.interventions
    if how == "skip":
        interventions.skip(run, 0, "not today", world.now_us)
        assert world.states(run) == {"a": "SKIPPED", "b": "SKIPPED"}
    else:
        interventions.settle(run, 0, HAND, "by phone", world.now_us)
        assert world.states(run) == {"a": "SUCCEEDED", "b": "READY"}
    # What its agent says now comes too late.
    assert world.verdict(lease) is not Verdict.APPLIED
    world.wait(2 * LEASE_US)
    assert world.states(run)["a"] == ("SKIPPED" if how == "skip" else "SUCCEEDED")
