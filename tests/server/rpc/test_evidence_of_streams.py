"""A stream leaves one entry for its opening, and one for each message that makes things happen."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict
from tests import logbook
from tests.conftest import TENANTS, LiveCoordinator
from tests.server.rpc.conftest import Refusal, read_refusal

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_evidence.canonical import digest_text

WORK = "/tenure.v1.Agents/Work"
TIE = "tie-of-the-stream"


class Talk:
    """One agent's stream, byte by byte, and what it adds to the logs."""

    def __init__(self, live: LiveCoordinator, secret: str) -> None:
        self._store = live.server.store
        metadata = (("authorization", f"Bearer {secret}"), ("x-correlation-id", TIE))
        self._call: Any = live.channel.stream_stream(
            WORK, response_deserializer=agents_pb2.WorkResponse.FromString
        )(metadata=metadata)
        self._sizes = logbook.sizes(self._store)
        #: The digest of what was said last.
        self.said = ""

    async def hello(self, *tenant_ids: str) -> None:
        """Introduces itself, and waits to be welcome."""
        hello = agents_pb2.Hello(agent="host", instance="instance-1", kinds=["k"], slots=4)
        hello.tenant_ids.extend(tenant_ids)
        await self.say(hello=hello)
        assert (await self.hear()).HasField("welcome")

    async def say(self, **words: Any) -> None:
        """Sends one frame."""
        raw = agents_pb2.WorkRequest(**words).SerializeToString()
        self.said = digest_text(raw)
        await self._call.write(raw)

    async def hear(self) -> Any:
        """Waits for the next frame."""
        frame = await self._call.read()
        assert frame is not grpc.aio.EOF, await self._call.details()
        return frame

    async def refusal(self) -> Refusal:
        """Why the stream was ended."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass
        call = self._call
        metadata = await call.initial_metadata(), await call.trailing_metadata()
        return read_refusal(
            grpc.aio.AioRpcError(await call.code(), *metadata, await call.details())
        )

    def added(self) -> dict[str, list[tuple[str, list[str]]]]:
        """What was added to the logs since it was asked last: kinds, and what happened."""
        logs = logbook.read(self._store)
        added = logs.since(self._sizes)
        found = {
            tenant_id: [
                (entry["kind"], [event["kind"] for event in logs.entries[tenant_id][index].events])
                for entry in entries
                for index in [entry["index"]]
            ]
            for tenant_id, entries in added.items()
        }
        self._sizes = logs.sizes()
        for entry in (entry for entries in added.values() for entry in entries):
            assert (entry["method"], entry["correlation"]) == (WORK, TIE)
            assert (entry["roles"], entry["verdict"]) == (["agent"], "allow")
            assert entry["request"] == self.said
        return found

    def look(self) -> None:
        """Takes the logs as they are now for what was there before."""
        self._sizes = logbook.sizes(self._store)

    async def close(self) -> None:
        """Hangs up."""
        self._call.cancel()


@pytest.fixture
async def talk(on_either: LiveCoordinator) -> AsyncIterator[Talk]:
    """The stream of an agent of alpha."""
    talk = Talk(on_either, on_either.secrets["alpha/agent"])
    yield talk
    await talk.close()
    logbook.read(on_either.server.store).check()


async def started(live: LiveCoordinator, tenant_id: str = "alpha", tasks: int = 1) -> str:
    """Starts a run of independent tasks."""
    content = {"name": "w", "tasks": [{"key": f"t{n}", "kind": "k"} for n in range(tasks)]}
    calls = live.calls(f"{tenant_id}/submitter")
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    run = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    run_id: str = run.run_id
    return run_id


def ref(lease: agents_pb2.Lease, **changes: Any) -> agents_pb2.LeaseRef:
    """The words that name a lease."""
    named = ("run_id", "task_key", "term", "token")
    return agents_pb2.LeaseRef(**{**{name: getattr(lease, name) for name in named}, **changes})


def done(lease: agents_pb2.LeaseRef) -> agents_pb2.Result:
    """A result that worked."""
    output = payload_pb2.Payload(data=b"1")
    return agents_pb2.Result(lease=lease, success=agents_pb2.Success(output=output))


async def leased(talk: Talk) -> agents_pb2.Lease:
    """Asks for one lease and waits for it."""
    await talk.say(credits=1)
    [lease] = (await talk.hear()).batch.leases
    assert isinstance(lease, agents_pb2.Lease)
    return lease


async def test_what_an_agent_says_is_written_down_as_it_happens(
    on_either: LiveCoordinator, talk: Talk
) -> None:
    """Hello, grants, checkpoints, results and returns; not what changes nothing in any record."""
    await started(on_either, tasks=2)
    talk.look()
    await talk.hello()
    assert talk.added() == {"alpha": [("lease.work", [])]}
    lease = await leased(talk)
    assert talk.added() == {"alpha": [("lease.grant", ["task.leased"])]}
    await talk.say(accepts=[ref(lease)], renewals=[agents_pb2.Renewal(lease=ref(lease))])
    assert (await talk.hear()).standings[0].standing == agents_pb2.STANDING_HELD
    assert talk.added() == {}
    checkpoint = payload_pb2.Payload(data=b"[1]")
    await talk.say(renewals=[agents_pb2.Renewal(lease=ref(lease), checkpoint=checkpoint)])
    await talk.hear()
    assert talk.added() == {"alpha": [("lease.renew", ["task.checkpointed"])]}
    await talk.say(results=[done(ref(lease))], credits=1)
    frame = await talk.hear()
    assert frame.outcomes[0].verdict == agents_pb2.VERDICT_APPLIED
    assert talk.added() == {
        "alpha": [("lease.settle", ["task.succeeded"]), ("lease.grant", ["task.leased"])]
    }
    [second] = frame.batch.leases
    # Only what needs an answer is answered, so it asks after a lease that it lost, too.
    await talk.say(returns=[ref(second)], renewals=[agents_pb2.Renewal(lease=ref(lease))])
    assert (await talk.hear()).standings[0].standing == agents_pb2.STANDING_LOST
    assert talk.added() == {"alpha": [("lease.return", ["task.lease_returned"])]}


async def test_a_result_that_does_not_count_is_written_down_as_one_by_which_nothing_happened(
    on_either: LiveCoordinator, talk: Talk
) -> None:
    """Forged, or once more; it is no refusal, because the agent gets an outcome."""
    await started(on_either)
    await talk.hello()
    lease = await leased(talk)
    talk.look()
    forged = ref(lease, token=bytes(len(lease.token)))
    for result, verdict, happened in (
        (done(forged), agents_pb2.VERDICT_UNKNOWN, []),
        (done(ref(lease)), agents_pb2.VERDICT_APPLIED, ["task.succeeded", "run.succeeded"]),
        (done(ref(lease)), agents_pb2.VERDICT_ALREADY_APPLIED, []),
        (done(forged), agents_pb2.VERDICT_UNKNOWN, []),
    ):
        await talk.say(results=[result])
        assert (await talk.hear()).outcomes[0].verdict == verdict
        assert talk.added() == {"alpha": [("lease.settle", happened)]}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"hello": agents_pb2.Hello(agent="again", instance="instance-2", kinds=["k"], slots=1)},
         "FIELD_INVALID"),
        ({"credits": -1}, "FIELD_INVALID"),
        ({"results": [agents_pb2.Result(stopped=agents_pb2.Stopped())]}, "FIELD_INVALID"),
    ],
    ids=["a second hello", "a bad number", "a result of nothing"],
)  # fmt: skip
async def test_a_frame_that_is_refused_leaves_one_entry_and_the_answer_names_it(
    on_either: LiveCoordinator, talk: Talk, words: dict[str, Any], reason: str
) -> None:
    """Beside that of the hello, and with the digest of the frame."""
    await talk.hello()
    assert talk.added() == {"alpha": [("lease.work", [])]}
    await talk.say(**words)
    refusal = await talk.refusal()
    assert refusal.reason == reason
    assert talk.added() == {"alpha": [("lease.work", [])]}
    entry = logbook.read(on_either.server.store).of("alpha")[-1]
    assert entry["refusal"] == reason
    assert refusal.facts["decision"] == f"alpha/{entry['index']}"


async def test_what_an_agent_of_two_tenants_says_stands_with_the_tenant_that_it_concerns(
    on_either: LiveCoordinator,
) -> None:
    """Its hello with both, a result with the one whose run it is, whether it counts or not."""
    await started(on_either, "beta")
    talk = Talk(on_either, await on_either.make_key("agent", tenants=TENANTS))
    talk.look()
    await talk.hello(*TENANTS)
    assert talk.added() == {key: [("lease.work", [])] for key in TENANTS}
    lease = await leased(talk)
    assert talk.added() == {"beta": [("lease.grant", ["task.leased"])]}
    for result in (done(ref(lease, token=b"forged")), done(ref(lease))):
        await talk.say(results=[result])
        await talk.hear()
        assert list(talk.added()) == ["beta"]
    await talk.close()
    logbook.read(on_either.server.store).check()


async def test_a_watch_leaves_one_entry_however_long_it_lasts(on_either: LiveCoordinator) -> None:
    """Written down before its first answer goes out."""
    run_id = await started(on_either)
    store = on_either.server.store
    before = logbook.sizes(store)
    call = on_either.calls("viewer").runs.WatchRun(runs_pb2.WatchRunRequest(run_id=run_id))
    answers = aiter(call)
    first = await anext(answers)
    assert first.events[0].kind == runs_pb2.RUN_EVENT_KIND_RUN_STARTED
    [entry] = logbook.since(store, before)["alpha"]
    assert (entry["kind"], entry["method"]) == ("run.read", "/tenure.v1.Runs/WatchRun")
    await on_either.calls("submitter").runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run_id))
    kinds = [event.kind async for answer in answers for event in answer.events]
    assert kinds[-1] == runs_pb2.RUN_EVENT_KIND_RUN_CANCELLED
    added = logbook.since(store, before)["alpha"]
    assert [entry["kind"] for entry in added] == ["run.read", "run.cancel"]


async def test_a_stream_whose_key_is_revoked_is_written_down_as_refused(
    on_either: LiveCoordinator,
) -> None:
    """It ends by our own decision, though nothing was said on it."""
    secret = await on_either.make_key("agent")
    caller = await on_either.calls_with(secret).tenants.GetCaller(tenants_pb2.GetCallerRequest())
    talk = Talk(on_either, secret)
    await talk.hello()
    await on_either.calls("operator").tenants.RevokeApiKey(
        tenants_pb2.RevokeApiKeyRequest(api_key_id=caller.api_key.api_key_id)
    )
    refusal = await talk.refusal()
    assert refusal.reason == "CREDENTIAL_INVALID"
    entry = logbook.read(on_either.server.store).of("alpha")[-1]
    assert (entry["kind"], entry["refusal"]) == ("lease.work", "CREDENTIAL_INVALID")
    assert entry["principal"] == caller.api_key.api_key_id
    assert refusal.facts["decision"] == f"alpha/{entry['index']}"
