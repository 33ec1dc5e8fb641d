"""Nothing of another tenant shows: every RPC × every marked id × every kind of caller.

Each mark is filled with something that another tenant has, and with what nobody has: alone, as the
last of a batch, and in a later message of a stream. The two answers must be the same in code,
words, details and trailing metadata but for the id itself, and the store must have been asked the
same things for them: no clock tells the two apart. `make bench` measures that beside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from tests import holdings, logbook
from tests.conftest import serving
from tests.server.rpc.isolation import (
    IDS,
    LEASE_REF,
    MEMBERS,
    NEIGHBOUR,
    OURS,
    PLACES,
    STOCKED,
    THEIRS,
    House,
    Place,
    reached,
    theirs_alone,
)
from tests.server.rpc.reads import Reads
from tests.server.rpc.test_matrix import METHODS, RULES

from tenure.v1 import agents_pb2, tenants_pb2
from tenure_server.config import LEASE_SECONDS_MAX
from tenure_server.core import ids
from tenure_server.core.ledger import records
from tenure_server.rpc.owned import Owned, Walker

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=["sqlite", "postgresql"], scope="module", loop_scope="module")
async def furnished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A house on each of the databases. It is asked only, so one serves all the tests."""
    folder = tmp_path_factory.mktemp("isolation")
    store = f"sqlite:///{folder}/tenure.db"
    if request.param == "postgresql":
        store = request.getfixturevalue("postgres_module_url")
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        # However slow the machine, what was leased at the beginning is leased at the end.
        living = serving(store, folder, lease_seconds=LEASE_SECONDS_MAX)
        async with living as live, AsyncExitStack() as stack:
            house = House(live, reads, stack=stack)
            await house.furnish()
            yield house
            logbook.read(live.server.store).check()


@pytest_asyncio.fixture(loop_scope="module")
async def house(furnished: House) -> AsyncIterator[House]:
    """Whatever is asked by others, what the other tenant has stays as it is, its log too."""
    furnished.look()
    yield furnished
    assert holdings.of(furnished.live.server.store, THEIRS) == furnished.theirs


async def test_every_mark_of_the_contract_is_looked_at() -> None:
    """Each as often as it stands somewhere, nested, in batches and in streams."""
    assert {place.mark for place in PLACES} <= STOCKED, (
        "something new can be named: stock the House with it, and say in IDS whether it is a name"
    )
    hows = {(place.path, place.how) for place in PLACES}
    assert ("hello.tenant_ids", "batched") in hows
    assert ("hello.held.run_id", "alone") in hows
    assert {("results.lease.run_id", how) for how in ("alone", "batched", "streamed")} <= hows


# On both databases test_matrix asks for what is another's.
async def test_what_is_anothers_and_what_is_not_there_are_told_in_the_same_words(
    house: House,
) -> None:
    """To whoever may call: NOT_FOUND, in every place; and the store is asked the same for both."""
    own = house.names[OURS]
    for place in (it for it in PLACES if it.mark in IDS):
        roles = RULES[place.method].roles - {records.Role.OPERATOR}
        callers = {f"{OURS}/{name}": "" for name, role in MEMBERS.items() if role in roles}
        if roles:
            several = "" if RULES[place.method].all_tenants else OURS
            callers |= {"second key": "", "several": several}
        choices = [
            [(name, place.messages(own, name)) for name in names]
            for names in house.indistinguishable(place.mark)
        ]
        for caller, chosen in callers.items():
            for sayings in choices:
                answers = [
                    (await house.ask(place.method, said, house.secrets[caller], chosen)).without(
                        name
                    )
                    for name, said in sayings
                ]
                assert answers[0].reason == "NOT_FOUND", (place, caller, answers[0])
                assert len(set(answers)) == 1, (place, caller)


async def test_ones_own_that_is_not_there_is_told_in_the_same_words_too(house: House) -> None:
    """By the handler instead of by the gates: wherever that says NOT_FOUND, it says no more."""
    own, looked_at = house.names[OURS], set()
    for place in (it for it in PLACES if it.mark in IDS - {Owned.TENANT} and it.how == "alone"):
        for name, role in MEMBERS.items():
            if role not in RULES[place.method].roles:
                continue
            secret = house.secrets[f"{OURS}/{name}"]
            nobody = ids.new_id(OURS, 5, b"nobody")
            mine = await house.ask(place.method, place.messages(own, nobody), secret)
            if mine.reason != "NOT_FOUND":
                # A lease that is not known is an answer, not an error.
                assert mine.reason == "OK", place
                continue
            foreign = house.names[THEIRS][place.mark]
            theirs = await house.ask(place.method, place.messages(own, foreign), secret)
            said = [
                (it.words, it.details, it.metadata)
                for it in (mine.without(nobody), theirs.without(foreign))
            ]
            assert said[0] == said[1], place
            looked_at.add(place.method.rpartition("/")[2])
    assert looked_at >= {"GetRun", "CancelRun", "ExportRun", "RevokeApiKey"}


async def test_a_name_that_another_tenant_uses_means_nothing_here(house: House) -> None:
    """Whatever is asked about it gets the answer that a name gets which nobody uses."""
    own, reasons = house.names[OURS], set()
    for place in (it for it in PLACES if it.mark not in IDS):
        role = next(name for name, it in MEMBERS.items() if it in RULES[place.method].roles)
        answers = [
            (await house.ask(place.method, place.messages(own, name), secret)).without(name)
            for secret in [house.secrets[f"{OURS}/{role}"]]
            for name in (theirs_alone(place), f"nobody-uses-{PLACES.index(place)}")
        ]
        assert answers[0] == answers[1], place
        reasons.add((place.method.rpartition("/")[2], answers[0].reason))
    assert ("StartRun", "NOT_FOUND") in reasons
    assert ("RegisterWorkflow", "OK") in reasons


# The store is not asked.
async def test_who_may_not_call_learns_nothing_from_what_he_names(house: House) -> None:
    """Nor does the operator; and nobody learns what became of a key that is none any more."""
    own, theirs = house.names[OURS], house.names[THEIRS]
    nobodies = ("nobody's", "revoked", "expired")
    for place in PLACES:
        allowed = RULES[place.method].roles
        denied = [f"{OURS}/{name}" for name, role in MEMBERS.items() if role not in allowed]
        if records.Role.OPERATOR not in allowed:
            denied.append("operator")
        names = (own[place.mark], theirs[place.mark], "nowhere")
        sayings = [place.messages(own, name) for name in names]
        heard = set()
        for caller in (None, *nobodies, *denied):
            secret = None if caller is None else house.secrets[caller]
            answers = [await house.ask(place.method, said, secret) for said in sayings]
            mine, *others = [it.without(name) for it, name in zip(answers, names, strict=True)]
            assert mine.reason in ("CREDENTIAL_MISSING", "CREDENTIAL_INVALID", "ROLE_MISSING")
            assert set(others) == {mine}, (place, caller)
            if caller in nobodies:
                heard.add(answers[names.index(theirs[place.mark])])
        assert len(heard) == 1, (place, heard)


async def test_who_acts_for_several_tenants_and_chose_one_has_that_one_only(house: House) -> None:
    """What lies in another of them is not there, as if it were a stranger's."""
    for place in (it for it in PLACES if it.mark in IDS - {Owned.TENANT}):
        if RULES[place.method].tenantless or not RULES[place.method].roles & set(MEMBERS.values()):
            continue
        name = house.names[NEIGHBOUR][place.mark]
        messages = place.messages(house.names[OURS], name)
        answered = await house.ask(place.method, messages, house.secrets["several"], OURS)
        assert answered.reason == "NOT_FOUND", place


# -- page tokens


LISTS = [
    method
    for method, rpc in METHODS.items()
    if "page_token" in rpc.input_type.fields_by_name
    and "next_page_token" in rpc.output_type.fields_by_name
]


async def test_whatever_has_pages_has_them_in_the_same_words() -> None:
    """A token by another name would pass these tests unseen."""
    for method, rpc in METHODS.items():
        names = [item.name for item in (*rpc.input_type.fields, *rpc.output_type.fields)]
        assert (method in LISTS) == any("token" in name for name in names), method


async def test_a_page_token_is_good_for_one_caller_one_tenant_and_one_list(house: House) -> None:
    """To all others it is what a token is that nobody gave out: the same words, the same reads."""
    tokens = {method: await house.token(method, "their several", THEIRS) for method in LISTS}
    house.look()
    forged = _forged(next(iter(tokens.values())))
    callers = {"second key": "", "several": OURS, "their several": NEIGHBOUR}
    for method in LISTS:
        for caller, chosen in callers.items():
            tenant_id = chosen or OURS
            tenantless = RULES[method].tenantless
            # A list that chooses no tenant is the same list whatever was chosen.
            own_list = caller == "their several" and tenantless
            answers = []
            for token in (tokens[method], *tokens.values(), forged):
                if own_list and token == tokens[method]:
                    continue
                request = house.page_of(method, tenant_id)
                request.page_token = token
                answered = await house.ask(method, [request], house.secrets[caller], chosen)
                answers.append(answered.without(token))
            assert answers[0].reason == "PAGE_TOKEN_INVALID", (method, caller)
            assert len(set(answers)) == 1, (method, caller)


def _forged(token: str) -> str:
    """A token that could be one, and was never given out."""
    return "A" * (len(token) - len(token) % 4)


# -- lease tokens


LEASING = [method for method, rpc in METHODS.items() if LEASE_REF in set(reached(rpc.input_type))]


async def test_a_lease_is_nothing_to_whoever_does_not_hold_it(house: House) -> None:
    """With its very words, its token even, others get what made-up words get; and it goes on."""
    lease, theirs = house.leases[OURS], house.leases[THEIRS]
    assert LEASING
    for method in LEASING:
        # Its holder, with a token of the other tenant's; and others, with the very token.
        cases = [(f"{OURS}/agent", theirs.token), ("second key", lease.token),
                 ("several", lease.token), ("several", theirs.token)]  # fmt: skip
        for caller, token in cases:
            answers = []
            for shown in (token, bytes(len(token))):
                said = [
                    _with_lease(message, lease, shown)
                    for message in Place(method, "", Owned.RUN, "alone").messages(
                        house.names[OURS], lease.run_id
                    )
                ]
                answered = await house.ask(method, said, house.secrets[caller])
                answers.append(answered.without(lease.run_id))
            assert answers[0] == answers[1], (method, caller)
            assert answers[0].reason == "OK", (method, caller)
    worker = house.live.calls_with(house.secrets[f"{OURS}/agent"])
    kept = await worker.agents.RenewLeases(
        agents_pb2.RenewLeasesRequest(renewals=[agents_pb2.Renewal(lease=lease)])
    )
    assert kept.standings[0].standing == agents_pb2.STANDING_HELD


def _with_lease(message: Any, lease: agents_pb2.LeaseRef, token: bytes) -> Any:
    """The message with this lease wherever it names one."""
    if message.DESCRIPTOR.full_name == LEASE_REF:
        message.CopyFrom(lease)
        message.token = token
        return message
    for item, value in message.ListFields():
        part = item.message_type
        if part is not None and not part.GetOptions().map_entry:
            for inner in value if item.is_repeated else (value,):
                _with_lease(inner, lease, token)
    return message


# -- what answers show


async def test_what_two_tenants_share_betrays_neither_to_the_other(house: House) -> None:
    """A key and an agent of both show in either's lists, but not whose they are besides."""
    both = await house.live.make_key("agent", tenants=(OURS, THEIRS))
    call: Any = house.live.channel.stream_stream(
        "/tenure.v1.Agents/Work",
        request_serializer=agents_pb2.WorkRequest.SerializeToString,
        response_deserializer=agents_pb2.WorkResponse.FromString,
    )(metadata=(("authorization", f"Bearer {both}"),))
    hello = agents_pb2.Hello(agent="shared", instance="instance", kinds=["idle"], slots=1)
    await call.write(agents_pb2.WorkRequest(hello=hello))
    await call.read()
    for mine, other in ((OURS, THEIRS), (THEIRS, OURS)):
        admin = house.live.calls_with(house.secrets[f"{mine}/admin"])
        shown = [
            await admin.agents.ListAgents(agents_pb2.ListAgentsRequest()),
            await admin.tenants.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id=mine)),
        ]
        assert [agent.name for agent in shown[0].agents].count("shared") == 1
        for answer in shown:
            for path, mark, value in Walker(answer.DESCRIPTOR).mentions(answer):
                assert value != other, path
                assert not ids.belongs(value, other), (path, mark)
    call.cancel()
    house.look()
