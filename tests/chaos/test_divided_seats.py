"""Two coordinators that each decide for one of an agent's tenants: the agent must serve both."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.wire.installation import TENANT, Agent, Installation, until

from tenure_client.client import Client


@pytest.mark.xfail(
    reason="an agent has one stream, and a coordinator takes it only with all tenants' seats",
    raises=AssertionError,
    strict=True,
)
async def test_an_agent_of_two_tenants_serves_both_wherever_their_seats_are(
    postgres_url: str, tmp_path: Path
) -> None:
    installation = Installation(tmp_path, postgres_url, ("--seat-seconds", "1.5"))
    try:
        installation.add_coordinator().start()
        second = installation.add_coordinator()
        second.start()
        # Who makes a tenant takes its seat.
        async with Client(second.address, installation.operator_secret()) as operator:
            await operator.create_tenant("beta")
        agent = Agent("both", tmp_path / "both")
        addresses = [each.address for each in installation.coordinators]
        agent.configure(addresses, await installation.secret("agent", TENANT, "beta"), {})
        installation.agents.append(agent)
        agent.launch()
        await until(agent.ready_file.exists, "the agent is on the line", seconds=8)
    finally:
        installation.close()
