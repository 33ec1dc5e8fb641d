"""The client library against a fake coordinator: retries, redirection, pages, watching."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tests.client.conftest import (
    KEY,
    OTHER_RUN_ID,
    RUN_ID,
    Refusal,
    Script,
    batch,
    event,
    run_in,
    serve,
)

from tenure.v1 import access_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_client import channel, payload
from tenure_client.client import Client
from tenure_client.errors import TenureError

UNAVAILABLE = Refusal(
    grpc.StatusCode.UNAVAILABLE, "the store is busy", "STORE_UNAVAILABLE", retry_after=0.01
)


def client_of(script: Script, **options: float) -> Client:
    return Client(script.address, KEY, tenant="dev", **options)  # type: ignore[arg-type]


async def test_a_call_carries_key_tenant_and_correlation_id(script: Script) -> None:
    script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("RUNNING")))
    async with client_of(script) as client:
        run = await client.get_run(RUN_ID)
    assert run.run_id == RUN_ID
    [metadata] = script.metadata("GetRun")
    assert metadata["authorization"] == f"Bearer {KEY}"
    assert metadata["x-tenure-tenant"] == "dev"
    assert len(metadata["x-correlation-id"]) == 32


async def test_a_mutation_is_tried_again_with_the_same_request_id(script: Script) -> None:
    answer = runs_pb2.StartRunResponse(run_id=RUN_ID)
    script.on("StartRun", UNAVAILABLE, UNAVAILABLE, answer)
    async with client_of(script) as client:
        started = await client.start_run("word-count", input={"path": "corpus.txt"})
    assert started.run_id == RUN_ID
    first, second, third = script.requests("StartRun")
    assert len(first.request_id) == 32
    assert first == second == third
    assert len({each["x-correlation-id"] for each in script.metadata("StartRun")}) == 1


async def test_two_mutations_have_two_request_ids(script: Script) -> None:
    script.on("StartRun", runs_pb2.StartRunResponse(run_id=RUN_ID))
    async with client_of(script) as client:
        await client.start_run("word-count")
        await client.start_run("word-count")
    one, other = script.requests("StartRun")
    assert one.request_id != other.request_id


async def test_a_batch_gets_request_ids_where_it_has_none(script: Script) -> None:
    script.on(
        "BatchStartRuns",
        runs_pb2.BatchStartRunsResponse(responses=[runs_pb2.StartRunResponse(run_id=RUN_ID)] * 2),
    )
    requests = [
        runs_pb2.StartRunRequest(workflow="a", request_id="mine"),
        runs_pb2.StartRunRequest(workflow="b"),
    ]
    async with client_of(script) as client:
        answers = await client.start_runs(requests)
    [sent] = script.requests("BatchStartRuns")
    assert [answer.run_id for answer in answers] == [RUN_ID, RUN_ID]
    assert sent.requests[0].request_id == "mine"
    assert len(sent.requests[1].request_id) == 32
    assert requests[1].request_id == ""


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    ],
)
async def test_nothing_but_unavailable_is_tried_again(
    script: Script, code: grpc.StatusCode
) -> None:
    script.on("GetRun", Refusal(code, "no"))
    async with client_of(script) as client:
        with pytest.raises(TenureError) as caught:
            await client.get_run(RUN_ID)
    assert caught.value.code is code
    assert len(script.requests("GetRun")) == 1


async def test_retries_end_with_the_time_that_was_given(script: Script) -> None:
    script.on("GetRun", UNAVAILABLE)
    async with client_of(script, retry_seconds=0.05) as client:
        with pytest.raises(TenureError) as caught:
            await client.get_run(RUN_ID)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert 2 <= len(script.requests("GetRun")) <= 6


async def test_a_coordinator_that_is_not_there_is_unavailable_without_a_reason() -> None:
    async with Client("127.0.0.1:1", KEY, retry_seconds=0) as client:
        with pytest.raises(TenureError) as caught:
            await client.get_run(RUN_ID)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == ""


async def test_a_call_follows_the_holder_of_the_seat(script: Script, other_script: Script) -> None:
    script.on(
        "GetRun",
        Refusal(
            grpc.StatusCode.UNAVAILABLE,
            "another coordinator holds the seat",
            "SEAT_ELSEWHERE",
            {"holder": other_script.address},
            retry_after=60.0,
        ),
    )
    other_script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("RUNNING")))
    async with client_of(script) as client:
        await client.get_run(RUN_ID)
        await client.get_run(RUN_ID)
    assert len(script.requests("GetRun")) == 1
    assert len(other_script.requests("GetRun")) == 2
    assert other_script.metadata("GetRun")[0]["authorization"] == f"Bearer {KEY}"


async def test_a_holder_that_is_named_late_is_asked_without_a_wait(
    script: Script, other_script: Script
) -> None:
    """At first nobody knew who holds the seat; but the same holder twice means that it moves."""

    def elsewhere(holder: str, retry_after: float) -> Refusal:
        facts = {"holder": holder} if holder else {}
        code = grpc.StatusCode.UNAVAILABLE
        return Refusal(code, "elsewhere", "SEAT_ELSEWHERE", facts, retry_after=retry_after)

    script.on("GetRun", elsewhere("", 0.01), elsewhere(other_script.address, 60.0))
    other_script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("RUNNING")))
    async with client_of(script) as client:
        await client.get_run(RUN_ID)
    assert len(other_script.requests("GetRun")) == 1
    other_script.on("GetRun", elsewhere(script.address, 0.01))
    script.on("GetRun", elsewhere(other_script.address, 0.01))
    async with client_of(script, retry_seconds=0.2) as client:
        with pytest.raises(TenureError):
            await client.get_run(RUN_ID)
    assert len(script.requests("GetRun")) < 30, "it goes to and fro no quicker than it is told"


async def test_a_holder_that_is_gone_leads_back_to_the_configured_address(script: Script) -> None:
    gone = Refusal(
        grpc.StatusCode.UNAVAILABLE, "elsewhere", "SEAT_ELSEWHERE", {"holder": "127.0.0.1:1"}
    )
    script.on("GetRun", gone, runs_pb2.GetRunResponse(run=run_in("RUNNING")))
    async with client_of(script) as client:
        run = await client.get_run(RUN_ID)
    assert run.run_id == RUN_ID
    assert len(script.requests("GetRun")) == 2


async def test_several_addresses_are_tried_in_turn(script: Script) -> None:
    script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("RUNNING")))
    async with Client(["127.0.0.1:1", script.address], KEY) as client:
        assert (await client.get_run(RUN_ID)).run_id == RUN_ID


async def test_lists_go_through_all_pages(script: Script) -> None:
    script.on(
        "ListRuns",
        runs_pb2.ListRunsResponse(runs=[run_in("RUNNING")], next_page_token="more"),
        runs_pb2.ListRunsResponse(runs=[runs_pb2.Run(run_id=OTHER_RUN_ID)]),
    )
    async with client_of(script) as client:
        found = [run.run_id async for run in client.list_runs(workflow="word-count")]
    assert found == [RUN_ID, OTHER_RUN_ID]
    assert [each.page_token for each in script.requests("ListRuns")] == ["", "more"]
    assert {each.workflow for each in script.requests("ListRuns")} == {"word-count"}


async def test_events_are_paged_by_their_numbers(script: Script) -> None:
    script.on(
        "ListRunEvents",
        runs_pb2.ListRunEventsResponse(events=[event(1, "RUN_STARTED")], next_after_sequence=1),
        runs_pb2.ListRunEventsResponse(events=[event(2, "RUN_SUCCEEDED")]),
    )
    async with client_of(script) as client:
        found = [each.sequence async for each in client.list_run_events(RUN_ID)]
    assert found == [1, 2]
    assert [each.after_sequence for each in script.requests("ListRunEvents")] == [0, 1]


async def test_a_watch_takes_up_where_the_line_broke(script: Script) -> None:
    script.on(
        "WatchRun",
        [batch(event(1, "RUN_STARTED"), event(2, "TASK_LEASED", "split")), UNAVAILABLE],
        [UNAVAILABLE],
        [batch(event(3, "TASK_SUCCEEDED", "split")), batch(event(4, "RUN_SUCCEEDED"))],
    )
    async with client_of(script) as client:
        seen = [each.sequence async for each in client.watch_run(RUN_ID)]
    assert seen == [1, 2, 3, 4]
    assert [each.after_sequence for each in script.requests("WatchRun")] == [0, 2, 2]


async def test_a_watch_shows_no_event_twice(script: Script) -> None:
    script.on(
        "WatchRun",
        [batch(event(1, "RUN_STARTED")), UNAVAILABLE],
        [batch(event(1, "RUN_STARTED"), event(2, "RUN_FAILED"))],
    )
    async with client_of(script) as client:
        assert [each.sequence async for each in client.watch_run(RUN_ID)] == [1, 2]


async def test_a_watch_survives_the_end_of_its_coordinator(other_script: Script) -> None:
    script = Script()
    server = await serve(script)
    script.on("WatchRun", [batch(event(1, "RUN_STARTED")), asyncio.Event()])
    other_script.on("WatchRun", [batch(event(2, "RUN_SUCCEEDED"))])
    async with Client([script.address, other_script.address], KEY) as client:
        events = client.watch_run(RUN_ID)
        assert (await anext(events)).sequence == 1
        await server.stop(None)
        assert [each.sequence async for each in events] == [2]
    assert other_script.requests("WatchRun")[0].after_sequence == 1


async def test_a_watch_of_a_run_without_further_events_ends(script: Script) -> None:
    script.on("WatchRun", [])
    script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("SUCCEEDED")))
    script.on("ListRunEvents", runs_pb2.ListRunEventsResponse())
    async with client_of(script) as client:
        assert [each async for each in client.watch_run(RUN_ID, after_sequence=9)] == []


async def test_a_watch_gives_up_when_the_coordinator_stays_away(script: Script) -> None:
    script.on("WatchRun", [batch(event(1, "RUN_STARTED")), UNAVAILABLE], [UNAVAILABLE])
    async with client_of(script, retry_seconds=0.05) as client:
        with pytest.raises(TenureError) as caught:
            [each async for each in client.watch_run(RUN_ID)]
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_waiting_for_a_run_watches_only_the_run_itself(script: Script) -> None:
    script.on("WatchRun", [batch(event(1, "RUN_STARTED"), event(9, "RUN_FAILED"))])
    script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("FAILED", reason="task split failed")))
    async with client_of(script) as client:
        run = await client.wait_run(RUN_ID)
    assert run.state == runs_pb2.RUN_STATE_FAILED
    assert script.requests("WatchRun")[0].run_events_only


async def test_only_what_is_given_of_a_tenant_is_changed(script: Script) -> None:
    script.on("UpdateTenant", tenants_pb2.UpdateTenantResponse())
    async with client_of(script) as client:
        await client.update_tenant("acme", max_leases=5)
    [request] = script.requests("UpdateTenant")
    assert list(request.update_mask.paths) == ["max_leases"]
    assert request.tenant == tenants_pb2.Tenant(tenant_id="acme", max_leases=5)
    assert request.request_id


async def test_keys_and_workflows_and_cancels_carry_request_ids(script: Script) -> None:
    script.on("CreateApiKey", tenants_pb2.CreateApiKeyResponse(secret="s"))
    script.on("RegisterWorkflow", workflows_pb2.RegisterWorkflowResponse(created=True))
    script.on("CancelRun", runs_pb2.CancelRunResponse(state=runs_pb2.RUN_STATE_CANCELLING))
    async with client_of(script) as client:
        made = await client.create_key("ci", roles=[access_pb2.ROLE_AGENT], tenant_ids=["dev"])
        await client.register_workflow(workflows_pb2.WorkflowDefinition(name="a"))
        state = await client.cancel_run(RUN_ID, reason="no more")
    assert made.secret == "s"
    assert state == runs_pb2.RUN_STATE_CANCELLING
    for rpc in ("CreateApiKey", "RegisterWorkflow", "CancelRun"):
        assert len(script.requests(rpc)[0].request_id) == 32


async def test_an_input_is_absent_null_a_value_or_a_payload(script: Script) -> None:
    script.on("StartRun", runs_pb2.StartRunResponse(run_id=RUN_ID))
    blob = payload_pb2.Payload(data=b"\x00", content_type="application/octet-stream")
    async with client_of(script) as client:
        await client.start_run("a")
        await client.start_run("a", input=None)
        await client.start_run("a", input={"b": 2, "a": 2**53 + 1})
        await client.start_run("a", input=blob)
        with pytest.raises(payload.PayloadError):
            await client.start_run("a", input=float("nan"))
    absent, null, value, raw = script.requests("StartRun")
    assert not absent.HasField("input")
    assert null.input.data == b"null"
    assert value.input.data == b'{"a":9007199254740993,"b":2}'
    assert raw.input == blob


def test_what_metadata_cannot_carry_is_refused_without_showing_the_key() -> None:
    with pytest.raises(channel.ChannelError) as caught:
        Client("127.0.0.1:7233", "tnr_geheim\n")
    assert "authorization: only printable ASCII" in str(caught.value)
    assert "geheim" not in str(caught.value)
