"""The agents' protocol: what is due goes out whole, and in frames that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2
from tenure_server.core import errors, ids
from tenure_server.core.definitions.definition import Payload, WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.evidence import Act, Draft
from tenure_server.core.leasing.leases import STOPPED, AgentSlots, Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure, RunState, Standing, Verdict
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.sessions import AgentSession, Outbound, Renewal, Report
from tenure_server.rpc import frames

REF = agents_pb2.LeaseRef(run_id="r", task_key="a", term=3, token=b"token")


class Notebook:
    """Writes down what a session is told."""

    def __init__(self, *tenant_ids: str) -> None:
        self.tenant_ids = tenant_ids or ("acme",)
        self.elsewhere = ()
        self.heard: list[tuple[Any, ...]] = []
        #: Of each act its kind, the tenants named, and how much of `heard` belongs to it.
        self.acts: list[tuple[str, list[str], int]] = []

    @contextmanager
    def acting(self, kind: str, tenant_ids: Sequence[str] = ()) -> Iterator[None]:
        before = len(self.heard)
        yield
        self.acts.append((kind, list(tenant_ids), len(self.heard) - before))

    def __getattr__(self, name: str) -> Any:
        return lambda *words: self.heard.append((name, *words))

    @property
    def session(self) -> AgentSession:
        """The notebook where a session is wanted."""
        return cast("AgentSession", self)


def test_a_frame_is_heard_whole_and_results_before_credits() -> None:
    """What results free can then be granted at once."""
    notebook = Notebook()
    frames.hear(
        notebook.session,
        agents_pb2.WorkRequest(
            credits=2,
            accepts=[REF],
            renewals=[agents_pb2.Renewal(lease=REF, progress=0.5, message="half")],
            results=[
                agents_pb2.Result(
                    lease=REF,
                    success=agents_pb2.Success(output=payload_pb2.Payload(data=b"1")),
                ),
                agents_pb2.Result(lease=REF, success=agents_pb2.Success()),
                agents_pb2.Result(
                    lease=REF,
                    failure=runs_pb2.Failure(code="E", message="m", non_retryable=True),
                ),
                agents_pb2.Result(lease=REF, stopped=agents_pb2.Stopped()),
            ],
            returns=[REF],
        ),
    )
    ref = ("r", "a", 3, b"token")
    assert notebook.heard == [
        ("accept", *ref),
        ("renew", Renewal(ref, 0.5, "half", None)),
        (
            "settle_all",
            [
                Report(ref, Success(Payload(b"1"))),
                Report(ref, Success(None)),
                Report(ref, Failure("E", "m", True)),
                Report(ref, STOPPED),
            ],
        ),
        ("give_back", *ref),
        ("add_credits", 2),
    ]
    assert notebook.acts == [("lease.settle", ["acme"], 4)], "credits are no part of the act"


def _of(tenant_id: str) -> agents_pb2.LeaseRef:
    run_id = ids.new_id(tenant_id, 1, b"random")
    return agents_pb2.LeaseRef(run_id=run_id, task_key="a", term=3, token=b"token")


@pytest.mark.parametrize(
    ("frame", "kind", "named"),
    [
        (agents_pb2.WorkRequest(credits=1), "lease.renew", []),
        (agents_pb2.WorkRequest(renewals=[agents_pb2.Renewal(lease=_of("b"))]), "lease.renew", []),
        (
            agents_pb2.WorkRequest(
                renewals=[agents_pb2.Renewal(lease=_of("a"))], returns=[_of("b")]
            ),
            "lease.return",
            ["b"],
        ),
        (
            agents_pb2.WorkRequest(
                results=[agents_pb2.Result(lease=_of("c"), stopped=agents_pb2.Stopped())],
                returns=[_of("a")],
            ),
            "lease.settle",
            ["a", "c"],
        ),
    ],
    ids=["credits", "a renewal", "a return", "a result and a return"],
)
def test_a_frame_is_one_act_by_its_weightiest_word_in_the_logs_it_speaks_of(
    frame: agents_pb2.WorkRequest, kind: str, named: list[str]
) -> None:
    """Results and returns are written down with the tenants that they name, whatever they change;
    the rest only where something happens.
    """
    notebook = Notebook("a", "b", "c")
    frames.hear(notebook.session, frame)
    assert [(one, tenants) for one, tenants, _ in notebook.acts] == [(kind, named)]


def test_an_agent_that_drains_gets_no_credit() -> None:
    """It may say both in one frame."""
    notebook = Notebook()
    frames.hear(notebook.session, agents_pb2.WorkRequest(credits=5, draining=True))
    assert notebook.heard == [("drain",)]


@pytest.mark.parametrize(
    ("frame", "path"),
    [
        (
            agents_pb2.WorkRequest(
                accepts=[REF],
                renewals=[
                    agents_pb2.Renewal(lease=REF),
                    agents_pb2.Renewal(lease=REF, checkpoint=payload_pb2.Payload(data=b"{")),
                ],
            ),
            "renewals[1].checkpoint",
        ),
        (
            agents_pb2.WorkRequest(accepts=[REF], results=[agents_pb2.Result(lease=REF)]),
            "results[0].end",
        ),
        (
            agents_pb2.WorkRequest(
                accepts=[REF],
                results=[
                    agents_pb2.Result(
                        lease=REF,
                        success=agents_pb2.Success(
                            output=payload_pb2.Payload(data=b"", content_type="\n")
                        ),
                    )
                ],
            ),
            "results[0].success.output.content_type",
        ),
    ],
)
def test_nothing_of_a_bad_frame_is_heard(frame: agents_pb2.WorkRequest, path: str) -> None:
    """It is refused by the path of what is wrong, before anything is applied."""
    notebook = Notebook()
    with pytest.raises(errors.FieldsInvalid) as raised:
        frames.hear(notebook.session, frame)
    assert raised.value.violations[0][0] == path
    assert (notebook.heard, notebook.acts) == ([], [])


def test_an_output_that_is_too_large_is_the_engines_to_judge() -> None:
    """It costs its attempt and not the stream."""
    notebook = Notebook()
    output = payload_pb2.Payload(data=b"{" * (1 << 21))
    result = agents_pb2.Result(lease=REF, success=agents_pb2.Success(output=output))
    frames.hear(notebook.session, agents_pb2.WorkRequest(results=[result]))
    assert notebook.heard[0][-1][0].end == Success(Payload(output.data))


def test_what_a_handler_prints_can_always_be_kept() -> None:
    """PostgreSQL has no NUL in text, and programs print it when they die."""
    notebook = Notebook()
    failure = runs_pb2.Failure(code="E\0", message="core\0dumped")
    frames.hear(
        notebook.session,
        agents_pb2.WorkRequest(results=[agents_pb2.Result(lease=REF, failure=failure)]),
    )
    assert notebook.heard[0][-1][0].end == Failure("E\ufffd", "core\ufffddumped")


def _run(number: int, *, input_bytes: int = 0, tasks: list[WorkflowTask]) -> LiveRun:
    definition = WorkflowDefinition(name="w", tasks=tuple(tasks))
    record = records.Run(
        tenant_id="acme",
        run_id=f"run-{number}",
        workflow="w",
        workflow_version=2,
        workflow_digest="sha256:d",
        state=RunState.RUNNING,
        priority=0,
        labels={},
        input=Payload(b"i" * input_bytes) if input_bytes else None,
        correlation_id="c",
        started_by="k",
        reason="",
        task_count=len(tasks),
        succeeded=0,
        failed=0,
        upstream_failed=0,
        cancelled=0,
        create_us=0,
        start_us=None,
        end_us=None,
        constitution_digest="sha256:c",
    )
    graph = Graph.build([(task.key, task.depends_on) for task in tasks])
    return LiveRun(record, definition, graph, order=number)


def _lease(run: LiveRun, index: int, **settings: Any) -> Lease:
    settings = {"term": 1, "attempt": 1, "token": b"t", "until_us": 5, **settings}
    return Lease(run, index, AgentSlots("host", "k"), accepted=False, **settings)


def test_a_lease_carries_everything_that_its_handler_needs() -> None:
    """And its run is described once for all of its leases."""
    tasks = [
        WorkflowTask(key="a", kind="k", input=Payload(b"1", "a/b"), attempt_timeout_us=1_500_000),
        WorkflowTask(key="b", kind="l"),
    ]
    run = _run(1, input_bytes=3, tasks=tasks)
    first = _lease(
        run,
        0,
        term=7,
        attempt=2,
        checkpoint=Payload(b"2"),
        upstream={"x": Payload(b"3"), "y": Payload(b"4", "c/d")},
    )
    batch = agents_pb2.LeaseBatch()
    frames.fill_batch(batch, [first, _lease(run, 1)])
    [context] = batch.runs
    assert context == agents_pb2.RunContext(
        run_id="run-1",
        tenant_id="acme",
        workflow="w",
        workflow_version=2,
        workflow_digest="sha256:d",
        input=payload_pb2.Payload(data=b"iii"),
        correlation_id="c",
        constitution_digest="sha256:c",
    )
    assert batch.leases[1] == agents_pb2.Lease(
        run_id="run-1", task_key="b", term=1, token=b"t", kind="l", attempt=1
    )
    lease = batch.leases[0]
    assert (lease.term, lease.attempt, lease.kind) == (7, 2, "k")
    assert lease.input == payload_pb2.Payload(data=b"1", content_type="a/b")
    assert lease.checkpoint.data == b"2"
    assert dict(lease.upstream) == {
        "x": payload_pb2.Payload(data=b"3"),
        "y": payload_pb2.Payload(data=b"4", content_type="c/d"),
    }
    assert lease.attempt_timeout.ToMicroseconds() == 1_500_000


def _grant(number: int, leases: list[Lease], *, key_hash: bytes = b"key1") -> Draft:
    """An act that granted leases; before each of them something else happened."""
    events = [100 * number + 2 * place for place in range(len(leases))]
    draft = Draft(Act(kind="lease.grant"), "acme", 5, "", [e for n in events for e in (n, n + 1)])
    draft.entry = b"entry %d" % number
    draft.leaf_hashes = [b"%032d" % event for event in draft.events]
    draft.item_tasks = [["t"] for _ in draft.events]
    if key_hash:
        draft.signature, draft.key_hash = b"s" * 64, key_hash
    for event, lease in zip(events, leases, strict=True):
        lease.grant, lease.event = draft, event + 1
        lease.grant_us, lease.grant_sequence = 7_000 + event, 3 + event
    return draft


def test_a_lease_tells_where_its_mandate_is() -> None:
    """However the leases of two acts are mixed, each mandate is there once."""
    run = _run(1, tasks=[WorkflowTask(key=f"t{index}", kind="k") for index in range(4)])
    leases = [_lease(run, index) for index in range(4)]
    first, second = _grant(1, leases[::2]), _grant(2, leases[1::2], key_hash=b"key2")
    batch = agents_pb2.LeaseBatch()
    frames.fill_batch(batch, leases)
    assert list(batch.mandates) == [
        agents_pb2.Mandate(
            entry=draft.entry,
            signature=b"s" * 64,
            key_hash=draft.key_hash,
            leaf_hashes=b"".join(draft.leaf_hashes),
        )
        for draft in (first, second)
    ]
    found = [
        (it.mandate, it.mandate_position, it.grant_us, it.grant_sequence) for it in batch.leases
    ]
    assert found == [(0, 1, 7100, 103), (1, 1, 7200, 203), (0, 3, 7102, 105), (1, 3, 7202, 205)]


def test_leases_that_share_an_item_have_its_place_and_its_tasks() -> None:
    """Something else happened between, and what stands alone needs no list of tasks."""
    run = _run(1, tasks=[WorkflowTask(key=f"t{index}", kind="k") for index in range(4)])
    leases = [_lease(run, index) for index in range(4)]
    draft = Draft(Act(kind="lease.grant"), "acme", 5, "", range(10, 15), mandate=True)
    draft.signature, draft.leaf_hashes = b"s" * 64, [b"%032d" % place for place in range(3)]
    draft.item_tasks = [["t0", "t1", "t2"], [""], ["t3"]]
    for event, lease in zip((10, 11, 12, 14), leases, strict=True):
        lease.grant, lease.event = draft, event
    batch = agents_pb2.LeaseBatch()
    frames.fill_batch(batch, leases)
    assert [it.mandate_position for it in batch.leases] == [0, 0, 0, 2]
    [mandate] = batch.mandates
    shared = agents_pb2.SharedItem(position=0, tasks=["t0", "t1", "t2"])
    assert list(mandate.shared) == [shared]


def test_without_a_signature_there_is_no_mandate() -> None:
    """Nor for a lease that was read back from the store."""
    run = _run(1, tasks=[WorkflowTask(key="a", kind="k"), WorkflowTask(key="b", kind="k")])
    leases = [_lease(run, 0), _lease(run, 1)]
    _grant(1, leases[:1], key_hash=b"")
    batch = agents_pb2.LeaseBatch()
    frames.fill_batch(batch, leases)
    assert not batch.mandates
    assert [(it.mandate, it.mandate_position) for it in batch.leases] == [(0, 0), (0, 0)]
    assert batch.leases[0].grant_sequence == 103


def test_each_frame_of_a_batch_has_the_mandates_that_it_needs() -> None:
    """They are weighed too, so that no frame grows too large by them."""
    heavy = Payload(b"x" * 900_000)
    tasks = [WorkflowTask(key=f"t{index}", kind="k", input=heavy) for index in range(12)]
    run = _run(1, tasks=tasks)
    leases = [_lease(run, index) for index in range(12)]
    drafts = [_grant(1, leases[:5]), _grant(2, leases[5:])]
    for draft in drafts:
        draft.leaf_hashes = [*draft.leaf_hashes, *[bytes(32)] * 12_000]
        draft.item_tasks = [*draft.item_tasks, [f"task-{number:05d}" for number in range(9_000)]]
    sent = list(frames.frames(Outbound(leases=leases)))
    assert len(sent) > 1
    for frame in sent:
        assert frame.ByteSize() <= frames.FRAME_BYTES
        used = {frame.batch.mandates[lease.mandate].entry for lease in frame.batch.leases}
        assert len(used) == len(frame.batch.mandates)
        for lease in frame.batch.leases:
            mandate = frame.batch.mandates[lease.mandate]
            place = 32 * lease.mandate_position
            event = b"%032d" % leases[int(lease.task_key[1:])].event
            assert mandate.leaf_hashes[place : place + 32] == event


def test_everything_that_is_due_goes_in_one_frame() -> None:
    """Outcomes, standings, cancellations, leases and the word that we stop."""
    run = _run(1, tasks=[WorkflowTask(key="a", kind="k")])
    due = Outbound(
        outcomes=[("r", "a", 1, Verdict.APPLIED)],
        leases=[_lease(run, 0)],
        standings=[("r", "b", 2, Standing.CANCELLING, 1_000_000)],
        cancellations=[("r", "b", 2, "the run was cancelled")],
        draining=True,
    )
    [frame] = frames.frames(due)
    assert frame.draining
    assert frame.outcomes[0] == agents_pb2.Outcome(
        run_id="r", task_key="a", term=1, verdict=agents_pb2.VERDICT_APPLIED
    )
    assert frame.standings[0].standing == agents_pb2.STANDING_CANCELLING
    assert frame.standings[0].expire_time.seconds == 1
    assert frame.cancellations[0].reason == "the run was cancelled"
    assert [lease.task_key for lease in frame.batch.leases] == ["a"]


def test_a_frame_without_leases_goes_out_too() -> None:
    """Outcomes are not kept back until there is something to lease."""
    [frame] = frames.frames(Outbound(outcomes=[("r", "a", 1, Verdict.UNKNOWN)]))
    assert not frame.HasField("batch")
    assert len(frame.outcomes) == 1


@given(
    some.lists(
        some.tuples(some.integers(0, 3), some.sampled_from([0, 10, 300_000, 900_000, 1_000_000])),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=25)
def test_frames_stay_small_and_lose_nothing(sizes: list[tuple[int, int]]) -> None:
    """However much data the leases carry, each goes out once, in order, with its run described."""
    data = {size: Payload(b"x" * size) for _, size in sizes}
    tasks = [
        WorkflowTask(key=f"t{index}", kind="k", input=data[size] if size else None)
        for index, (_, size) in enumerate(sizes)
    ]
    runs = [_run(number, input_bytes=number * 250_000, tasks=tasks) for number in range(4)]
    leases = [_lease(runs[number], index) for index, (number, _) in enumerate(sizes)]
    sent = list(frames.frames(Outbound(leases=leases)))
    found = [(it.run_id, it.task_key) for frame in sent for it in frame.batch.leases]
    assert found == [(lease.run.run_id, lease.task.key) for lease in leases]
    for frame in sent:
        # A single lease cannot be cut, so a frame may be over by less than one of them.
        assert frame.ByteSize() <= frames.FRAME_BYTES + 2_000_000
        described = [context.run_id for context in frame.batch.runs]
        assert sorted(described) == sorted({lease.run_id for lease in frame.batch.leases})
    assert frames.fitting(leases) == len(sent[0].batch.leases)
