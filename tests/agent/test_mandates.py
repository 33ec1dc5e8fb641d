"""An agent with a public key executes what was signed for it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.agent.fake_coordinator import new_lease
from tests.agent.signatory import NAME, Signatory

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent.mandates import Batch, CoordinatorUntrusted, Guard, KeyMissing
from tenure_evidence.notes import VerifierKey
from tenure_evidence.signing import SigningKey

RUN_IDS = ("0198a1b2-0000-8000-8000-000000000001", "0198a1b2-0000-8000-8000-000000000002")


def payload(data: bytes, content_type: str = "") -> payload_pb2.Payload:
    return payload_pb2.Payload(data=data, content_type=content_type)


def new_batch() -> agents_pb2.LeaseBatch:
    """Two runs, and leases with everything and with nothing."""
    batch = agents_pb2.LeaseBatch()
    for run_id in RUN_IDS:
        batch.runs.add(
            run_id=run_id,
            tenant_id="acme",
            workflow_digest="sha256:" + "1" * 64,
            constitution_digest="sha256:" + "2" * 64,
            input=payload(b"[1]"),
        )
    batch.runs[1].ClearField("input")
    full = batch.leases.add()
    full.CopyFrom(new_lease("load", "shell", term=7, attempt=2))
    full.input.CopyFrom(payload(b"{}"))
    full.checkpoint.CopyFrom(payload(b"3"))
    for key in ("a", "b"):
        full.upstream[key].CopyFrom(payload(b"<x/>", "text/xml"))
    bare = batch.leases.add()
    bare.CopyFrom(new_lease("tidy", "tenure.noop"))
    bare.run_id = RUN_IDS[1]
    return batch


def signed_batch(signatory: Signatory) -> agents_pb2.LeaseBatch:
    batch = new_batch()
    signatory.sign(batch)
    return batch


def welcomed(signatory: Signatory, **settings: Any) -> Guard:
    """A guard that trusts the key that signs now."""
    guard = Guard(signatory.key.verifier, **{"agent": "host-1", **settings})
    guard.welcome(signatory.welcome())
    return guard


def objections(guard: Guard, batch: agents_pb2.LeaseBatch) -> list[str]:
    runs = {run.run_id: run for run in batch.runs}
    checked: Batch = guard.batch(batch)
    return [checked.objection(lease, runs[lease.run_id]) for lease in batch.leases]


def test_what_was_signed_is_executed() -> None:
    guard = welcomed(Signatory())
    assert objections(guard, signed_batch(Signatory())) == ["", ""]
    assert (guard.passed, guard.refused) == (2, 0)


def shared_batch(signatory: Signatory) -> agents_pb2.LeaseBatch:
    """Four leases, the last three of which are alike and share an item."""
    batch = new_batch()
    for number in range(2):
        batch.leases.add().CopyFrom(batch.leases[1])
        batch.leases[-1].task_key = f"tidy-{number}"
    signatory.sign(batch, together=3)
    return batch


def test_leases_that_share_an_item_are_what_was_signed() -> None:
    """Each by itself too: they may come in several batches."""
    batch = shared_batch(Signatory())
    guard = welcomed(Signatory())
    assert objections(guard, batch) == [""] * 4
    for number in range(1, 4):
        alone = shared_batch(Signatory())
        kept = batch.leases[number]
        del alone.leases[:]
        alone.leases.append(kept)
        assert objections(guard, alone) == [""]


@pytest.mark.parametrize(
    "change",
    [
        {"task_key": "tidy-1"}, {"task_key": "drop"}, {"grant_sequence": 100},
        {"grant_sequence": 102}, {"term": 9}, {"attempt": 9}, {"kind": "shell"}, {"grant_us": 5},
        {"run_id": RUN_IDS[0]}, {"mandate_position": 1}, {"mandate_position": 0},
    ],
)  # fmt: skip
def test_a_lease_that_differs_from_those_it_was_signed_with_is_refused(
    change: dict[str, Any],
) -> None:
    """The others are what was signed, before it and after it."""
    batch = shared_batch(Signatory())
    for name, value in change.items():
        setattr(batch.leases[2], name, value)
    assert list(map(bool, objections(welcomed(Signatory()), batch))) == [False, False, True, False]


@pytest.mark.parametrize(
    "tasks",
    [["tidy", "tidy-0"], ["tidy", "tidy-0", "tidy-1", "drop"], ["tidy-0", "tidy", "tidy-1"]],
)
def test_tasks_that_were_not_signed_together_are_refused_all(tasks: list[str]) -> None:
    batch = shared_batch(Signatory())
    batch.mandates[0].shared[0].tasks[:] = tasks
    assert list(map(bool, objections(welcomed(Signatory()), batch))) == [False, True, True, True]


def test_a_batch_may_have_mandates_of_several_acts() -> None:
    signatory = Signatory()
    batch, other = signed_batch(signatory), signed_batch(signatory)
    for lease in other.leases:
        lease.task_key += "-2"
    del other.mandates[:]
    signatory.sign(other)
    for lease in other.leases:
        lease.mandate = 1
    batch.leases.extend(other.leases)
    batch.mandates.extend(other.mandates)
    assert objections(welcomed(signatory), batch) == [""] * 4


def _set(**values: Any) -> Callable[[agents_pb2.LeaseBatch], None]:
    """Changes fields of the first lease."""

    def change(batch: agents_pb2.LeaseBatch) -> None:
        for name, value in values.items():
            setattr(batch.leases[0], name, value)

    return change


def _set_run(**values: Any) -> Callable[[agents_pb2.LeaseBatch], None]:
    """Changes fields of the first run."""

    def change(batch: agents_pb2.LeaseBatch) -> None:
        for name, value in values.items():
            setattr(batch.runs[0], name, value)

    return change


CHANGES: dict[str, Callable[[agents_pb2.LeaseBatch], object]] = {
    "task": _set(task_key="drop"),
    "term": _set(term=8),
    "attempt": _set(attempt=3),
    "kind": _set(kind="python"),
    "time of the grant": _set(grant_us=5),
    "number of the event": _set(grant_sequence=9),
    "number that no item can hold": _set(grant_us=1 << 60),
    "place of another lease": _set(mandate_position=2),
    "place of what is no lease": _set(mandate_position=0),
    "place that there is not": _set(mandate_position=3),
    "place before the first": _set(mandate_position=-1),
    "another run": _set(run_id=RUN_IDS[1]),
    "input": lambda it: setattr(it.leases[0].input, "data", b"{ }"),
    "type of the input": lambda it: setattr(it.leases[0].input, "content_type", "text/plain"),
    "input taken away": lambda it: it.leases[0].ClearField("input"),
    "input in another form": lambda it: setattr(it.leases[0].input.value, "string_value", "x"),
    "checkpoint": lambda it: setattr(it.leases[0].checkpoint, "data", b"4"),
    "checkpoint taken away": lambda it: it.leases[0].ClearField("checkpoint"),
    "output of a task before": lambda it: setattr(it.leases[0].upstream["a"], "data", b"<y/>"),
    "output too many": lambda it: setattr(it.leases[0].upstream["c"], "data", b"1"),
    "output taken away": lambda it: it.leases[0].upstream.pop("b"),
    "outputs that changed places": lambda it: (
        it.leases[0].upstream["A"].CopyFrom(it.leases[0].upstream.pop("a"))
    ),
    "tenant": _set_run(tenant_id="beta"),
    "definition": _set_run(workflow_digest="sha256:" + "3" * 64),
    "constitution": _set_run(constitution_digest="sha256:" + "3" * 64),
    "input of the run": lambda it: setattr(it.runs[0].input, "data", b"[2]"),
    "input of the run taken away": lambda it: it.runs[0].ClearField("input"),
    "mandate that there is not": _set(mandate=1),
    "mandate before the first": _set(mandate=-1),
    "no mandate": lambda it: it.ClearField("mandates"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_lease_that_was_changed_is_refused(
    change: Callable[[agents_pb2.LeaseBatch], object],
) -> None:
    """Whatever an agent is told about it; and no lease beside it is, if it was not touched."""
    guard = welcomed(Signatory())
    batch = signed_batch(Signatory())
    change(batch)
    first, second = objections(guard, batch)
    assert first
    assert not second or not batch.mandates
    assert guard.refused == 1 + bool(second)


def test_what_is_for_the_handlers_information_only_is_not_bound() -> None:
    """Documented in docs/agents.md; a lease's token and time limit are the coordinator's to say."""
    batch = signed_batch(Signatory())
    batch.leases[0].token = b"another"
    batch.leases[0].attempt_timeout.seconds = 5
    batch.runs[0].workflow, batch.runs[0].correlation_id = "w", "c"
    assert objections(welcomed(Signatory()), batch) == ["", ""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: setattr(it, "signature", bytes(64)), "does not verify"),
        (lambda it: setattr(it, "signature", b""), "does not verify"),
        (lambda it: setattr(it, "entry", it.entry.replace(b"9", b"8")), "does not verify"),
        (lambda it: setattr(it, "leaf_hashes", it.leaf_hashes[32:]), "hashes of the items"),
        (lambda it: setattr(it, "leaf_hashes", it.leaf_hashes[1:]), "not so many times 32"),
        (lambda it: setattr(it, "leaf_hashes", b""), "hashes of the items"),
    ],
)
def test_a_mandate_that_was_changed_is_refused_with_all_its_leases(
    change: Callable[[agents_pb2.Mandate], None], reason: str
) -> None:
    batch = signed_batch(Signatory())
    change(batch.mandates[0])
    for objection in objections(welcomed(Signatory()), batch):
        assert reason in objection


def test_a_mandate_made_anew_needs_the_key() -> None:
    """One with the hash of our key, and one that owns up to its own."""
    guard = welcomed(Signatory())
    forged = signed_batch(Signatory(seed=9))
    forged.mandates[0].key_hash = Signatory().key.verifier.hash
    assert all("does not verify" in one for one in objections(guard, forged))
    strange = signed_batch(Signatory(seed=9))
    with pytest.raises(KeyMissing, match="newer key"):
        guard.batch(strange)
    guard.welcome(Signatory().welcome())
    assert all("not one that is trusted" in one for one in objections(guard, strange))


def test_a_signature_for_something_else_is_no_mandate() -> None:
    signatory = Signatory()
    batch = signed_batch(signatory)
    batch.mandates[0].signature = signatory.key.sign(batch.mandates[0].entry)
    assert all("does not verify" in one for one in objections(welcomed(signatory), batch))


def test_a_mandate_of_another_tenant_or_agent_is_refused() -> None:
    guard = welcomed(Signatory())
    of_tenant = objections(guard, signed_batch(Signatory(log="beta")))
    assert all("entry is of tenant 'beta'" in one for one in of_tenant)
    of_agent = objections(guard, signed_batch(Signatory(agent="host-2")))
    assert all("not the one that was signed" in one for one in of_agent)


def test_an_agent_of_some_tenants_takes_no_mandate_of_others() -> None:
    """An agent of the same name may well serve those."""
    batch = signed_batch(Signatory())
    assert objections(welcomed(Signatory(), tenants=["acme"]), batch) == ["", ""]
    for objection in objections(welcomed(Signatory(), tenants=["beta"]), batch):
        assert "does not serve" in objection


def test_an_old_mandate_does_not_cover_a_new_lease() -> None:
    """Neither another term of the same task nor other data under the same term."""
    old = signed_batch(Signatory())
    for change in (_set(term=8), _set(term=8, attempt=3), CHANGES["input"]):
        replayed = new_batch()
        replayed.MergeFrom(agents_pb2.LeaseBatch(mandates=old.mandates))
        for lease, known in zip(replayed.leases, old.leases, strict=True):
            lease.CopyFrom(known)
        change(replayed)
        assert objections(welcomed(Signatory()), replayed)[0] == (
            "lease is not the one that was signed"
        )


# -- keys


def test_the_keys_that_follow_the_trusted_one_are_trusted() -> None:
    signatory = Signatory()
    root, before = signatory.key.verifier, signed_batch(signatory)
    signatory.rotate()
    second, between = signatory.key.verifier, signed_batch(signatory)
    signatory.rotate()
    after = signed_batch(signatory)
    guard = Guard(root, agent="host-1")
    guard.welcome(signatory.welcome())
    for batch in (before, between, after):
        assert objections(guard, batch) == ["", ""]
    younger = Guard(second, agent="host-1")
    younger.welcome(signatory.welcome())
    assert objections(younger, between) == objections(younger, after) == ["", ""]
    with pytest.raises(KeyMissing):
        younger.batch(before)
    assert all("not one that is trusted" in one for one in objections(younger, before))


def test_a_key_that_came_after_the_welcome_is_asked_for() -> None:
    signatory = Signatory()
    guard = welcomed(signatory)
    signatory.rotate()
    batch = signed_batch(signatory)
    with pytest.raises(KeyMissing):
        guard.batch(batch)
    guard.welcome(signatory.welcome())
    assert objections(guard, batch) == ["", ""]


def test_a_coordinator_that_lags_behind_takes_no_key_away_that_another_one_brought() -> None:
    signatory = Signatory()
    root, old_welcome, before = (
        signatory.key.verifier,
        signatory.welcome(),
        signed_batch(signatory),
    )
    signatory.rotate()
    guard = Guard(root, agent="host-1")
    guard.welcome(signatory.welcome())
    guard.welcome(old_welcome)
    assert objections(guard, signed_batch(signatory)) == ["", ""]
    assert objections(guard, before) == ["", ""]


def _stranger() -> VerifierKey:
    return SigningKey(NAME, bytes([7]) * 32).verifier


def test_a_coordinator_whose_keys_lead_elsewhere_is_refused() -> None:
    signatory = Signatory()
    for welcome, reason in (
        (agents_pb2.Welcome(), "has no key"),
        (agents_pb2.Welcome(root_key="nonsense"), "key 1 is not a verifier key"),
        (agents_pb2.Welcome(root_key=_stranger().text), "is not in the chain"),
        (
            agents_pb2.Welcome(root_key=signatory.root_key, certificates=["nonsense"]),
            "key 2 is not a signed note",
        ),
    ):
        with pytest.raises(CoordinatorUntrusted, match=reason):
            Guard(signatory.key.verifier, agent="host-1").welcome(welcome)


def test_a_refused_coordinator_leaves_the_keys_of_the_one_before() -> None:
    guard = welcomed(Signatory())
    with pytest.raises(CoordinatorUntrusted):
        guard.welcome(Signatory(seed=9).welcome())
    assert objections(guard, signed_batch(Signatory())) == ["", ""]
