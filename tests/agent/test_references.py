"""Handlers see large payloads as if they had travelled, and never anything else in their place."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.agent.trial import RUN, StartTrial, failure, output

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import commands, references
from tenure_agent.context import TaskContext
from tenure_agent.handlers import Coroutine, Threaded
from tenure_agent.payloads import PAYLOAD_BYTES_MAX
from tenure_agent.references import CONTENT_TYPE, Reference, References
from tenure_agent.runner import StopCause
from tenure_agent.stores import StoreError, digest_of

LARGE = {"text": "x" * 2 * PAYLOAD_BYTES_MAX}
LARGE_BYTES = json.dumps(LARGE, separators=(",", ":")).encode()


class Shelf:
    """A store in memory; `closed` is an event that it waits for."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.fault = ""
        self.opened = asyncio.Event()
        self.opened.set()
        self.asked = asyncio.Event()

    def uri(self, tenant_id: str, digest: str) -> str:
        return f"shelf:///{tenant_id}/{digest}"

    async def put(self, tenant_id: str, digest: str, data: bytes) -> str:
        await self._wait()
        self.kept[tenant_id, digest] = data
        return self.uri(tenant_id, digest)

    async def get(self, tenant_id: str, digest: str) -> bytes:
        await self._wait()
        return self.kept[tenant_id, digest]

    async def _wait(self) -> None:
        self.asked.set()
        await self.opened.wait()
        if self.fault:
            raise StoreError(self.fault)

    def hold(self, data: bytes, tenant_id: str = "acme") -> payload_pb2.Payload:
        """Has it keep something, and gives what travels."""
        digest = digest_of(data)
        self.kept[tenant_id, digest] = data
        uri = self.uri(tenant_id, digest)
        return Reference(uri=uri, sha256=digest, size=len(data)).payload()


@pytest.fixture
async def shelf() -> Shelf:
    return Shelf()


def with_shelf(shelf: Shelf, **limits: int) -> References:
    return References(shelf, **{"inline_max": 1000, "stored_max": 4 * PAYLOAD_BYTES_MAX, **limits})


def told(ctx: TaskContext, value: Any) -> dict[str, Any]:
    """Says what it was given."""
    sizes = {key: len(str(it)) for key, it in ctx.upstream.items()}
    return {"input": len(str(value)), "run": len(str(ctx.run_input)), "upstream": sizes}


def large(_ctx: TaskContext, size: int) -> str:
    return "z" * size


async def large_async(_ctx: TaskContext, size: int) -> str:
    return "z" * size


async def test_everything_that_a_handler_is_given_is_fetched_first(
    trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(references=with_shelf(shelf), told=Threaded(told))
    run = agents_pb2.RunContext()
    run.CopyFrom(RUN)
    run.input.CopyFrom(shelf.hold(b'"run input"'))
    upstream = {"a": shelf.hold(b'"abc"'), "b": payload_pb2.Payload(data=b"[1]")}
    result = await it.result("told", run=run, upstream=upstream, input=shelf.hold(LARGE_BYTES))
    assert output(result) == {
        "input": len(str(LARGE)),
        "run": len("run input"),
        "upstream": {"a": 3, "b": 3},
    }
    assert result.lease.term == 1
    assert result.lease.token


async def test_a_command_finds_what_was_stored_on_its_stdin(
    trial: StartTrial, shelf: Shelf
) -> None:
    argv, env = ("sh", "-c", "wc -c"), {"PATH": os.environ["PATH"]}
    command = commands.Command(argv=argv, cwd=Path("/"), env=env)
    it = trial(references=with_shelf(shelf), count=command)
    assert output(await it.result("count", input=shelf.hold(LARGE_BYTES))) > len(LARGE_BYTES)


@pytest.mark.parametrize("kind", ["large", "large-async"])
async def test_an_output_that_is_too_large_to_travel_is_stored(
    kind: str, trial: StartTrial, shelf: Shelf
) -> None:
    table = {"large": Threaded(large), "large-async": Coroutine(large_async)}
    it = trial(references=with_shelf(shelf), **table)
    result = await it.result(kind, 2 * PAYLOAD_BYTES_MAX)
    data = json.dumps("z" * 2 * PAYLOAD_BYTES_MAX).encode()
    assert result.success.output.content_type == CONTENT_TYPE
    assert output(result) == {
        "uri": f"shelf:///acme/{digest_of(data)}",
        "sha256": digest_of(data),
        "bytes": len(data),
    }
    assert shelf.kept == {("acme", digest_of(data)): data}


async def test_an_output_that_is_small_enough_travels(trial: StartTrial, shelf: Shelf) -> None:
    it = trial(references=with_shelf(shelf), large=Threaded(large))
    assert output(await it.result("large", 900)) == "z" * 900
    assert not shelf.kept


async def test_worker_processes_and_commands_may_say_as_much(
    start_isolated: Any, trial: StartTrial, shelf: Shelf
) -> None:
    workers = start_isolated("same", references=with_shelf(shelf))
    result = await workers.result("same", LARGE)
    assert references.read(result.success.output).size >= len(LARGE_BYTES)
    argv = ("sh", "-c", "printf '\"'; head -c 2000000 /dev/zero | tr '\\0' z; printf '\"'")
    command = commands.Command(argv=argv, cwd=Path("/"), env={"PATH": os.environ["PATH"]})
    loud = trial(references=with_shelf(shelf), loud=command)
    assert output(await loud.result("loud"))["bytes"] == 2_000_002


async def test_an_output_beyond_what_may_be_stored_fails_for_good(
    trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(references=with_shelf(shelf, stored_max=5000), large=Threaded(large))
    assert failure(await it.result("large", 5001)) == (
        "OUTPUT_INVALID",
        "output: too large: 5003 bytes of at most 5000",
        True,
    )


async def test_without_a_store_a_reference_is_told_and_a_large_output_is_refused(
    trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(told=Threaded(told), large=Threaded(large))
    code, reason, final = failure(await it.result("told", input=shelf.hold(b"1")))
    assert (code, final) == ("PAYLOAD_UNREACHABLE", False)
    assert reason.endswith("lies in a store, and this agent has none: see [payloads]")
    assert failure(await it.result("large", 2 * PAYLOAD_BYTES_MAX))[0] == "OUTPUT_INVALID"


async def test_what_is_not_what_was_put_there_is_never_given(
    trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(references=with_shelf(shelf), told=Threaded(told))
    reference = shelf.hold(b'"good"')
    [key] = shelf.kept
    shelf.kept[key] = b'"evil"'
    code, reason, final = failure(await it.result("told", input=reference))
    assert (code, final) == ("PAYLOAD_CORRUPT", True)
    assert reason.endswith("is not what was put there")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "shelf:///beta/DIGEST",
        "shelf:///acme/../beta/DIGEST",
        "shelf:///acme/DIGEST?x",
    ],
)
async def test_only_what_the_tenant_has_in_the_agents_own_store_is_followed(
    uri: str, trial: StartTrial, shelf: Shelf
) -> None:
    """Whoever writes a reference, it leads nowhere else: not to files, hosts, or other tenants."""
    it = trial(references=with_shelf(shelf), told=Threaded(told))
    shelf.hold(b'"secret"', "beta")
    digest = digest_of(b'"secret"')
    uri = uri.replace("DIGEST", digest)
    reference = Reference(uri=uri, sha256=digest, size=8).payload()
    code, reason, _ = failure(await it.result("told", input=reference))
    assert code == "PAYLOAD_UNREACHABLE"
    assert reason == f"{uri} is no payload of tenant acme in this agent's store"
    assert not shelf.asked.is_set()


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"uri":1,"sha256":2,"bytes":"x"}'])
async def test_a_reference_that_cannot_be_read_fails_for_good(
    data: bytes, trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(references=with_shelf(shelf), told=Threaded(told))
    given = payload_pb2.Payload(data=data, content_type=CONTENT_TYPE)
    assert failure(await it.result("told", input=given))[::2] == ("PAYLOAD_CORRUPT", True)


async def test_a_store_that_fails_costs_the_attempt(trial: StartTrial, shelf: Shelf) -> None:
    it = trial(references=with_shelf(shelf), told=Threaded(told), large=Threaded(large))
    given = shelf.hold(b"1")
    shelf.fault = "the disk is full"
    for result in (await it.result("told", input=given), await it.result("large", 5000)):
        assert failure(result) == ("PAYLOAD_UNREACHABLE", "the disk is full", False)
    assert it.freed == 2


@pytest.mark.parametrize("kind", ["told", "large"])
@pytest.mark.parametrize(
    ("cause", "end"), [(StopCause.CANCELLED, "stopped"), (StopCause.TIMED_OUT, "failure")]
)
async def test_an_attempt_is_stopped_while_its_payloads_are_on_their_way(
    kind: str, cause: StopCause, end: str, trial: StartTrial, shelf: Shelf
) -> None:
    it = trial(references=with_shelf(shelf), told=Threaded(told), large=Threaded(large))
    shelf.opened.clear()
    given = {"input": shelf.hold(b"1")} if kind == "told" else {"value": 5000}
    key = it.start(kind, **given)
    await shelf.asked.wait()
    assert key in it.runner.running
    it.runner.stop(key, cause)
    result = await it.end(key)
    assert result is not None
    assert result.WhichOneof("end") == end
    assert it.freed == 1
