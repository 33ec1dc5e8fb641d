"""Each feature comes out as it must, whatever happens meanwhile, at every point of its course.

Every feature of `tests/server/features.py` is played to its end: by itself, with a restart, a pause
or a cancel at each step in turn, with every agent lost once, and with every attempt failed once.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.server.core.player import Player, json_of
from tests.server.core.world import json_payload
from tests.server.feature_table import FEATURES
from tests.server.features import Feature

from tenure_server.core.desks import pauses
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.core.runs import extensions
from tenure_server.core.seeing.hindrances import explain, idle
from tenure_server.core.seeing.side_by_side import RunDifference, Side, TaskDifference, compare

features = pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)


def played(feature: Feature) -> Player:
    """A feature that was played without any disturbance."""
    player = Player(feature)
    player.play()
    return player


def check_expected(feature: Feature, player: Player) -> None:
    """What the table says of it holds."""
    shown = player.outcome()
    tables = player.world.tables
    for run_id in player.runs:
        run = tables.run(run_id)
        assert (run.state, run.reason) == (feature.state, feature.reason)
        assert json_of(run.output) == feature.output
    ends = {key: end for run in shown for key, end in run["tasks"].items()}
    assert {key: end[0] for key, end in ends.items()} == {
        key: feature.states.get(key, "SUCCEEDED") for key in ends
    }
    assert feature.states.keys() <= ends.keys()
    assert {key: ends[key][3] for key in feature.outputs} == feature.outputs
    assert {key: player.inputs[key] for key in feature.inputs} == feature.inputs
    begun = player.begun()
    assert tuple(dict.fromkeys(key for key, _ in begun)) == feature.order or not feature.order
    if feature.rate is not None:
        count, per_us = feature.rate
        times = [at_us for _, at_us in begun]
        assert all(later - at >= per_us for at, later in zip(times, times[count:], strict=False))
    player.check_nothing_is_left()


@features
def test_a_feature_does_what_it_says(feature: Feature) -> None:
    player = played(feature)
    check_expected(feature, player)
    for key, value in feature.saves.items():
        assert player.found[key] == [None, json_payload(value)]


@features
def test_a_restart_at_any_step_changes_nothing(feature: Feature) -> None:
    plain = played(feature)
    steps = Player(feature).play()
    for step in range(steps + 1):
        player = Player(feature)
        player.play(player.reopen, at=step)
        assert player.outcome() == plain.outcome()
        check_expected(feature, player)


@features
def test_restarts_after_every_step_change_nothing(feature: Feature) -> None:
    player = Player(feature)
    while player.step():
        # After a restart each rate counts as used up: so something must be leased in between.
        if feature.rate is None or player.hands:
            player.reopen()
    player.world.commit()
    assert player.outcome() == played(feature).outcome()
    check_expected(feature, player)


@features
def test_agents_that_are_lost_cost_nothing(feature: Feature) -> None:
    player = Player(feature, lossy=True)
    player.play()
    assert player.outcome() == played(feature).outcome(), "no attempt either"
    assert (EventKind.TASK_LEASE_LOST in player.kinds()) == bool(player.inputs)
    check_expected(feature, player)


@features
def test_attempts_that_fail_are_tried_again(feature: Feature) -> None:
    player = Player(feature, flaky=True)
    player.play()
    check_expected(feature, player)
    assert (EventKind.TASK_RETRYING in player.kinds()) == bool(player.inputs)


@features
@pytest.mark.parametrize("what", ["run", "workflow", "tenant"])
def test_a_pause_at_any_step_only_holds_up(feature: Feature, what: str) -> None:
    plain = played(feature)
    steps = Player(feature).play()
    for step in range(steps):
        player = Player(feature)
        player.play(lambda: _hold_up(player, what), at=step)  # noqa: B023 - called at once
        assert player.outcome() == plain.outcome()
        check_expected(feature, player)


def _hold_up(player: Player, what: str) -> None:
    """Pauses, lets happen what can all the same, restarts, and lets go on."""
    world, name = player.world, "" if what == "tenant" else player.feature.definition.name
    paused = {name: records.Pause(workflow=name, reason="", pause_us=0, paused_by="")}
    if what == "run":
        for run_id in player.open_runs():
            world.desk.interventions.pause(world.desk.runs[run_id], "a walk", world.now_us)
    else:
        pauses.take(world.desk, paused, world.now_us)
    world.commit()
    known = len(world.tables.runs)
    while player.settle() or player.bear() or player.speak():
        pass
    player.take()
    # A run of a run that had begun goes on, unless all of the tenant rests.
    assert all(lease.run.run_id not in player.runs for lease in player.hands)
    assert what != "tenant" or not player.hands
    player.reopen()
    assert len(world.tables.runs) == known, "no run of a run begins"
    if what == "run":
        for run_id in player.open_runs():
            world.desk.interventions.resume(world.desk.runs[run_id], "", world.now_us)
    else:
        # Read back with the seat, as the engine does.
        world.desk.pauses = paused
        pauses.take(world.desk, {}, world.now_us)


@features
@pytest.mark.parametrize("restart", [False, True], ids=["in memory", "after a restart"])
def test_a_cancel_at_any_step_ends_all_of_it(feature: Feature, restart: bool) -> None:
    steps = Player(feature).play()
    for step in range(steps):
        player = Player(feature)
        player.play(lambda: _cancel(player, restart), at=step)  # noqa: B023 - called at once
        ended = {player.world.tables.run(run_id).state for run_id in player.runs}
        assert ended <= {RunState.CANCELLED, RunState.SUCCEEDED, RunState.FAILED}
        player.check_nothing_is_left()


def _cancel(player: Player, restart: bool) -> None:
    """Cancels all open runs; what agents have is told to stop, and nothing begins any more."""
    world = player.world
    mine = player.open_runs()
    for run_id in mine:
        world.desk.cancel_run(world.desk.runs[run_id], "enough", world.now_us)
    assert all(lease.cancelling for lease in world.desk.leases.values())
    if restart:
        player.reopen()
    assert world.grant(player.agent()) == []
    while player.settle():
        pass
    world.commit()
    assert not world.desk.runs
    assert {world.tables.run(run_id).state for run_id in mine} <= {RunState.CANCELLED}


@features
@pytest.mark.parametrize("trouble", ["none", "restarts", "losses", "failures"])
def test_every_task_that_does_not_run_says_why_at_every_step(
    feature: Feature, trouble: str
) -> None:
    player = Player(feature, lossy=trouble == "losses", flaky=trouble == "failures")
    looked = 0
    while player.step():
        if trouble == "restarts" and (feature.rate is None or player.hands):
            player.reopen()
        looked += _check_reasons(player)
    assert looked


def _check_reasons(player: Player) -> int:
    """Each task that is not leased and has not ended has a reason; of the others none has one."""
    desk, agents = player.world.desk, [player.agent()]
    looked = 0
    for run in desk.runs.values():
        for one in explain(desk, run, range(len(run.states)), agents, player.world.now_us):
            assert bool(one.hindrances) == (one.index in idle(run))
            looked += bool(one.hindrances)
    return looked


@features
def test_what_went_wrong_on_the_way_is_all_in_which_runs_differ(feature: Feature) -> None:
    plain, restarted, flaky = played(feature), Player(feature), Player(feature, flaky=True)
    restarted.play(restarted.reopen, at=2)
    flaky.play()
    for mine, same, other in zip(plain.runs, restarted.runs, flaky.runs, strict=True):
        left = _side(plain, mine)
        assert compare(left, _side(restarted, same)).differing == []
        found = compare(left, _side(flaky, other))
        # With another attempt for each task it is another definition.
        assert set(found.differences) <= {RunDifference.DEFINITION}
        allowed = {TaskDifference.ATTEMPTS, TaskDifference.DEFINITION}
        assert all(set(pair.differences) <= allowed for pair in found.differing)


def _side(player: Player, run_id: str) -> Side:
    """A run with what became of its tasks, as the store has it."""
    run = player.world.tables.run(run_id)
    definition = player.world.tables.definitions[run.workflow_digest]
    shape = extensions.shape_of(definition, definition.check(), run.detail)
    rows = player.world.tables.tasks_of(run_id)
    waiting = TaskState.WAITING
    states = [rows[n].state if n in rows else waiting for n in range(len(shape.tasks))]
    return Side(replace(run, labels={}), "", shape, states, rows)
