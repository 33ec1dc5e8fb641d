"""The constitution through the wire: put into force, shown, tried, and reported on.

    async with Client("127.0.0.1:7233", key, tenant="dev") as client:
        answer = await client.constitution.put(text)
        report = await client.constitution.report(workflow="etl")

All methods raise TenureError as those of the client do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime

import grpc.aio
from google.protobuf import timestamp_pb2

from tenure.v1 import constitution_pb2
from tenure_client.connection import Connection
from tenure_client.requests import PAGE_SIZE, new_request_id, timestamp

_Trial = grpc.aio.UnaryStreamCall[
    constitution_pb2.TryConstitutionRequest, constitution_pb2.TryConstitutionResponse
]


class Constitutions:
    """What a client can do with its tenant's constitution."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, text: str) -> constitution_pb2.SetConstitutionResponse:
        """Puts a constitution, YAML or JSON, into force; the same content is the same version."""
        request = constitution_pb2.SetConstitutionRequest(text=text, request_id=new_request_id())
        return await self._connection.call(lambda to: to.constitution.SetConstitution, request)

    async def get(self, version: int = 0) -> constitution_pb2.GetConstitutionResponse:
        """Shows a version of the tenant's constitution, and the platform's; 0: the one in force."""
        request = constitution_pb2.GetConstitutionRequest(version=version)
        return await self._connection.call(lambda to: to.constitution.GetConstitution, request)

    async def versions(self) -> AsyncGenerator[constitution_pb2.ConstitutionVersion, None]:
        """Gives the versions of the tenant's constitution, newest first, without articles."""
        request = constitution_pb2.ListConstitutionsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._connection.call(
                lambda to: to.constitution.ListConstitutions, request
            )
            for version in page.constitutions:
                yield version
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def attempt(
        self, text: str, *, decisions_max: int = 0
    ) -> AsyncGenerator[constitution_pb2.TryConstitutionResponse, None]:
        """Tries a candidate on recorded decisions, and gives how that goes on.

        What breaks after the first answer is an error: a trial is begun again, not gone on with.
        """
        request = constitution_pb2.TryConstitutionRequest(text=text, decisions_max=decisions_max)
        call, answer = await self._begin(request)
        try:
            while answer is not None:
                yield answer
                answer = await _next(call)
        except grpc.aio.AioRpcError as error:
            raise self._connection.failed(error) from error
        finally:
            call.cancel()

    async def report(
        self,
        *,
        workflow: str = "",
        run_id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> constitution_pb2.GetComplianceReportResponse:
        """Reports how the laws were kept; without times, in the thirty days until now."""
        request = constitution_pb2.GetComplianceReportRequest(
            workflow=workflow,
            run_id=run_id,
            start_time=_timestamp(since),
            end_time=_timestamp(until),
        )
        return await self._connection.call(lambda to: to.constitution.GetComplianceReport, request)

    async def _begin(
        self, request: constitution_pb2.TryConstitutionRequest
    ) -> tuple[_Trial, constitution_pb2.TryConstitutionResponse | None]:
        async for attempt in self._connection.retrying():
            with attempt:
                try:
                    method = self._connection.stubs().constitution.TryConstitution
                    call = method(request, metadata=self._connection.metadata())
                    return call, await _next(call)
                except grpc.aio.AioRpcError as error:
                    raise self._connection.failed(error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")


async def _next(call: _Trial) -> constitution_pb2.TryConstitutionResponse | None:
    """Gives the next answer; None at the end."""
    answer = await call.read()
    return answer if isinstance(answer, constitution_pb2.TryConstitutionResponse) else None


def _timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    return None if moment is None else timestamp(moment)
