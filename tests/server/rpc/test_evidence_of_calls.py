"""Every RPC leaves one entry for each call, let in or refused, in the right log and in no other.

Built from the descriptors: an RPC that joins the contract joins these tests by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message_factory import GetMessageClass
from tests import logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refusal, read_refusal
from tests.server.rpc.test_matrix import (
    CALLERS,
    METHODS,
    RULES,
    _marked_paths,
    _names,
    _open_run,
    _request,
)

from tenure.v1 import tenants_pb2
from tenure_evidence.canonical import digest_text
from tenure_server.core import ids
from tenure_server.engine import strangers
from tenure_server.rpc.owned import Owned

INSTALLATION = ""
WORK = "/tenure.v1.Agents/Work"
#: What a call leaves that says more than one thing: by default its rule's kind alone.
KINDS = {WORK: ["lease.work", "lease.settle"]}
#: What an operator's act concerns, when that is a tenant.
TENANTS_OWN = frozenset(
    f"/tenure.v1.Tenants/{name}" for name in ("UpdateTenant", "PauseTenant", "ResumeTenant")
)
NO_MESSAGE = b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who calls, and in which log that stands."""

    name: str
    secret: str
    api_key_id: str

    @property
    def log(self) -> str:
        """The tenant's, or for an operator the installation's."""
        return INSTALLATION if self.name == "operator" else "alpha"


@dataclass(slots=True)
class Desk:
    """A coordinator, its logs, and those who call it."""

    live: LiveCoordinator
    askers: dict[str, Asker] = field(default_factory=dict)
    #: The RPCs that are served. That none is missing, the matrix wants.
    methods: list[str] = field(default_factory=list)
    calls: int = 0

    async def furnish(self) -> None:
        """Finds out the ids of the callers' keys, and what is served."""
        for method in METHODS:
            refusal = await _call(self.live, method, b"", None, "served")
            if refusal is None or refusal.reason != "METHOD_UNKNOWN":
                self.methods.append(method)
        for name in CALLERS:
            calls = self.live.calls(name)
            caller = await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())
            secret = self.live.secrets[name if name == "operator" else f"alpha/{name}"]
            self.askers[name] = Asker(name, secret, caller.api_key.api_key_id)

    def served(self, method: str) -> Asker:
        """Somebody who may call a method."""
        return next(self.askers[it] for it, role in CALLERS.items() if role in RULES[method].roles)

    def denied(self, method: str) -> Iterator[Asker]:
        """Everybody who may not."""
        rule = RULES[method]
        yield from (self.askers[it] for it, role in CALLERS.items() if role not in rule.roles)

    async def request(self, method: str) -> Any:
        """A request that keeps every rule, about things of alpha that nobody else needs."""
        request = _request(method, await _names(self.live, "alpha"))
        await _open_run(self.live, method, request)
        if method.endswith("/DeleteTenant"):
            self.calls += 1
            request.tenant_id = f"doomed-{self.calls}"
            await self.live.calls("operator").tenants.CreateTenant(
                tenants_pb2.CreateTenantRequest(tenant_id=request.tenant_id)
            )
        return request

    async def ask(
        self, method: str, raw: bytes, asker: Asker | None
    ) -> tuple[Refusal | None, dict[str, list[dict[str, Any]]], str]:
        """Makes a call; gives its refusal, what was added to the logs, and its correlation id."""
        self.calls += 1
        tie = f"tie-{self.calls}"
        before = logbook.sizes(self.live.server.store)
        refusal = await _call(self.live, method, raw, asker, tie)
        return refusal, logbook.since(self.live.server.store, before), tie


async def _call(
    live: LiveCoordinator, method: str, raw: bytes, asker: Asker | None, tie: str
) -> Refusal | None:
    rpc = METHODS[method]
    words = ("stream" if it else "unary" for it in (rpc.client_streaming, rpc.server_streaming))
    start = getattr(live.channel, "_".join(words))(
        method, response_deserializer=GetMessageClass(rpc.output_type).FromString
    )
    metadata = [("x-correlation-id", tie)]
    if asker is not None:
        metadata.append(("authorization", f"Bearer {asker.secret}"))
    call = start(iter([raw]) if rpc.client_streaming else raw, metadata=metadata)
    try:
        if rpc.client_streaming:
            async for _ in call:
                pass
        elif rpc.server_streaming:
            # Some go on for as long as their reader stays.
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    return None


@pytest.fixture
async def desk(on_either: LiveCoordinator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A coordinator with its callers. However it was asked, its logs are whole."""
    # However fast the calls follow each other, none is only counted.
    monkeypatch.setattr(strangers, "EACH_MAX", 1_000_000)
    desk = Desk(on_either)
    await desk.furnish()
    yield desk
    logbook.read(on_either.server.store).check()


def said_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry says of a call, without numbers, times and what an article warned of."""
    assert entry["verdict"] == ("warn" if "articles" in entry else "allow")
    words = ("kind", "method", "principal", "roles", "correlation", "refusal", "request")
    return {word: entry[word] for word in words if word in entry}


def expected(
    method: str, asker: Asker | None, tie: str, raw: bytes | None, **more: str
) -> dict[str, Any]:
    """What the entry of a call has to say. `raw`: the message, if it was looked at."""
    says: dict[str, Any] = {
        "kind": RULES[method].evidence,
        "method": method,
        "principal": "",
        "correlation": tie,
        **more,
    }
    if asker is not None:
        role = "tenant_admin" if asker.name == "admin" else asker.name
        says |= {"principal": asker.api_key_id, "roles": [role]}
    if raw is not None:
        says["request"] = digest_text(raw)
    return says


def test_every_rpc_has_a_rule_and_says_what_its_evidence_is_called() -> None:
    """A kind names a noun and what was done to it."""
    assert set(RULES) == set(METHODS)
    for rule in RULES.values():
        noun, _, deed = rule.evidence.partition(".")
        assert rule.roles, rule.method
        assert noun.isidentifier(), rule.method
        assert deed.isidentifier(), rule.method


async def test_every_call_that_is_let_in_leaves_one_entry(desk: Desk) -> None:
    """Reads too; in its tenant's log, or the installation's when an operator calls."""
    for method in desk.methods:
        asker = desk.served(method)
        raw = (await desk.request(method)).SerializeToString()
        refusal, added, tie = await desk.ask(method, raw, asker)
        assert refusal is None, (method, refusal)
        log = "alpha" if method in TENANTS_OWN else asker.log
        assert list(added) == [log], (method, added)
        kinds = KINDS.get(method, [RULES[method].evidence])
        assert [said_of(entry) for entry in added[log]] == [
            expected(method, asker, tie, raw, kind=kind) for kind in kinds
        ]
        for entry in added[log]:
            assert entry["took"] >= 0
            assert "items" not in entry or method.endswith(
                ("Run", "Runs", "Task", "TriggerSchedule", "PublishEvent")
            )


async def test_every_call_of_somebody_who_may_not_leaves_one_entry(desk: Desk) -> None:
    """Its message was not looked at."""
    names = await _names(desk.live, "alpha")
    for method in desk.methods:
        raw = _request(method, names).SerializeToString()
        for asker in (*desk.denied(method), None):
            refusal, added, tie = await desk.ask(method, raw, asker)
            reason = "CREDENTIAL_MISSING" if asker is None else "ROLE_MISSING"
            log = INSTALLATION if asker is None else asker.log
            _assert_one_refusal(
                refusal, added, log, expected(method, asker, tie, None, refusal=reason)
            )


async def test_every_call_with_a_bad_message_leaves_one_entry(desk: Desk) -> None:
    """With the digest of the very bytes that came, which are no message at all."""
    for method in desk.methods:
        asker = desk.served(method)
        refusal, added, tie = await desk.ask(method, NO_MESSAGE, asker)
        says = expected(method, asker, tie, NO_MESSAGE, refusal="FIELD_INVALID")
        _assert_one_refusal(refusal, added, asker.log, says)


async def test_every_call_that_names_something_of_another_tenant_leaves_one_entry(
    desk: Desk,
) -> None:
    """With its caller: the other tenant's log does not tell that anybody asked."""
    looked_at = set()
    own, there = await _names(desk.live, "alpha"), await _names(desk.live, "beta")
    for method in desk.methods:
        asker = desk.served(method)
        for path in _marked_paths(method) if asker.name != "operator" else ():
            raw = _request(method, own, at=path, foreign=there).SerializeToString()
            refusal, added, tie = await desk.ask(method, raw, asker)
            says = expected(method, asker, tie, raw, refusal="NOT_FOUND")
            _assert_one_refusal(refusal, added, "alpha", says)
            looked_at.add(path)
    assert looked_at >= {"run_id", "tenant_id", "hello.tenant_ids", "results.lease.run_id"}


async def test_what_its_handler_refuses_leaves_one_entry_too(desk: Desk) -> None:
    """Also where a transaction was begun for it and rolled back."""
    names = await _names(desk.live, "alpha")
    nobody = {**names, Owned.RUN: ids.new_id("alpha", 5, b"nobody"), Owned.WORKFLOW: "unknown"}
    cases = [
        ("/tenure.v1.Runs/GetRun", nobody, "NOT_FOUND"),
        ("/tenure.v1.Runs/WatchRun", nobody, "NOT_FOUND"),
        ("/tenure.v1.Runs/CancelRun", nobody, "NOT_FOUND"),
        ("/tenure.v1.Runs/StartRun", nobody, "NOT_FOUND"),
        ("/tenure.v1.Workflows/GetWorkflow", nobody, "NOT_FOUND"),
        ("/tenure.v1.Tenants/CreateTenant", names, "ALREADY_EXISTS"),
    ]
    for method, named, reason in cases:
        request = _request(method, named)
        if reason == "ALREADY_EXISTS":
            request.tenant_id = "alpha"
        raw, asker = request.SerializeToString(), desk.served(method)
        refusal, added, tie = await desk.ask(method, raw, asker)
        says = expected(method, asker, tie, raw, refusal=reason)
        _assert_one_refusal(refusal, added, asker.log, says)


def _assert_one_refusal(
    refusal: Refusal | None,
    added: dict[str, list[dict[str, Any]]],
    log: str,
    says: dict[str, Any],
) -> None:
    """Wants one entry, and that the caller was told where it is."""
    assert refusal is not None, says
    assert refusal.reason == says["refusal"], (says, refusal)
    assert list(added) == [log], (says, added)
    [entry] = added[log]
    assert said_of(entry) == says
    assert "items" not in entry
    assert refusal.facts["decision"] == f"{log or 'installation'}/{entry['index']}"


async def test_a_mutation_that_is_repeated_leaves_one_entry_each_time(desk: Desk) -> None:
    """Though it happened once only."""
    for method in desk.methods:
        request = await desk.request(method)
        if not RULES[method].mutation or not hasattr(request, "request_id"):
            continue
        request.request_id = f"once-{method}"
        raw, asker = request.SerializeToString(), desk.served(method)
        for turn in range(2):
            refusal, added, tie = await desk.ask(method, raw, asker)
            assert refusal is None, (method, refusal)
            # By its repetition nothing happens to the tenant.
            log = "alpha" if method in TENANTS_OWN and turn == 0 else asker.log
            assert list(added) == [log], (method, added)
            assert [said_of(it) for it in added[log]] == [expected(method, asker, tie, raw)]


async def test_what_nobody_decided_leaves_no_entry(desk: Desk) -> None:
    """UNAVAILABLE says only that nobody could, and names no decision."""
    names = await _names(desk.live, "alpha")
    chain = desk.live.server._chain
    for method in desk.methods:
        raw, asker = _request(method, names).SerializeToString(), desk.served(method)
        chain.closing = True
        refusal, added, _ = await desk.ask(method, raw, asker)
        chain.closing = False
        assert refusal is not None
        assert (refusal.code, added) == (grpc.StatusCode.UNAVAILABLE, {}), method
        assert "decision" not in refusal.facts
