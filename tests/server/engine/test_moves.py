"""Runs are moved in a real store: in one act, once, and whoever reads them back finds the same."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.core.world import SECOND, portrait, task
from tests.server.engine.conftest import KINDS, TENANT, House
from tests.server.engine.test_constitutions import article
from tests.server.engine.test_lists import again, check_record, ended

from tenure_constitution.article import Constitution
from tenure_constitution.laws import Effect, Point
from tenure_server.core import errors
from tenure_server.core.definitions.features import ForEach, Handler, SignalWait
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import End, Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.seeing.filters import RunFilter
from tenure_server.engine.bulk import Verb, Wish
from tenure_server.engine.moves import Moved
from tenure_server.engine.sessions import Report
from tenure_server.engine.settings import Settings
from tenure_server.store.reads import TenantReads

#: Shorter than a seat holds.
LEASE_US = 2 * SECOND
BOOM = Failure("BOOM", "", True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house on either database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    found = House(tmp_path, Settings(lease_us=LEASE_US), url=url)
    await found.open()
    await found.furnish()
    yield found
    await found.close()


async def move(house: House, run_id: str, version: int = 0, **options: Any) -> Moved:
    """Moves a run."""
    wish: dict[str, Any] = {"resume": False, "reason": "for a test", "request": None} | options
    return await house.engine.moves.move(house.origin, run_id, version, **wish)


async def pause(house: House, run_id: str) -> None:
    await house.engine.operations.pause(house.origin, run_id, "", None)


async def resume(house: House, run_id: str) -> None:
    await house.engine.operations.resume(house.origin, run_id, "", None)


async def retry(house: House, run_id: str) -> None:
    await house.engine.operations.reopen(
        house.origin, run_id, [], paused=False, reason="", request=None
    )


async def take(house: House, kinds: frozenset[str] = KINDS) -> dict[str, Lease]:
    """Leases everything that is ready."""
    leases = await house.engine.work.lease_tasks(
        house.keys["one"], [TENANT], agent="host", kinds=kinds, max_leases=99, wait_us=0
    )
    return {lease.task_key: lease for lease in leases}


async def settle(house: House, lease: Lease, end: End) -> None:
    """Reports a result."""
    report = Report((lease.run.run_id, lease.task_key, lease.term, lease.token), end)
    await house.engine.work.settle_tasks(house.keys["one"], [TENANT], [report])


async def execute(house: House, *, kinds: frozenset[str] = KINDS, fails: str = "") -> list[str]:
    """Executes what is ready, each task with its key as output; tells what it was."""
    leases = await take(house, kinds)
    for key, lease in leases.items():
        end = BOOM if key == fails else Success(Payload(f'"{key}"'.encode()))
        await settle(house, lease, end)
    return list(leases)


async def rows(house: House, run_id: str) -> dict[int, records.Task]:
    """The tasks of a run that have rows."""
    reads = TenantReads(house.store, TENANT)
    found = await house.engine.read(lambda: reads.tasks(run_id, -1, 1000, with_output=True))
    return {row.task_index: row for row in found}


def seen(house: House) -> Mapping[str, Any]:
    """What is on the desk."""
    return portrait(house.engine._floor.desks[TENANT])


async def restarted(house: House) -> None:
    """Another coordinator takes the work over, and finds what was there."""
    await house.engine._floor.flushed()
    before = seen(house)
    await again(house)
    assert seen(house) == before


async def test_a_run_keeps_its_results_under_new_numbers_through_a_restart(house: House) -> None:
    await house.register(task("a"), task("b", "a"), task("c", "b"))
    run_id = await house.start()
    assert await execute(house) == ["a"]
    await pause(house, run_id)
    tasks = task("x"), task("c", "b", "x"), task("b", "a"), task("a")
    await house.register(*tasks)
    moved = await move(house, run_id)
    run = await house.run(run_id)
    assert (moved.version, moved.digest, moved.reopened) == (2, run.workflow_digest, 0)
    assert (run.workflow_version, run.state) == (2, RunState.PAUSED)
    assert {index: row.task_key for index, row in (await rows(house, run_id)).items()} == {3: "a"}
    await check_record(house, run_id)
    await restarted(house)
    await resume(house, run_id)
    leases = await take(house)
    assert leases["b"].upstream == {"a": Payload(b'"a"')}
    for lease in leases.values():
        await settle(house, lease, Success())
    assert await execute(house) == ["c"]
    await ended(house, run_id)
    run = await house.run(run_id)
    assert (run.state, run.succeeded, run.task_count) == (RunState.SUCCEEDED, 4, 4)
    await check_record(house, run_id)


async def test_an_output_that_nobody_needed_any_more_is_there_for_new_tasks(house: House) -> None:
    await house.register(task("a"), task("b", "a"), task("hold", "b"))
    run_id = await house.start()
    for key in ("a", "b"):
        assert await execute(house) == [key]
    await pause(house, run_id)
    await house.register(task("new", "a", "b"), task("hold", "b"), task("a"), task("b", "a"))
    await move(house, run_id, resume=True)
    leases = await take(house)
    assert leases["new"].upstream == {"a": Payload(b'"a"'), "b": Payload(b'"b"')}


async def test_a_failed_run_is_taken_up_under_the_newer_version(house: House) -> None:
    await house.register(task("a"), task("b", "a"), task("c", "b"))
    run_id = await house.start()
    await execute(house)
    await execute(house, fails="b")
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.FAILED
    await house.register(task("fix", "a"), task("b", "fix"), task("a"))
    moved = await move(house, run_id)
    assert moved.reopened == 2
    run = await house.run(run_id)
    assert (run.state, run.reason, run.end_us) == (RunState.PAUSED, "", None)
    await check_record(house, run_id)
    await restarted(house)
    await resume(house, run_id)
    assert await execute(house) == ["fix"]
    assert await execute(house) == ["b"]
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED
    await check_record(house, run_id)
    kinds = await house.kinds(run_id)
    assert kinds.index(EventKind.RUN_REOPENED) < kinds.index(EventKind.RUN_MOVED)


async def test_a_list_and_a_wait_go_on_through_a_restart(house: House) -> None:
    parts: dict[str, Any] = {
        "for_each": ForEach(items="[1, 2, 3]", parallelism=1),
        "bindings": {"item": "item"},
    }
    wait = task("w", kind="", wait=SignalWait(name="go"))
    await house.register(task("e", **parts), wait)
    run_id = await house.start()
    assert await execute(house) == ["e[0]"]
    await pause(house, run_id)
    await house.register(task("x"), wait, task("z", "e", "w"), task("e", **parts))
    await move(house, run_id)
    await restarted(house)
    await resume(house, run_id)
    assert await house.engine.operations.signal(house.origin, run_id, "go", None, None)
    assert await execute(house) == ["x", "e[1]"]
    assert await execute(house) == ["e[2]"]
    [last] = (await take(house)).values()
    assert last.upstream["e"] == Payload(b'["e[0]","e[1]","e[2]"]')
    await settle(house, last, Success())
    await ended(house, run_id)
    await check_record(house, run_id)


async def test_what_stands_against_it_changes_nothing(house: House) -> None:
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    leases = await take(house)
    await pause(house, run_id)
    await house.register(task("b"))
    before, events = seen(house), await house.events(run_id)
    with pytest.raises(errors.VersionsDiffer) as caught:
        await move(house, run_id)
    [(kind, subject, why)] = caught.value.obstacles
    assert (kind, subject) == ("TASK_LEASED", "task a")
    assert why == "is leased to agent host; wait for its end, or settle it by hand"
    assert (seen(house), await house.events(run_id)) == (before, events)
    await settle(house, leases["a"], Success())
    with pytest.raises(errors.VersionsDiffer, match="task a: has succeeded and is not in version"):
        await move(house, run_id)
    assert (await house.run(run_id)).workflow_version == 1


async def test_a_lease_that_was_lost_stands_in_nobodys_way(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await take(house)
    await pause(house, run_id)
    await house.register(task("b"), task("a"))
    with pytest.raises(errors.VersionsDiffer):
        await move(house, run_id)
    await house.pass_time(LEASE_US)
    await move(house, run_id, resume=True)
    assert sorted(await execute(house)) == ["a", "b"]


async def test_what_is_not_there_is_told(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await pause(house, run_id)
    with pytest.raises(errors.NotFound, match="flow version 2"):
        await move(house, run_id, 2)
    with pytest.raises(errors.NotFound, match="no such run"):
        await move(house, run_id.replace("0", "1"))
    count = len(await house.events(run_id))
    assert (await move(house, run_id)).version == 1
    assert len(await house.events(run_id)) == count, "it is there already"


async def test_a_paused_run_that_is_there_already_goes_on_where_that_is_asked(
    house: House,
) -> None:
    """Who takes all paused runs of a workflow along means those of its newest version, too."""
    await house.register(task("a"))
    run_id = await house.start()
    await pause(house, run_id)
    assert (await move(house, run_id)).version == 1
    assert (await house.run(run_id)).state is RunState.PAUSED
    assert (await move(house, run_id, resume=True)).version == 1
    assert await execute(house) == ["a"]
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED
    await check_record(house, run_id)


async def test_the_same_request_moves_a_run_once(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await pause(house, run_id)
    await house.register(task("a"), task("b"))
    request = records.Request(request_id="m", method="MoveRun", digest=b"1")
    first = await move(house, run_id, request=request)
    await house.register(task("a"), task("b"), task("c"))
    assert await move(house, run_id, request=request) == first
    await again(house)
    assert await move(house, run_id, request=request) == first
    other = replace(request, digest=b"2")
    with pytest.raises(errors.RequestIdReused):
        await move(house, run_id, request=other)
    assert (await house.run(run_id)).workflow_version == 2
    assert (await house.kinds(run_id)).count(EventKind.RUN_MOVED) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_that_fails_moves_it_not_at_all_or_once(house: House, when: str) -> None:
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    await execute(house)
    await pause(house, run_id)
    await house.register(task("b", "a"), task("a"))
    request = records.Request(request_id="m", method="MoveRun", digest=b"1")
    house.store.tricky.breaks.append(when)
    with pytest.raises(errors.StoreUnavailable):
        await move(house, run_id, request=request)
    await house.serving()
    stored = await house.run(run_id)
    assert stored.workflow_version == (1 if when == "before" else 2)
    assert (await move(house, run_id, request=request)).version == 2
    assert (await house.kinds(run_id)).count(EventKind.RUN_MOVED) == 1
    await resume(house, run_id)
    assert await execute(house) == ["b"]
    await check_record(house, run_id)


async def test_a_run_that_changes_while_it_is_read_is_not_moved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.register(task("a"), task("w", kind="", wait=SignalWait(name="go")))
    run_id = await house.start()
    await pause(house, run_id)
    await house.register(task("w", kind="", wait=SignalWait(name="go")), task("a"))
    prepared = house.engine.moves._prepared

    async def slowly(*args: Any, **options: Any) -> Any:
        wish = await prepared(*args, **options)
        await house.engine.operations.signal(house.origin, run_id, "go", None, None)
        return wish

    monkeypatch.setattr(house.engine.moves, "_prepared", slowly)
    with pytest.raises(errors.StoreUnavailable, match="has changed meanwhile"):
        await move(house, run_id)
    monkeypatch.undo()
    await move(house, run_id)
    assert {row.task_key: row.state for row in (await rows(house, run_id)).values()} == {
        "w": TaskState.SUCCEEDED
    }


async def test_a_failed_run_is_not_taken_up_by_others_while_it_is_moved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could have ended again until then, and its story would be told a second time."""
    await house.register(task("a"))
    run_id = await house.start()
    await execute(house, fails="a")
    await house.register(task("b"), task("a"))
    prepared = house.engine.moves._prepared

    async def slowly(*args: Any, **options: Any) -> Any:
        wish = await prepared(*args, **options)
        for other in (retry(house, run_id), move(house, run_id, resume=True)):
            with pytest.raises(errors.StoreUnavailable, match="has changed meanwhile"):
                await other
        return wish

    monkeypatch.setattr(house.engine.moves, "_prepared", slowly)
    await move(house, run_id, resume=True)
    assert sorted(await execute(house)) == ["a", "b"]
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED
    assert (await house.kinds(run_id)).count(EventKind.RUN_REOPENED) == 1
    await check_record(house, run_id)


async def test_a_failed_run_that_fails_once_more_while_it_is_moved_stops_no_commit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a story that is older than what is written, its events would be told a second time."""
    await house.register(task("a"))
    run_id = await house.start()
    await execute(house, fails="a")
    await house.register(task("b"), task("a"))
    prepared = house.engine.moves._prepared

    async def slowly(*args: Any, **options: Any) -> Any:
        wish = await prepared(*args, **options)
        with contextlib.suppress(errors.RunChanged):
            await retry(house, run_id)
        await execute(house, fails="a")
        return wish

    monkeypatch.setattr(house.engine.moves, "_prepared", slowly)
    await move(house, run_id, resume=True)
    assert sorted(await execute(house)) == ["a", "b"]
    await ended(house, run_id)
    await check_record(house, run_id)


async def test_tasks_that_can_be_undone_only_now_are_undone_in_the_order_of_their_success(
    house: House,
) -> None:
    await house.register(task("b"), task("a", "b"), task("c", "a"))
    run_id = await house.start()
    for key in ("b", "a"):
        assert await execute(house) == [key]
    await pause(house, run_id)
    undo: dict[str, Any] = {"compensation": Handler(kind="undo")}
    await house.register(task("a", "b", **undo), task("c", "a"), task("b", **undo))
    await move(house, run_id)
    await restarted(house)
    await resume(house, run_id)
    both = KINDS | {"undo"}
    assert await execute(house, kinds=both, fails="c") == ["c"]
    assert await execute(house, kinds=both) == ["a~undo"]
    assert await execute(house, kinds=both) == ["b~undo"]
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.FAILED
    await check_record(house, run_id)


async def test_a_run_of_many_tasks_is_moved(house: House) -> None:
    count = 400
    keys = [f"t{number}" for number in range(count)]
    await house.register(*map(task, keys), task("z", *keys))
    run_id = await house.start()
    half = await take(house)
    for key, lease in half.items():
        await settle(house, lease, Success(Payload(f'"{key}"'.encode())))
    await pause(house, run_id)
    await house.register(task("z", *keys), *(task(key) for key in reversed(keys)))
    await move(house, run_id)
    found = await rows(house, run_id)
    assert {row.task_key: index for index, row in found.items()} == {
        key: count - int(key[1:]) for key in half
    }
    assert {row.task_key for row in found.values() if row.output} == half.keys()
    await check_record(house, run_id)
    await restarted(house)


async def test_a_tenant_with_as_many_tasks_as_it_may_have_gets_no_more_of_them(
    house: House,
) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await pause(house, run_id)
    await house.register(task("a"), task("b"))
    moves = house.engine.moves
    moves._settings = replace(moves._settings, open_tasks_max=1)
    with pytest.raises(errors.QuotaExceeded, match="more than 1 open tasks"):
        await move(house, run_id)
    moves._settings = replace(moves._settings, open_tasks_max=2)
    await move(house, run_id)


# -- the constitution


def told(effect: Effect) -> Constitution:
    """Every workflow of more than one task is objected to when it is started."""
    return Constitution(articles=(article(Point.START, "workflow.task_count < 2", effect=effect),))


@pytest.fixture(params=[Effect.DENY, Effect.WARN])
async def strict(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house whose platform objects."""
    found = House(tmp_path, Settings(lease_us=LEASE_US), platform=told(request.param))
    await found.open()
    await found.furnish()
    yield found
    await found.close()


async def test_a_move_is_judged_as_a_start_under_the_newer_version(strict: House) -> None:
    await strict.register(task("a"))
    run_id = await strict.start()
    await pause(strict, run_id)
    await strict.register(task("a"), task("b"))
    platform = strict.platform
    assert platform is not None
    if platform.articles[0].effect is Effect.WARN:
        moved = await move(strict, run_id)
        assert [one.article for one in moved.warnings] == ["at-start"]
        return
    strict.origin = strict.origin.for_one(run_id)
    with pytest.raises(errors.ActDenied):
        await move(strict, run_id)
    assert (await strict.run(run_id)).workflow_version == 1
    assert (await strict.kinds(run_id))[-1] is EventKind.RUN_PAUSED
    await strict.engine._floor.flushed()
    sql = "SELECT entry FROM evidence_entries WHERE kind = 'run.move'"
    store = strict.store.backend.writing
    [(entry,)] = store.execute_sql(sql).fetchall()
    assert b'"refusal":"ACT_DENIED"' in bytes(entry)
    assert b'"run":"%b"' % run_id.encode() in bytes(entry)


async def test_one_of_many_moves_is_judged_by_the_roles_of_who_asked_for_all(
    tmp_path: Path,
) -> None:
    """As if it had been asked for by itself."""
    only_admins = "workflow.task_count < 2 || 'tenant_admin' in principal.roles"
    rule = Constitution(articles=(article(Point.START, only_admins),))
    house = House(tmp_path, Settings(lease_us=LEASE_US), platform=rule)
    await house.open()
    await house.furnish()
    await house.register(task("a"))
    run_id = await house.start()
    await pause(house, run_id)
    await house.register(task("a"), task("b"))
    asked: dict[str, Any] = {"principal": house.origin.api_key_id, "kind": "run.change"}
    for roles, done in ((("submitter",), 0), (("tenant_admin",), 1)):
        wish = Wish(
            wanted=RunFilter(workflow="flow"),
            verb=Verb.MOVE,
            reason="",
            rate=1000,
            dry_run=False,
            request=None,
        )
        origin = replace(house.origin, act=Act(roles=roles, **asked))
        [*_, last] = [told async for told in house.engine.bulk.change(origin, wish)]
        assert (last.matched, last.done) == (1, done)
        assert all(isinstance(why, errors.ActDenied) for _, why in last.refusals)
    await house.close()


async def test_a_run_of_a_paused_workflow_is_not_paused_itself(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await house.engine.pausing.pause(
        TENANT,
        "flow",
        "",
        by="key-0",
        act=house.origin.acting("workflow.pause"),
        request=None,
        remember_under=TENANT,
    )
    await house.register(task("a"), task("b"))
    with pytest.raises(errors.RunStands, match="pause it first"):
        await move(house, run_id)
