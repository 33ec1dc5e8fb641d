"""What the log of the coordinator tells of tasks, and what it keeps to itself."""

from __future__ import annotations

import structlog
from tests.server.core.world import task
from tests.server.engine.conftest import House, soon

from tenure_server.core.ledger.lifecycle import Failure


async def test_what_handlers_say_is_in_the_log_of_the_run_alone(house: House) -> None:
    """It may hold a tenant's secrets; the code says enough."""
    await house.register(task("a"))
    run_id = await house.start()
    session = house.session()
    session.add_credits(1)
    [lease] = (await soon(session)).leases
    words = (run_id, "a", lease.term, lease.token)
    session.accept(*words)
    with structlog.testing.capture_logs() as lines:
        session.settle(*words, Failure("EXIT_1", "the password is swordfish", True))
        await house.engine._floor.flushed()
    assert "swordfish" not in repr(lines)
    [told] = [line for line in lines if line["event"] == "task failed"]
    assert told["code"] == "EXIT_1"
    assert "run failed" in {line["event"] for line in lines}
    messages = [event.message for event in await house.events(run_id)]
    assert any("swordfish" in message for message in messages)
