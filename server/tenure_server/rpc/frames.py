"""The agents' protocol, contract to core and back: the hot half of `convert`.

Thousands of these are made a second, so nothing stands between the message and the engine's own
values. A frame to an agent holds everything that is due; it is split where its leases carry so much
data that it would grow past `FRAME_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from tenure.v1 import agents_pb2, payload_pb2
from tenure_server.core import errors, ids
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.evidence import Draft
from tenure_server.core.leasing.leases import STOPPED, Lease, Stopped, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.sessions import (
    AgentSession,
    Cancellation,
    Hello,
    LeaseStanding,
    Outbound,
    Outcome,
    Ref,
    Renewal,
    Report,
)
from tenure_server.rpc import convert

#: What a frame with leases may weigh, about: clients take 4 MiB unless they were told otherwise.
FRAME_BYTES = 3 << 20
# Ids, keys, token and the like, beside the payloads.
_LEASE_BYTES = 256
_HASH_BYTES = 32
# Signature and key hash of a mandate, and what frames its fields.
_MANDATE_BYTES = 96
# What frames an item of several leases there, and each of its tasks.
_SHARED_BYTES = 16
_TASK_BYTES = 3
_SUCCESS = Success()

Outcomes = RepeatedCompositeFieldContainer[agents_pb2.Outcome]
Standings = RepeatedCompositeFieldContainer[agents_pb2.LeaseStanding]


# -- what agents say


def hello(message: agents_pb2.Hello) -> Hello:
    """How an agent introduces itself."""
    return Hello(
        agent=message.agent,
        instance=message.instance,
        kinds=frozenset(message.kinds),
        slots=message.slots,
        labels=dict(message.labels),
        held=[ref(item) for item in message.held],
        several=message.several,
        wants_mandates=not message.without_mandates,
    )


def ref(message: agents_pb2.LeaseRef) -> Ref:
    """The words that name a lease."""
    return message.run_id, message.task_key, message.term, message.token


def renewals(messages: Iterable[agents_pb2.Renewal]) -> list[Renewal]:
    """Signs of life. Raises FieldsInvalid for a checkpoint that is too large or does not parse."""
    return [_renewal(item, index) for index, item in enumerate(messages)]


def reports(messages: Iterable[agents_pb2.Result]) -> list[Report]:
    """Ends of attempts. Whether an output is allowed is the engine's verdict."""
    return [Report(ref(item.lease), _end(item, index)) for index, item in enumerate(messages)]


def hear(session: AgentSession, frame: agents_pb2.WorkRequest) -> None:
    """Tells the session everything that a frame says. Raises FieldsInvalid, and then nothing of it.

    Results go before credits, so that what they free can be granted in the same breath.
    """
    said_renewals = renewals(frame.renewals) if frame.renewals else ()
    ends = reports(frame.results)
    named = _tenants_named(session, frame) if frame.results or frame.returns else ()
    with session.acting(_kind(frame), named):
        for lease in frame.accepts:
            session.accept(lease.run_id, lease.task_key, lease.term, lease.token)
        for renewal in said_renewals:
            session.renew(renewal)
        if ends:
            session.settle_all(ends)
        for lease in frame.returns:
            session.give_back(lease.run_id, lease.task_key, lease.term, lease.token)
    if frame.withdraw:
        session.withdraw(frame.withdraw)
    if frame.draining:
        session.drain()
    elif frame.credits:
        session.add_credits(frame.credits)


def _kind(frame: agents_pb2.WorkRequest) -> str:
    """The kind of act that a frame is, by the weightiest thing that it says."""
    if frame.results:
        return "lease.settle"
    return "lease.return" if frame.returns else "lease.renew"


def _tenants_named(session: AgentSession, frame: agents_pb2.WorkRequest) -> Sequence[str]:
    """The tenants whose runs a frame speaks of: what does not count is written down there too."""
    if len(session.tenant_ids) == 1 and not session.elsewhere:
        return session.tenant_ids
    refs = {result.lease.run_id for result in frame.results}
    refs.update(lease.run_id for lease in frame.returns)
    return [
        tenant_id
        for tenant_id in session.tenant_ids
        if any(ids.belongs(run_id, tenant_id) for run_id in refs)
    ]


def _renewal(message: agents_pb2.Renewal, index: int) -> Renewal:
    checkpoint = None
    if message.HasField("checkpoint"):
        path = f"renewals[{index}].checkpoint"
        checkpoint = convert.checked_payload(message.checkpoint, path)
    return Renewal(
        ref=ref(message.lease),
        progress=message.progress if message.HasField("progress") else None,
        message=_storable(message.message),
        checkpoint=checkpoint,
    )


def _end(message: agents_pb2.Result, index: int) -> Success | Failure | Stopped:
    match message.WhichOneof("end"):
        case "success":
            success = message.success
            if not success.HasField("output"):
                return _SUCCESS
            path = f"results[{index}].success.output"
            return Success(convert.payload(success.output, path))
        case "failure":
            failure = message.failure
            return Failure(
                _storable(failure.code), _storable(failure.message), failure.non_retryable
            )
        case "stopped":
            return STOPPED
        case _:
            raise errors.FieldsInvalid([(f"results[{index}].end", "is required")])


def _storable(text: str) -> str:
    """Text without the one character that PostgreSQL cannot keep; handlers do print it."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


# -- what agents are told


def frames(outbound: Outbound) -> Iterator[agents_pb2.WorkResponse]:
    """Everything that is due, in as few frames as the size allows."""
    frame = agents_pb2.WorkResponse(draining=outbound.draining)
    last = agents_pb2.WorkResponse(withdrawn=outbound.withdrawn)
    if outbound.wanted is not None:
        last.wanted.credits, last.wanted.weight = outbound.wanted
    fill_outcomes(frame.outcomes, outbound.outcomes)
    fill_standings(frame.standings, outbound.standings)
    _fill_cancellations(frame, outbound.cancellations)
    mandates = Mandates()
    for leases in _split(outbound.leases):
        fill_batch(frame.batch, leases, mandates)
        yield frame
        frame = agents_pb2.WorkResponse()
    if not outbound.leases:
        frame.MergeFrom(last)
        yield frame
    elif last.ListFields():
        yield last


def fitting(leases: Sequence[Lease]) -> int:
    """How many of the leases fit into one frame: the first always does."""
    return next((len(part) for part in _split(leases)), 0)


class Mandates:
    """What was signed of the acts that granted some leases: made once, in however many frames."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[Draft, tuple[agents_pb2.Mandate, dict[int, int]]] = {}

    def of(self, grant: Draft) -> tuple[agents_pb2.Mandate, dict[int, int]]:
        """The mandate of an act, and for each of its events the place of its item."""
        made = self._made.get(grant)
        if made is None:
            mandate = agents_pb2.Mandate(
                entry=grant.entry,
                signature=grant.signature,
                key_hash=grant.key_hash,
                leaf_hashes=b"".join(grant.leaf_hashes),
            )
            places, events = dict[int, int](), iter(grant.events)
            for place, tasks in enumerate(grant.item_tasks):
                places |= dict.fromkeys(islice(events, len(tasks)), place)
                if len(tasks) > 1:
                    mandate.shared.add(position=place, tasks=tasks)
            made = self._made[grant] = (mandate, places)
        return made


def fill_batch(
    batch: agents_pb2.LeaseBatch, leases: Iterable[Lease], mandates: Mandates | None = None
) -> None:
    """Writes leases, and each of their runs and of their mandates once."""
    mandates = mandates or Mandates()
    described: set[str] = set()
    numbers: dict[Draft, int] = {}
    grant: Draft | None = None
    number, places = 0, dict[int, int]()
    for lease in leases:
        run, task = lease.run, lease.task
        if run.run_id not in described:
            described.add(run.run_id)
            _describe(batch, run)
        if lease.grant is not grant:
            grant = lease.grant
            number, places = _mandate(batch, grant, numbers, mandates)
        message = batch.leases.add(
            run_id=run.run_id,
            task_key=lease.task_key,
            term=lease.term,
            token=lease.token,
            kind=task.kind,
            attempt=lease.attempt,
            mandate=number,
            mandate_position=places[lease.event] if places else 0,
            grant_us=lease.grant_us,
            grant_sequence=lease.grant_sequence,
        )
        if lease.input is not None:
            convert.fill_payload(message.input, lease.input)
        if lease.upstream:
            _fill_upstream(message, lease.upstream)
        if task.attempt_timeout_us is not None:
            message.attempt_timeout.CopyFrom(convert.duration(task.attempt_timeout_us))
        if lease.checkpoint is not None:
            convert.fill_payload(message.checkpoint, lease.checkpoint)


def fill_outcomes(messages: Outcomes, outcomes: Iterable[Outcome]) -> None:
    """Writes what became of results."""
    for run_id, task_key, term, verdict in outcomes:
        messages.add(
            run_id=run_id,
            task_key=task_key,
            term=term,
            verdict=cast("agents_pb2.Verdict.ValueType", int(verdict)),
        )


def fill_standings(messages: Standings, standings: Iterable[LeaseStanding]) -> None:
    """Writes how leases stand."""
    for run_id, task_key, term, standing, expire_us in standings:
        messages.add(
            run_id=run_id,
            task_key=task_key,
            term=term,
            standing=cast("agents_pb2.Standing.ValueType", int(standing)),
            expire_time=convert.timestamp(expire_us),
        )


def agent_message(value: records.Agent) -> agents_pb2.Agent:
    """An agent as one of its tenants sees it."""
    return agents_pb2.Agent(
        agent_id=value.agent_id,
        name=value.name,
        kinds=value.kinds,
        slots=value.slots,
        leases=value.leases,
        labels=value.labels,
        state=cast("agents_pb2.AgentState.ValueType", int(value.presence)),
        connect_time=convert.timestamp(value.connect_us),
        seen_time=convert.timestamp(value.seen_us),
    )


def _fill_cancellations(
    frame: agents_pb2.WorkResponse, cancellations: Iterable[Cancellation]
) -> None:
    for run_id, task_key, term, reason in cancellations:
        frame.cancellations.add(run_id=run_id, task_key=task_key, term=term, reason=reason)


def _describe(batch: agents_pb2.LeaseBatch, run: LiveRun) -> None:
    """Writes what the leases of a run have in common."""
    context = batch.runs.add(
        run_id=run.run_id,
        tenant_id=run.tenant_id,
        workflow=run.workflow,
        workflow_version=run.workflow_version,
        workflow_digest=run.workflow_digest,
        correlation_id=run.correlation_id,
        constitution_digest=run.constitution_digest,
    )
    if run.input is not None:
        convert.fill_payload(context.input, run.input)


def _mandate(
    batch: agents_pb2.LeaseBatch,
    grant: Draft | None,
    numbers: dict[Draft, int],
    mandates: Mandates,
) -> tuple[int, dict[int, int]]:
    """Writes the mandate of an act, once. Gives its number, and no places when nobody signed."""
    if grant is None or not grant.signature:
        return 0, {}
    mandate, places = mandates.of(grant)
    number = numbers.get(grant)
    if number is None:
        number = numbers[grant] = len(batch.mandates)
        batch.mandates.append(mandate)
    return number, places


def _fill_upstream(message: agents_pb2.Lease, upstream: dict[str, Payload]) -> None:
    for key, value in upstream.items():
        part: payload_pb2.Payload = message.upstream[key]
        convert.fill_payload(part, value)


def _split(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    """Cuts leases into runs of about `FRAME_BYTES`."""
    begin, size = 0, 0
    described: set[str | Draft] = set()
    for index, lease in enumerate(leases):
        weight = _LEASE_BYTES
        if lease.input is not None:
            weight += len(lease.input.data)
        if lease.upstream:
            weight += sum(len(key) * 4 + len(p.data) for key, p in lease.upstream.items())
        if lease.checkpoint is not None:
            weight += len(lease.checkpoint.data)
        run, grant = lease.run, lease.grant
        shared = 0
        if run.run_id not in described:
            described.add(run.run_id)
            shared += _context_bytes(run)
        if grant is not None and grant not in described:
            described.add(grant)
            shared += _mandate_bytes(grant)
        if size + weight + shared > FRAME_BYTES and index > begin:
            yield leases[begin:index]
            begin, size = index, 0
            described = {run.run_id}
            shared = _context_bytes(run)
            if grant is not None:
                described.add(grant)
                shared += _mandate_bytes(grant)
        size += weight + shared
    if begin < len(leases):
        yield leases[begin:]


def _context_bytes(run: LiveRun) -> int:
    return len(run.input.data) if run.input is not None else 0


def _mandate_bytes(grant: Draft) -> int:
    if not grant.signature:
        return 0
    size = len(grant.entry) + _HASH_BYTES * len(grant.leaf_hashes) + _MANDATE_BYTES
    for tasks in grant.item_tasks:
        if len(tasks) > 1:
            size += _SHARED_BYTES + sum(_TASK_BYTES + len(task) * 4 for task in tasks)
    return size
