"""The calls of the service Runs by which operators change runs that are there."""

from __future__ import annotations

from tenure.v1 import run_changes_pb2
from tenure_server.core import errors
from tenure_server.core.desks.interventions import BY_HAND
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.engine.engine import Engine
from tenure_server.rpc import access, convert, verdicts
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable


class RunChanges:
    """Converts, asks, converts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def PauseRun(
        self, request: run_changes_pb2.PauseRunRequest, context: Context
    ) -> run_changes_pb2.PauseRunResponse:
        """Pauses a run."""
        caller = access.caller()
        repeat = repeatable(request, caller.rule.method)
        operations = self._engine.operations
        await operations.pause(caller.origin, request.run_id, request.reason, repeat)
        return run_changes_pb2.PauseRunResponse()

    async def ResumeRun(
        self, request: run_changes_pb2.ResumeRunRequest, context: Context
    ) -> run_changes_pb2.ResumeRunResponse:
        """Lets a paused run go on."""
        caller = access.caller()
        repeat = repeatable(request, caller.rule.method)
        operations = self._engine.operations
        await operations.resume(caller.origin, request.run_id, request.reason, repeat)
        return run_changes_pb2.ResumeRunResponse()

    async def CloseRun(
        self, request: run_changes_pb2.CloseRunRequest, context: Context
    ) -> run_changes_pb2.CloseRunResponse:
        """Ends a run at once."""
        caller = access.caller()
        repeat = repeatable(request, caller.rule.method)
        operations = self._engine.operations
        await operations.close(caller.origin, request.run_id, request.reason, repeat)
        return run_changes_pb2.CloseRunResponse()

    async def ReopenRun(
        self, request: run_changes_pb2.ReopenRunRequest, context: Context
    ) -> run_changes_pb2.ReopenRunResponse:
        """Executes tasks of a run again."""
        caller = access.caller()
        count = await self._engine.operations.reopen(
            caller.origin,
            request.run_id,
            request.task_keys,
            paused=request.paused,
            reason=request.reason,
            request=repeatable(request, caller.rule.method),
        )
        return run_changes_pb2.ReopenRunResponse(task_count=count)

    async def MoveRun(
        self, request: run_changes_pb2.MoveRunRequest, context: Context
    ) -> run_changes_pb2.MoveRunResponse:
        """Puts a run under a newer version of its workflow."""
        caller = access.caller()
        moved = await self._engine.moves.move(
            caller.origin,
            request.run_id,
            request.workflow_version,
            resume=request.resume,
            reason=request.reason,
            request=repeatable(request, caller.rule.method),
        )
        return run_changes_pb2.MoveRunResponse(
            workflow_version=moved.version,
            workflow_digest=moved.digest,
            task_count=moved.reopened,
            warnings=verdicts.warning_messages(moved.warnings),
        )

    async def SkipTask(
        self, request: run_changes_pb2.SkipTaskRequest, context: Context
    ) -> run_changes_pb2.SkipTaskResponse:
        """Ends a task as skipped."""
        caller = access.caller()
        await self._engine.operations.skip(
            caller.origin,
            request.run_id,
            request.task_key,
            request.reason,
            repeatable(request, caller.rule.method),
        )
        return run_changes_pb2.SkipTaskResponse()

    async def SettleTask(
        self, request: run_changes_pb2.SettleTaskRequest, context: Context
    ) -> run_changes_pb2.SettleTaskResponse:
        """Ends a task by hand."""
        caller = access.caller()
        if request.failed and request.HasField("output"):
            raise errors.FieldsInvalid([("output", "must not be set where the task failed")])
        output = convert.payload(request.output, "output") if request.HasField("output") else None
        await self._engine.operations.settle(
            caller.origin,
            request.run_id,
            request.task_key,
            Failure(BY_HAND, request.reason) if request.failed else Success(output),
            request.reason,
            repeatable(request, caller.rule.method),
        )
        return run_changes_pb2.SettleTaskResponse()
