"""Each feature comes out as it must on both databases, whatever happens meanwhile.

All features of `tests/server/features.py` go on side by side in one tenant, while the coordinator
is restarted again and again, agents are lost, attempts fail, and people pause and cancel. What the
rows say in the end is what the table of features says, and what the log has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests import logbook
from tests.server.core.player import FLAKY, once_more
from tests.server.core.world import LEASE_US, json_payload
from tests.server.engine.conftest import PATIENT, TENANT, House
from tests.server.engine.test_lists import check_record
from tests.server.feature_table import FEATURES
from tests.server.features import DECIDERS, KINDS, LABELS, Feature

from tenure_server.core import errors
from tenure_server.core.definitions.features import Approval, EventWait, SignalWait
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, EventKind, RunState, TaskState
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.sessions import AgentSession
from tenure_server.store.reads import TenantReads

ROUNDS_MAX = 200
SLOTS = 200


class Troupe:
    """Plays all features at once in a house."""

    def __init__(self, house: House, *, lossy: bool = False, flaky: bool = False) -> None:
        self.house = house
        self.hands: list[Lease] = []
        self.features: dict[str, Feature] = {}
        self._lossy, self._flaky = lossy, flaky
        self._lost: set[tuple[str, str, int]] = set()
        self._failed: set[tuple[str, str]] = set()
        self._ended: dict[tuple[str, str], int] = {}

    async def begin(self) -> None:
        """Registers all workflows and starts their runs."""
        await self.house.open()
        await self.house.furnish()
        workflows, origin = self.house.engine.workflows, self.house.origin
        for feature in FEATURES:
            for definition in (feature.definition, *feature.children):
                wanted = once_more(definition) if self._flaky else definition
                await workflows.register(origin, wanted, None)
        for feature in FEATURES:
            given = None if feature.given is None else json_payload(feature.given)
            start = records.StartRun(workflow=feature.name, labels={}, input=given)
            for run in await self.house.engine.start_runs(origin, [start] * feature.runs):
                self.features[run.run_id] = feature
                for name in feature.early:
                    await self.signal(run.run_id, name)
        self.session = self.agent()

    def agent(self) -> AgentSession:
        """Puts the agent on the line."""
        session = self.house.session(slots=SLOTS, kinds=KINDS, labels=LABELS)
        session.add_credits(SLOTS)
        return session

    async def restart(self) -> None:
        """The coordinator ends, and another one takes over."""
        await self.settled()
        self.take()
        await self.house.close()
        await self.house.open()
        await self.house.pass_time(0)
        self.session = self.agent()

    async def round(self) -> bool:
        """Lets happen what can; when nothing can, lets time pass. False: it is over."""
        await self.settled()
        self.take()
        acted = await self.settle_all()
        desk = self.house.engine._floor.desks[TENANT]
        for run in list(desk.runs.values()):
            for index, state in enumerate(run.states):
                if state == TaskState.ACTIVE:
                    acted |= await self._answer(run, index)
        if acted or self.hands:
            return True
        await self.settled()
        desk.dues.forget_idle()
        due_us = desk.dues.next_us()
        if due_us is None:
            return bool(self.session._due.leases)
        await self.house.pass_time(max(0, due_us - self.house.clock.at_us))
        return True

    async def settled(self) -> None:
        """Waits until nothing happens any more by itself."""
        floor = self.house.engine._floor
        offspring: Any = floor.wanted
        while True:
            await floor.flushed()
            wanted = floor.desks[TENANT].consequences.children.wanted
            if offspring.__self__._attending:
                await asyncio.wait(floor.beside(), return_when=asyncio.FIRST_COMPLETED)
            elif not floor.commits.at_rest:
                await floor.commits.settled()
            elif not wanted:
                return
            else:
                await asyncio.sleep(0)

    def take(self) -> None:
        """Takes the leases that came."""
        due, session = self.session._due, self.session
        for lease in due.leases:
            session.accept(lease.run.run_id, lease.task_key, lease.term, lease.token)
        self.hands += due.leases
        due.leases = []

    async def settle_all(self) -> bool:
        """Ends all attempts that are under way; loses those first that are to be lost once."""
        hands, self.hands = self.hands, []
        for lease in hands:
            attempt = lease.run.run_id, lease.task_key, lease.attempt
            if self._lossy and attempt not in self._lost:
                self._lost.add(attempt)
                continue
            words = lease.run.run_id, lease.task_key, lease.term, lease.token
            self.session.settle(*words, self._end_of(self._feature_of(lease.run), lease))
            self.session.add_credits(1)
        if self._lossy and hands:
            await self.house.pass_time(LEASE_US)
        return bool(hands)

    def _feature_of(self, run: LiveRun) -> Feature:
        return self.features[run.parent_run_id or run.run_id]

    def _end_of(self, feature: Feature, lease: Lease) -> Any:
        desk = self.house.engine._floor.desks[TENANT]
        live = desk.leases.get(lease.key)
        if live is not None and live.cancelling:
            return STOPPED
        task = lease.run.run_id, lease.task_key
        if self._flaky and task not in self._failed:
            self._failed.add(task)
            return FLAKY
        number = self._ended[task] = self._ended.get(task, -1) + 1
        ends = feature.ends.get(lease.task_key, ())
        return ends[number] if number < len(ends) else Success(json_payload({"by": task[1]}))

    async def _answer(self, run: LiveRun, index: int) -> bool:
        engine, origin = self.house.engine, self.house.origin
        match run.tasks[index].wait:
            case SignalWait(name=name) if name != "never-sent":
                await self.signal(run.run_id, name)
                return True
            case EventWait(name=name):
                key = (run.facts[index].detail or {})["key"]
                told = json_payload({"event": name})
                await engine.publishing.publish(origin, name, key, told, None)
                return True
            case Approval():
                decided = {one["name"] for one in (run.facts[index].detail or {})["decisions"]}
                return await self._decide(run, index, sorted(set(DECIDERS) - decided))
        return False

    async def _decide(self, run: LiveRun, index: int, names: list[str]) -> bool:
        operations, key = self.house.engine.operations, run.graph.keys[index]
        for name in names:
            decider = Decider(f"key-{name}", name)
            try:
                await operations.decide(self.house.origin, run.run_id, key, decider, True, "", None)
            except errors.NotApprover:
                continue
            return True
        return False

    async def signal(self, run_id: str, name: str) -> None:
        """Sends a signal to a run."""
        told = json_payload({"signal": name})
        await self.house.engine.operations.signal(self.house.origin, run_id, name, told, None)

    # -- how it came out

    async def check(self) -> None:
        """Each run ended as the table of features says; rows and log agree."""
        await self.settled()
        for run_id, feature in self.features.items():
            run = await self.house.run(run_id)
            assert (run.state, run.reason) == (feature.state, feature.reason), feature.name
            assert (run.output and orjson.loads(run.output.data)) == feature.output
            await self._check_tasks(run_id, feature)
        await self.check_records()

    async def _check_tasks(self, run_id: str, feature: Feature) -> None:
        reads = TenantReads(self.house.store, TENANT)
        rows = await self.house.engine.read(reads.tasks, run_id, -1, 1000)
        ends = {row.task_key: row.state.name for row in rows}
        assert ends == {key: feature.states.get(key, "SUCCEEDED") for key in ends}, feature.name
        assert feature.states.keys() <= ends.keys()
        for row in rows:
            if row.task_key in feature.outputs:
                whole = await self.house.engine.read(reads.task, run_id, row.task_index)
                assert whole is not None
                assert whole.output is not None
                assert orjson.loads(whole.output.data) == feature.outputs[row.task_key]
        kinds = await self.house.kinds(run_id)
        leased = EventKind.TASK_LEASED in kinds
        assert (EventKind.TASK_LEASE_LOST in kinds) == (self._lossy and leased)
        assert (EventKind.TASK_RETRYING in kinds) >= (self._flaky and leased)

    async def check_records(self) -> None:
        """All runs have ended, rows and log agree, and the log is whole."""
        reads = TenantReads(self.house.store, TENANT)
        for run in await self.house.engine.read(reads.runs, None, [], None, 1000):
            assert run.state in RUN_ENDED
            await check_record(self.house, run.run_id)
        logbook.read(self.house.store).check()


@pytest.fixture
async def stage(either_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house on either database, not opened yet."""
    house = House(tmp_path, PATIENT, url=either_url)
    yield house
    await house.close()


async def play(troupe: Troupe, *, restart_every: int = 0, until: int = ROUNDS_MAX) -> int:
    """Plays until all is over or so many rounds have passed, and says how many did."""
    for number in range(until):
        if not await troupe.round():
            return number
        if restart_every and number % restart_every == 0:
            await troupe.restart()
    assert until < ROUNDS_MAX, "it never ends"
    return until


async def test_features_come_out_through_restarts(stage: House) -> None:
    troupe = Troupe(stage)
    await troupe.begin()
    await play(troupe, restart_every=4)
    await troupe.check()


async def test_features_come_out_though_attempts_fail_and_agents_are_lost(stage: House) -> None:
    troupe = Troupe(stage, lossy=True, flaky=True)
    await troupe.begin()
    await play(troupe, restart_every=10)
    await troupe.check()


async def test_features_come_out_after_pauses(stage: House) -> None:
    troupe = Troupe(stage)
    await troupe.begin()
    operations = stage.engine.operations
    for rounds in (2, 5, 9):
        await play(troupe, until=rounds)
        await troupe.settled()
        troupe.take()
        desk = stage.engine._floor.desks[TENANT]
        paused = [run_id for run_id in troupe.features if run_id in desk.runs]
        for run_id in paused:
            await operations.pause(stage.origin, run_id, "a walk", None)
        await troupe.settle_all()
        await troupe.restart()
        troupe.take()
        assert all(lease.run.run_id not in paused for lease in troupe.hands)
        operations = stage.engine.operations
        runs = stage.engine._floor.desks[TENANT].runs
        for run_id in [run_id for run_id in paused if run_id in runs]:
            await operations.resume(stage.origin, run_id, "", None)
    await play(troupe)
    await troupe.check()


async def test_nothing_is_left_of_features_that_are_cancelled(stage: House) -> None:
    troupe = Troupe(stage)
    await troupe.begin()
    await play(troupe, until=5)
    await troupe.settled()
    open_ids = [run_id for run_id in troupe.features if not (await stage.run(run_id)).end_us]
    assert open_ids
    for run_id in open_ids:
        await stage.engine.operations.cancel(stage.origin, run_id, "enough", None)
    await troupe.restart()
    await troupe.settle_all()
    await troupe.settled()
    assert stage.engine._floor.desks[TENANT].runs == {}
    states = {(await stage.run(run_id)).state for run_id in open_ids}
    assert states == {RunState.CANCELLED}
    await troupe.check_records()
