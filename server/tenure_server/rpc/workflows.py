"""The service Workflows: definitions, their versions, and what is wrong with them."""

from __future__ import annotations

from tenure.v1 import pauses_pb2, workflows_pb2, workflows_pb2_grpc
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.ledger import records
from tenure_server.engine.engine import Engine
from tenure_server.engine.workflows import Examined
from tenure_server.rpc import access, convert, pages, sizes, verdicts
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: From so many tasks on a definition is worked on beside the loop, so that nobody else waits.
BESIDE_THE_LOOP_TASKS = 200


class Workflows(workflows_pb2_grpc.WorkflowsServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def RegisterWorkflow(
        self, request: workflows_pb2.RegisterWorkflowRequest, context: Context
    ) -> workflows_pb2.RegisterWorkflowResponse:
        """Registers a definition, or finds the version that has this very content."""
        caller = access.caller()

        def read() -> tuple[WorkflowDefinition, records.Request | None]:
            asked = repeatable(request, caller.rule.method)
            return convert.definition(request.definition), asked

        definition, asked = await sizes.beside_the_loop(_is_large(request), read)
        done = await self._engine.workflows.register(caller.origin, definition, asked)
        return workflows_pb2.RegisterWorkflowResponse(
            workflow=convert.workflow_message(done.known.record),
            created=done.created,
            warnings=verdicts.objection_messages(done.warnings),
            dimensions=verdicts.dimension_messages(done.known.facts),
        )

    async def ValidateWorkflow(
        self, request: workflows_pb2.ValidateWorkflowRequest, context: Context
    ) -> workflows_pb2.ValidateWorkflowResponse:
        """Judges a definition and keeps nothing."""

        caller = access.caller()

        def examine() -> Examined:
            return Examined.of(convert.definition(request.definition))

        # Expressions and schemas take their time, however few.
        examined = await sizes.beside_the_loop(True, examine)
        graph, workflows = examined.graph, self._engine.workflows
        objections = workflows.objections(caller.origin, caller.act.roles, examined)
        return workflows_pb2.ValidateWorkflowResponse(
            digest=examined.digest,
            task_count=len(graph.keys),
            dependency_count=graph.dependency_count,
            depth=graph.depth,
            objections=verdicts.objection_messages(objections),
            dimensions=verdicts.dimension_messages(examined.facts),
        )

    async def GetWorkflow(
        self, request: workflows_pb2.GetWorkflowRequest, context: Context
    ) -> workflows_pb2.GetWorkflowResponse:
        """Shows one version with its definition."""
        tenant_id = access.caller().tenant_id
        known = await self._engine.workflows.known(tenant_id, request.name, request.version)
        message = await sizes.beside_the_loop(
            known.record.task_count >= BESIDE_THE_LOOP_TASKS,
            lambda: convert.workflow_message(known.record, known.definition),
        )
        pause = self._engine.pausing.of(tenant_id, request.name)
        if pause is not None:
            message.pause.CopyFrom(convert.pause_message(pause))
        return workflows_pb2.GetWorkflowResponse(workflow=message)

    async def PauseWorkflow(
        self, request: pauses_pb2.PauseWorkflowRequest, context: Context
    ) -> pauses_pb2.PauseWorkflowResponse:
        """Leases nothing more of a workflow."""
        caller = access.caller()
        await self._engine.workflows.known(caller.tenant_id, request.name, 0)
        await self._engine.pausing.pause(
            caller.tenant_id,
            request.name,
            request.reason,
            by=caller.key.api_key_id,
            act=caller.act,
            request=repeatable(request, caller.rule.method),
            remember_under=caller.tenant_id,
        )
        return pauses_pb2.PauseWorkflowResponse()

    async def ResumeWorkflow(
        self, request: pauses_pb2.ResumeWorkflowRequest, context: Context
    ) -> pauses_pb2.ResumeWorkflowResponse:
        """Lets a workflow go on."""
        caller = access.caller()
        await self._engine.workflows.known(caller.tenant_id, request.name, 0)
        await self._engine.pausing.resume(
            caller.tenant_id,
            request.name,
            request.reason,
            act=caller.act,
            request=repeatable(request, caller.rule.method),
            remember_under=caller.tenant_id,
        )
        return pauses_pb2.ResumeWorkflowResponse()

    async def ListWorkflows(
        self, request: workflows_pb2.ListWorkflowsRequest, context: Context
    ) -> workflows_pb2.ListWorkflowsResponse:
        """Lists workflows by name, or the versions of one from the newest on."""
        caller = access.caller()
        limit = pages.limit(request)
        cursor = pages.read(caller, request)
        reads = TenantReads(self._store, caller.tenant_id)

        def read() -> list[records.Workflow]:
            if request.name:
                return reads.versions(request.name, cursor[0] if cursor else None, limit + 1)
            return reads.workflows(cursor[0] if cursor else "", limit + 1)

        found = await self._engine.read(read)
        response = workflows_pb2.ListWorkflowsResponse(
            workflows=[convert.workflow_message(workflow) for workflow in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1]
            following = [last.version] if request.name else [last.name]
            response.next_page_token = pages.issue(caller, request, following)
        return response


def _is_large(
    request: workflows_pb2.RegisterWorkflowRequest | workflows_pb2.ValidateWorkflowRequest,
) -> bool:
    return len(request.definition.tasks) >= BESIDE_THE_LOOP_TASKS or sizes.is_large(request)
