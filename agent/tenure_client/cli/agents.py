"""`tenure agents`: who executes the tenant's tasks."""

from __future__ import annotations

import click

from tenure.v1 import agents_pb2
from tenure_client.cli import options, output, plain, session
from tenure_client.client import Client


@click.group(cls=options.Group)
def agents() -> None:
    """List the agents that serve the tenant."""


@agents.command(name="list")
@click.pass_context
def list_(context: click.Context) -> None:
    """List the agents on the line, and those that left in the last ten minutes."""

    async def act(client: Client) -> list[agents_pb2.Agent]:
        return [agent async for agent in client.list_agents()]

    found = session.of(context).run(act)
    if session.wants_json(context):
        output.document(found)
        return
    output.table(
        ("AGENT", "STATE", "LEASES#", "SLOTS#", "KINDS", "LABELS", "HEARD"),
        (
            (
                agent.name,
                plain.word(agents_pb2.AgentState.DESCRIPTOR, agent.state),
                agent.leases,
                agent.slots,
                ", ".join(agent.kinds),
                output.words(agent.labels),
                plain.local_time(agent.seen_time),
            )
            for agent in found
        ),
        empty="no agents",
    )
