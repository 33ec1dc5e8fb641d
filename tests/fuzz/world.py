"""An installation that is to be fuzzed: all that can be named, and what each answer must be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests import holdings, logbook
from tests.fuzz.messages import Call, Pool
from tests.server.rpc.test_matrix import CALLERS, METHODS, RULES
from tests.wire import raw
from tests.wire.installation import Installation

from tenure.v1 import access_pb2, errors_pb2
from tenure_client.builder import Workflow
from tenure_server.core import ids
from tenure_server.rpc.owned import Owned

OURS, THEIRS, SPARE = "alpha", "beta", "gamma"
#: How much more memory than at the beginning is taken for a leak.
GROWTH_MIB = 400
#: How long an answer is waited for where there need not be one.
QUIET_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
_REASONS = {name.removeprefix("REASON_") for name in list(errors_pb2.Reason.keys())}
#: What no caller may hear, whatever he says.
_FAULTS = frozenset({"INTERNAL", "UNSPECIFIED", "STORE_UNAVAILABLE", "STOPPING"})
#: Time passes by itself; all else in these tests is asked for.
STILL = ("--lease-seconds", "3600", "--accept-seconds", "3600")


class World:
    """Who is there, and what came of each call."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.coordinator = installation.coordinator
        self.process = psutil.Process(self.coordinator.child.pid)
        self.secrets: dict[str, str] = {}
        self.pool: Pool
        #: What was answered so far, by reason.
        self.answers: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(self.coordinator.address)
        self._theirs: holdings.Held = {}
        self._rss_mib = 0
        path = installation.store.removeprefix("sqlite:")
        self._database = Path("/" + path.lstrip("/")) if path != installation.store else None

    async def furnish(self) -> None:
        """Gives two tenants workflows and runs, and a third one that operators may play with."""
        house = self.installation
        for tenant_id in (THEIRS, SPARE):
            await house.add_tenant(tenant_id)
        runs: dict[str, list[str]] = {}
        for tenant_id in (OURS, THEIRS):
            runs[tenant_id] = await self._stock(tenant_id)
        for name in CALLERS:
            secret = await house.secret(name, *(() if name == "operator" else (OURS,)))
            self.secrets[name] = secret
        made = []
        async with house.client("operator") as operator:
            for tenant_id in (SPARE, THEIRS):
                key = await operator.create_key(
                    "spare", roles=[access_pb2.ROLE_VIEWER], tenant_ids=[tenant_id]
                )
                made.append(key.api_key.api_key_id)
        nobody = ids.new_id(OURS, 5, b"nobody")
        self.pool = Pool(
            names={
                Owned.TENANT: (OURS, SPARE, "nowhere", "Alpha", "alpha "),
                Owned.RUN: (*runs[OURS], *runs[THEIRS], nobody, nobody.upper()),
                # Not theirs: an operator may revoke it.
                Owned.API_KEY: (made[0], nobody),
                Owned.AGENT: (nobody,),
                Owned.WORKFLOW: ("known", "unknown"),
                Owned.SCHEDULE: ("nightly", "unknown"),
            },
            own={
                Owned.TENANT: OURS,
                Owned.RUN: runs[OURS][0],
                Owned.API_KEY: made[0],
                Owned.AGENT: nobody,
                Owned.WORKFLOW: "known",
                Owned.SCHEDULE: "nightly",
            },
            callers=_callers,
        )
        self.begin()

    async def _stock(self, tenant_id: str) -> list[str]:
        async with self.installation.client("admin", tenant_id) as admin:
            await admin.register_workflow(_known().definition())
            started = [(await admin.start_run("known")).run_id for _ in range(5)]
            await admin.cancel_run(started[-1])
            # One that can be moved.
            await admin.operations.pause(started[-2])
            await admin.register_workflow(_known("newer").definition())
        return started

    def begin(self) -> None:
        """Notes how everything is before the first call."""
        self._theirs = holdings.of_url(self.installation.store, THEIRS)
        self._rss_mib = self.process.memory_info().rss >> 20

    def judge(self, call: Call) -> None:
        """Makes a call, and wants a typed answer, and a refusal to have changed nothing."""
        before = self._dump()
        reason = self._ask(call)
        self.answers[reason] += 1
        assert reason in _REASONS - _FAULTS or reason in ("OK", "quiet"), f"{reason}: {call}"
        if reason not in ("OK", "quiet") and len(call.said) <= 1:
            assert self._dump() == before, f"{reason}, and something changed: {call}"

    def end(self) -> None:
        """Wants it to serve still, without faults or leaks; the other tenant is as it was."""
        assert self.coordinator.child.poll() is None, self.coordinator.log_tail()
        faults = [line for line in self.coordinator.log_lines() if line["level"] == "error"]
        assert not faults, faults[:3]
        assert (self.process.memory_info().rss >> 20) - self._rss_mib < GROWTH_MIB
        assert holdings.of_url(self.installation.store, THEIRS) == self._theirs
        logbook.read_url(self.installation.store).check()

    def close(self) -> None:
        """Hangs up."""
        self._channel.close()

    def _dump(self) -> raw.Dump:
        return {} if self._database is None else raw.dump(self._database)

    def _ask(self, call: Call) -> str:
        rpc = METHODS[call.method]
        metadata = (("authorization", f"Bearer {self.secrets[call.caller]}"),)
        may_be_quiet = rpc.server_streaming or "wait" in rpc.input_type.fields_by_name
        seconds = QUIET_SECONDS if may_be_quiet else PATIENCE_SECONDS
        begin = time.monotonic()
        try:
            if rpc.client_streaming:
                streaming: Any = self._channel.stream_stream(call.method)
                for _ in streaming(iter(call.said), metadata=metadata, timeout=seconds * 8):
                    pass
            else:
                answering: Any = self._channel.unary_stream(call.method)
                answers = answering(call.said[0], metadata=metadata, timeout=seconds)
                next(answers, None)
                answers.cancel()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and may_be_quiet:
                return "quiet"
            took = time.monotonic() - begin
            return _reason(error) or f"{error.code()} {error.details()} after {took:.1f} s"
        return "OK"


def _known(description: str = "") -> Workflow:
    with Workflow("known", description=description) as workflow:
        workflow.task("a", kind="k")
        workflow.task("b", kind="k", after=["a"])
    return workflow


def _reason(error: Any) -> str:
    """The reason of a typed refusal, empty for one that is not."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is None:
        return ""
    status, info = status_pb2.Status.FromString(details), error_details_pb2.ErrorInfo()
    typed = status.details and status.details[0].Unpack(info)
    return str(info.reason) if typed and status.code == error.code().value[0] else ""


def _callers(method: str) -> list[str]:
    """Those whom the rule names, mostly."""
    roles = RULES[method].roles
    return [name for name, role in CALLERS.items() if role in roles]


def told(world: World) -> Iterator[str]:
    """What was answered, for people."""
    for reason, count in world.answers.most_common():
        yield f"{count:7} {reason}"
