"""An agent with a public key, against a coordinator that a test makes honest or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.agent.conftest import StartAgent, WriteConfig
from tests.agent.fake_coordinator import FakeCoordinator, key_of, new_lease
from tests.agent.signatory import Signatory

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import link


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without long waits."""
    monkeypatch.setattr(link, "_REFUSED_WAIT", lambda state: 0.02)
    monkeypatch.setattr(link, "_RETRY_WAIT", lambda state: 0.02)


@pytest.fixture
def configure(coordinator: FakeCoordinator, write_config: WriteConfig) -> Callable[..., Path]:
    """Writes the file of an agent that trusts a key: that of seed 0 where no other is given."""

    def configure(key: str = "", **settings: Any) -> Path:
        path = write_config(coordinator.address, **settings)
        line = f"public_key = '{key or Signatory().root_key}'\n[agent]"
        path.write_text(path.read_text().replace("[agent]", line, 1))
        return path

    return configure


def doubling(key: str, number: int) -> agents_pb2.Lease:
    return new_lease(key, "double", input=payload_pb2.Payload(data=json.dumps(number).encode()))


async def test_signed_leases_are_executed(
    coordinator: FakeCoordinator, start_agent: StartAgent, configure: Callable[..., Path]
) -> None:
    coordinator.signatory = Signatory()
    coordinator.run_input.data = b"[1]"
    leases = [doubling(f"t{number}", number) for number in range(20)]
    coordinator.offer(*leases)
    start_agent(configure())
    for number, lease in enumerate(leases):
        result = await coordinator.result(lease)
        assert json.loads(result.success.output.data) == 2 * number
    assert not coordinator.hellos[0].without_mandates


async def test_a_lease_whose_input_was_altered_on_the_way_is_not_executed(
    coordinator: FakeCoordinator, start_agent: StartAgent, configure: Callable[..., Path]
) -> None:
    """The lease beside it is, and the coordinator hears why."""

    def alter(batch: agents_pb2.LeaseBatch) -> None:
        for lease in batch.leases:
            if lease.task_key == "altered":
                lease.input.data = b"1000"

    coordinator.signatory, coordinator.alters = Signatory(), alter
    altered, honest = doubling("altered", 1), doubling("honest", 1)
    coordinator.offer(altered, honest)
    with capture_logs() as lines:
        start_agent(configure())
        refused = await coordinator.result(altered)
        assert (await coordinator.result(honest)).success.output.data == b"2"
    assert refused.failure.code == "MANDATE_INVALID"
    assert refused.failure.message == "lease is not the one that was signed"
    assert not refused.failure.non_retryable
    assert refused.lease.token == altered.token
    assert key_of(altered) not in coordinator.begun
    (said,) = [line for line in lines if line["event"] == "lease is refused"]
    assert (said["log_level"], said["task_key"]) == ("error", "altered")


async def test_the_handler_of_a_refused_lease_is_never_called(
    coordinator: FakeCoordinator,
    start_agent: StartAgent,
    configure: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Nor is a command, a built-in handler, or one that would have ended at once."""
    kinds = (
        f"[[command]]\nkind = 'touch'\nargv = ['touch', '{tmp_path}/called']\n"
        "[[python]]\nkind = 'touch-here'\nfunction = 'agent_test_handlers:touch'\n"
    )
    path = configure(kinds=kinds)
    handlers = path.parent / "agent_test_handlers.py"
    handlers.write_text(
        handlers.read_text()
        + f"\n\nasync def touch(ctx, value):\n    open('{tmp_path}/called', 'w').close()\n"
    )
    coordinator.signatory = Signatory()
    coordinator.alters = lambda batch: batch.ClearField("mandates")
    leases = [new_lease(kind, kind) for kind in ("touch", "touch-here", "tenure.noop")]
    coordinator.offer(*leases)
    start_agent(path)
    for lease in leases:
        result = await coordinator.result(lease)
        assert result.failure.code == "MANDATE_INVALID"
        assert result.failure.message == "lease came without a mandate"
    assert not (tmp_path / "called").exists()
    coordinator.alters = lambda batch: None
    again = new_lease("touch", "touch", term=2)
    coordinator.offer(again)
    assert (await coordinator.result(again)).WhichOneof("end") == "success"
    assert (tmp_path / "called").exists(), "what looks for a call would have seen one"


async def test_refused_leases_do_not_use_up_the_slots(
    coordinator: FakeCoordinator, start_agent: StartAgent, configure: Callable[..., Path]
) -> None:
    coordinator.signatory = Signatory()
    coordinator.alters = lambda batch: batch.ClearField("mandates")
    leases = [new_lease(f"t{number}", "wait") for number in range(40)]
    coordinator.offer(*leases)
    start_agent(configure())
    for lease in leases:
        assert (await coordinator.result(lease)).failure.code == "MANDATE_INVALID"
    assert coordinator.peak <= 4


@pytest.mark.parametrize("signatory", [None, Signatory(seed=9)], ids=["no keys", "other keys"])
async def test_a_coordinator_that_is_not_ours_gets_no_work_done(
    coordinator: FakeCoordinator,
    start_agent: StartAgent,
    configure: Callable[..., Path],
    signatory: Signatory | None,
) -> None:
    """It is asked again, since somebody may put it right, and then all is well."""
    coordinator.signatory = signatory
    lease = doubling("t", 1)
    coordinator.offer(lease)
    with capture_logs() as lines:
        start_agent(configure())
        await coordinator.until(lambda: len(coordinator.hellos) >= 3)
        assert not coordinator.results
        assert coordinator.ready, "it was never given a credit"
        coordinator.signatory = Signatory()
        assert (await coordinator.result(lease)).success.output.data == b"2"
    said = [line for line in lines if line["event"] == "agent refuses the coordinator"]
    assert said
    assert {line["log_level"] for line in said} == {"error"}


async def test_a_key_that_is_rotated_while_the_stream_lives_costs_a_new_stream_and_no_lease(
    coordinator: FakeCoordinator, start_agent: StartAgent, configure: Callable[..., Path]
) -> None:
    signatory = coordinator.signatory = Signatory()
    first = doubling("first", 1)
    coordinator.offer(first)
    start_agent(configure())
    await coordinator.result(first)
    signatory.rotate()
    second = doubling("second", 2)
    coordinator.offer(second)
    await coordinator.until(lambda: len(coordinator.hellos) == 2)
    # As after `accept_within`: it was not accepted, so it is leased again.
    again = doubling("second", 2)
    again.term = 2
    coordinator.offer(again)
    assert (await coordinator.result(again)).success.output.data == b"4"
    assert key_of(second) not in coordinator.results


async def test_a_key_that_no_welcome_brings_is_a_forgers(
    coordinator: FakeCoordinator, start_agent: StartAgent, configure: Callable[..., Path]
) -> None:
    """The agent asks once, and then says so."""
    coordinator.signatory = Signatory()

    def forge(batch: agents_pb2.LeaseBatch) -> None:
        batch.ClearField("mandates")
        for lease in batch.leases:
            lease.mandate = lease.mandate_position = 0
        Signatory(seed=9).sign(batch)

    coordinator.alters = forge
    first, second = doubling("first", 1), doubling("second", 1)
    coordinator.offer(first)
    start_agent(configure())
    await coordinator.until(lambda: len(coordinator.hellos) == 2)
    coordinator.offer(second)
    result = await coordinator.result(second)
    assert result.failure.code == "MANDATE_INVALID"
    assert "not one that is trusted" in result.failure.message
    assert len(coordinator.hellos) == 2


async def test_without_a_public_key_nothing_is_checked(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    coordinator.signatory = Signatory(seed=9)
    coordinator.alters = lambda batch: setattr(batch.leases[0].input, "data", b"21")
    lease = doubling("t", 1)
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address))
    assert (await coordinator.result(lease)).success.output.data == b"42"
    assert coordinator.hellos[0].without_mandates, "nothing needs to be signed for it"
