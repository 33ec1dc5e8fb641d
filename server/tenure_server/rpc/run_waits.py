"""The calls of the service Runs by which the world speaks to runs."""

from __future__ import annotations

from tenure.v1 import waits_pb2
from tenure_server.core.progress.approvals import Decider
from tenure_server.engine.engine import Engine
from tenure_server.rpc import access, convert
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable


class RunWaits:
    """Converts, asks, converts."""

    _engine: Engine

    async def SignalRun(
        self, request: waits_pb2.SignalRunRequest, context: Context
    ) -> waits_pb2.SignalRunResponse:
        """Gives a signal to a run."""
        caller = access.caller()
        payload = None
        if request.HasField("payload"):
            payload = convert.checked_payload(request.payload, "payload")
        delivered = await self._engine.operations.signal(
            caller.origin,
            request.run_id,
            request.name,
            payload,
            repeatable(request, caller.rule.method),
        )
        return waits_pb2.SignalRunResponse(delivered=delivered)

    async def DecideTask(
        self, request: waits_pb2.DecideTaskRequest, context: Context
    ) -> waits_pb2.DecideTaskResponse:
        """Consents to what an approval asks, or rejects it."""
        caller = access.caller()
        await self._engine.operations.decide(
            caller.origin,
            request.run_id,
            request.task_key,
            Decider(caller.key.api_key_id, caller.key.name),
            request.consent,
            request.reason,
            repeatable(request, caller.rule.method),
        )
        return waits_pb2.DecideTaskResponse()

    async def PublishEvent(
        self, request: waits_pb2.PublishEventRequest, context: Context
    ) -> waits_pb2.PublishEventResponse:
        """Publishes an event in the tenant."""
        caller = access.caller()
        payload = (
            convert.payload(request.payload, "payload") if request.HasField("payload") else None
        )
        count, run_ids = await self._engine.publishing.publish(
            caller.origin,
            request.name,
            request.key,
            payload,
            repeatable(request, caller.rule.method),
        )
        return waits_pb2.PublishEventResponse(task_count=count, run_ids=run_ids)
