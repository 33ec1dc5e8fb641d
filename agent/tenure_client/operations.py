"""What operators and the world say to runs, as methods of `Client.operations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc.aio

from tenure.v1 import payload_pb2, run_changes_pb2, runs_pb2, waits_pb2
from tenure_client import payload
from tenure_client.connection import Connection
from tenure_client.payload import ABSENT
from tenure_client.requests import new_request_id


class Operations:
    """Pauses, resumes, closes, reopens, moves; skips and settles tasks. All raise TenureError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def pause(self, run_id: str, *, reason: str = "") -> None:
        """Leases nothing more of a run until `resume`."""
        request = run_changes_pb2.PauseRunRequest(
            run_id=run_id, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.runs.PauseRun, request)

    async def resume(self, run_id: str, *, reason: str = "") -> None:
        """Lets a paused run go on."""
        request = run_changes_pb2.ResumeRunRequest(
            run_id=run_id, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.runs.ResumeRun, request)

    async def close(self, run_id: str, *, reason: str) -> None:
        """Ends a run at once, by force."""
        request = run_changes_pb2.CloseRunRequest(
            run_id=run_id, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.runs.CloseRun, request)

    async def reopen(
        self,
        run_id: str,
        *,
        task_keys: Iterable[str] = (),
        paused: bool = False,
        reason: str = "",
    ) -> int:
        """Executes what ended otherwise than well, or chosen tasks, again; gives the number."""
        request = run_changes_pb2.ReopenRunRequest(
            run_id=run_id,
            task_keys=task_keys,
            paused=paused,
            reason=reason,
            request_id=new_request_id(),
        )
        return (await self._connection.call(lambda to: to.runs.ReopenRun, request)).task_count

    async def move(
        self, run_id: str, *, version: int = 0, resume: bool = False, reason: str = ""
    ) -> run_changes_pb2.MoveRunResponse:
        """Puts a paused or failed run under a newer version of its workflow, the newest for 0.

        Where the versions do not fit together, `objections` of the error names each task that
        stands against it.
        """
        request = run_changes_pb2.MoveRunRequest(
            run_id=run_id,
            workflow_version=version,
            resume=resume,
            reason=reason,
            request_id=new_request_id(),
        )
        return await self._connection.call(lambda to: to.runs.MoveRun, request)

    async def change_runs(
        self,
        wanted: runs_pb2.RunFilter,
        verb: runs_pb2.RunVerb.ValueType,
        *,
        reason: str = "",
        rate: int = 0,
        dry_run: bool = False,
        version: int = 0,
        resume: bool = False,
        request_id: str | None = None,
    ) -> AsyncGenerator[runs_pb2.ChangeRunsResponse, None]:
        """Does the same to all runs that a filter wants, `rate` a second, and says how far it is.

        `version` and `resume` are for moving them, see `move`.
        It stops when the caller leaves. After a lost line the same `request_id` goes on.
        """
        request = runs_pb2.ChangeRunsRequest(
            filter=wanted,
            verb=verb,
            reason=reason,
            rate=rate,
            dry_run=dry_run,
            workflow_version=version,
            resume=resume,
            request_id=request_id or new_request_id(),
        )
        change: Any = self._connection.stubs().runs.ChangeRuns
        call = change(request, metadata=self._connection.metadata())
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._connection.failed(error) from error
        finally:
            call.cancel()

    async def skip(self, run_id: str, task_key: str, *, reason: str) -> None:
        """Ends a task as SKIPPED."""
        request = run_changes_pb2.SkipTaskRequest(
            run_id=run_id, task_key=task_key, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.runs.SkipTask, request)

    async def settle(
        self,
        run_id: str,
        task_key: str,
        *,
        reason: str,
        failed: bool = False,
        output: Any = ABSENT,
    ) -> None:
        """Ends a task by hand: as done, with any JSON value as its output, or as failed."""
        request = run_changes_pb2.SettleTaskRequest(
            run_id=run_id,
            task_key=task_key,
            failed=failed,
            output=_payload(output),
            reason=reason,
            request_id=new_request_id(),
        )
        await self._connection.call(lambda to: to.runs.SettleTask, request)

    async def signal(self, run_id: str, name: str, content: Any = ABSENT) -> bool:
        """Gives a signal to a run, with any JSON value; says whether a task waited for it."""
        request = waits_pb2.SignalRunRequest(
            run_id=run_id, name=name, payload=_payload(content), request_id=new_request_id()
        )
        return (await self._connection.call(lambda to: to.runs.SignalRun, request)).delivered

    async def decide(self, run_id: str, task_key: str, *, consent: bool, reason: str = "") -> None:
        """Consents to what a task asks, or rejects it."""
        request = waits_pb2.DecideTaskRequest(
            run_id=run_id,
            task_key=task_key,
            consent=consent,
            reason=reason,
            request_id=new_request_id(),
        )
        await self._connection.call(lambda to: to.runs.DecideTask, request)

    async def publish(
        self, name: str, key: str = "", content: Any = ABSENT
    ) -> waits_pb2.PublishEventResponse:
        """Publishes an event in the tenant; says what it did."""
        request = waits_pb2.PublishEventRequest(
            name=name, key=key, payload=_payload(content), request_id=new_request_id()
        )
        return await self._connection.call(lambda to: to.runs.PublishEvent, request)


def _payload(content: Any) -> payload_pb2.Payload | None:
    return content if isinstance(content, payload_pb2.Payload) else payload.encode(content)
