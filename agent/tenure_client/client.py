"""The client library: every RPC as a typed method, over any number of coordinators.

    async with Client("127.0.0.1:7233", key, tenant="dev") as client:
        await client.register_workflow(definition)
        started = await client.start_run("word-count", input={"path": "corpus.txt"})
        run = await client.wait_run(started.run_id)

Methods give the messages of the contract. All raise TenureError for what the coordinator refuses,
and for a coordinator that was not reached within `retry_seconds`. Mutations carry a `request_id`
of their own, so that retries do nothing twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any

from google.protobuf import field_mask_pb2

from tenure.v1 import (
    access_pb2,
    agents_pb2,
    pauses_pb2,
    payload_pb2,
    runs_pb2,
    tenants_pb2,
    workflows_pb2,
)
from tenure_client import payload, watching
from tenure_client.channel import Tls
from tenure_client.connection import Connection
from tenure_client.constitution import Constitutions
from tenure_client.evidence import Evidence
from tenure_client.operations import Operations
from tenure_client.payload import ABSENT
from tenure_client.requests import PAGE_SIZE, new_request_id, timestamp
from tenure_client.schedules import Schedules


class Client:
    """A caller with one key. Use it as an async context manager, or call `close`.

    `address` may be several: they are tried in turn. `retry_seconds` is how long an act is tried
    again while no coordinator can do it; `call_seconds` bounds each single call.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        key: str,
        *,
        tenant: str | None = None,
        tls: Tls | None = None,
        correlation_id: str | None = None,
        retry_seconds: float = 30.0,
        call_seconds: float = 60.0,
    ) -> None:
        self._connection = Connection(
            [address] if isinstance(address, str) else address,
            key,
            tenant=tenant,
            tls=tls,
            correlation_id=correlation_id,
            retry_seconds=retry_seconds,
            call_seconds=call_seconds,
        )
        #: The tenant's constitution: put into force, shown, tried, reported on.
        self.constitution = Constitutions(self._connection)
        #: The log of evidence: entries, checkpoints, proofs, bundles.
        self.evidence = Evidence(self._connection)
        #: What operators do to runs.
        self.operations = Operations(self._connection)
        #: Schedules: made, changed, paused, fired.
        self.schedules = Schedules(self._connection)

    async def close(self) -> None:
        """Closes the lines; the client is of no use afterwards."""
        await self._connection.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # Tenants and keys

    async def create_tenant(
        self, tenant_id: str, *, display_name: str = "", max_leases: int = 0, weight: int = 0
    ) -> tenants_pb2.Tenant:
        """Makes a tenant; zeros stand for the coordinator's defaults."""
        request = tenants_pb2.CreateTenantRequest(
            tenant_id=tenant_id,
            display_name=display_name,
            max_leases=max_leases,
            weight=weight,
            request_id=new_request_id(),
        )
        return (await self._connection.call(lambda to: to.tenants.CreateTenant, request)).tenant

    async def get_tenant(self, tenant_id: str) -> tenants_pb2.Tenant:
        """Shows a tenant."""
        request = tenants_pb2.GetTenantRequest(tenant_id=tenant_id)
        return (await self._connection.call(lambda to: to.tenants.GetTenant, request)).tenant

    async def list_tenants(self) -> AsyncGenerator[tenants_pb2.Tenant, None]:
        """Gives the tenants that the caller may see, by id."""
        request = tenants_pb2.ListTenantsRequest(page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.tenants.ListTenants, request):
            for tenant in page.tenants:
                yield tenant

    async def update_tenant(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        max_leases: int | None = None,
        weight: int | None = None,
    ) -> tenants_pb2.Tenant:
        """Changes what is given and leaves the rest."""
        changes = {"display_name": display_name, "max_leases": max_leases, "weight": weight}
        given: dict[str, Any] = {word: new for word, new in changes.items() if new is not None}
        request = tenants_pb2.UpdateTenantRequest(
            tenant=tenants_pb2.Tenant(tenant_id=tenant_id, **given),
            update_mask=field_mask_pb2.FieldMask(paths=list(given)),
            request_id=new_request_id(),
        )
        return (await self._connection.call(lambda to: to.tenants.UpdateTenant, request)).tenant

    async def pause_tenant(self, tenant_id: str, *, reason: str = "") -> None:
        """Leases nothing more of a tenant until `resume_tenant`."""
        request = pauses_pb2.PauseTenantRequest(
            tenant_id=tenant_id, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.tenants.PauseTenant, request)

    async def resume_tenant(self, tenant_id: str, *, reason: str = "") -> None:
        """Lets a paused tenant go on."""
        request = pauses_pb2.ResumeTenantRequest(
            tenant_id=tenant_id, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.tenants.ResumeTenant, request)

    async def delete_tenant(self, tenant_id: str) -> tenants_pb2.DeleteTenantResponse:
        """Erases a tenant with all it has; its runs must have ended."""
        request = tenants_pb2.DeleteTenantRequest(tenant_id=tenant_id, request_id=new_request_id())
        return await self._connection.call(lambda to: to.tenants.DeleteTenant, request)

    async def create_key(
        self,
        name: str,
        *,
        roles: Iterable[access_pb2.Role.ValueType],
        tenant_ids: Iterable[str] = (),
        expire_time: datetime | None = None,
    ) -> tenants_pb2.CreateApiKeyResponse:
        """Makes a key and gives it with its secret.

        The secret comes with the first answer only: it is empty when that one was lost on the way
        and the call repeated. Revoke the key then, and make another.
        """
        request = tenants_pb2.CreateApiKeyRequest(
            name=name,
            roles=roles,
            tenant_ids=tenant_ids,
            expire_time=None if expire_time is None else timestamp(expire_time),
            request_id=new_request_id(),
        )
        return await self._connection.call(lambda to: to.tenants.CreateApiKey, request)

    async def list_keys(self, tenant_id: str = "") -> AsyncGenerator[tenants_pb2.ApiKey, None]:
        """Gives the keys of a tenant, oldest first; without one, the operators' keys."""
        request = tenants_pb2.ListApiKeysRequest(tenant_id=tenant_id, page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.tenants.ListApiKeys, request):
            for key in page.api_keys:
                yield key

    async def revoke_key(self, api_key_id: str) -> tenants_pb2.ApiKey:
        """Ends a key at once."""
        request = tenants_pb2.RevokeApiKeyRequest(
            api_key_id=api_key_id, request_id=new_request_id()
        )
        return (await self._connection.call(lambda to: to.tenants.RevokeApiKey, request)).api_key

    async def get_caller(self) -> tenants_pb2.ApiKey:
        """Tells which key this client has, with its roles and tenants."""
        request = tenants_pb2.GetCallerRequest()
        return (await self._connection.call(lambda to: to.tenants.GetCaller, request)).api_key

    # Workflows

    async def register_workflow(
        self, definition: workflows_pb2.WorkflowDefinition
    ) -> workflows_pb2.RegisterWorkflowResponse:
        """Registers a definition; the same content again is the same version."""
        request = workflows_pb2.RegisterWorkflowRequest(
            definition=definition, request_id=new_request_id()
        )
        return await self._connection.call(lambda to: to.workflows.RegisterWorkflow, request)

    async def validate_workflow(
        self, definition: workflows_pb2.WorkflowDefinition
    ) -> workflows_pb2.ValidateWorkflowResponse:
        """Judges a definition as registering would, and keeps nothing."""
        request = workflows_pb2.ValidateWorkflowRequest(definition=definition)
        return await self._connection.call(lambda to: to.workflows.ValidateWorkflow, request)

    async def get_workflow(self, name: str, version: int = 0) -> workflows_pb2.Workflow:
        """Shows a version with its definition; 0 is the newest."""
        request = workflows_pb2.GetWorkflowRequest(name=name, version=version)
        return (await self._connection.call(lambda to: to.workflows.GetWorkflow, request)).workflow

    async def list_workflows(self, name: str = "") -> AsyncGenerator[workflows_pb2.Workflow, None]:
        """Gives the newest version of each workflow, or every version of the one named."""
        request = workflows_pb2.ListWorkflowsRequest(name=name, page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.workflows.ListWorkflows, request):
            for workflow in page.workflows:
                yield workflow

    async def pause_workflow(self, name: str, *, reason: str = "") -> None:
        """Leases nothing more of a workflow's runs until `resume_workflow`."""
        request = pauses_pb2.PauseWorkflowRequest(
            name=name, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.workflows.PauseWorkflow, request)

    async def resume_workflow(self, name: str, *, reason: str = "") -> None:
        """Lets a paused workflow go on."""
        request = pauses_pb2.ResumeWorkflowRequest(
            name=name, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.workflows.ResumeWorkflow, request)

    # Runs

    async def start_run(
        self,
        workflow: str,
        *,
        version: int = 0,
        input: Any = ABSENT,  # noqa: A002  the contract's word
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> runs_pb2.StartRunResponse:
        """Starts a run. The same `request_id` twice is one run; without one, each call is its own.

        `input` is a JSON value, or a Payload to send as it is. Raises PayloadError for what JSON
        cannot carry.
        """
        content = input if isinstance(input, payload_pb2.Payload) else payload.encode(input)
        request = runs_pb2.StartRunRequest(
            workflow=workflow,
            workflow_version=version,
            input=content,
            priority=priority,
            labels=labels or {},
            request_id=request_id or new_request_id(),
        )
        return await self._connection.call(lambda to: to.runs.StartRun, request)

    async def start_runs(
        self, batch: Iterable[runs_pb2.StartRunRequest]
    ) -> list[runs_pb2.StartRunResponse]:
        """Starts up to 1,000 runs in one commit: all, or none. Fills in missing request ids."""
        request = runs_pb2.BatchStartRunsRequest(requests=batch)
        for each in request.requests:
            each.request_id = each.request_id or new_request_id()
        answer = await self._connection.call(lambda to: to.runs.BatchStartRuns, request)
        return list(answer.responses)

    async def get_run(self, run_id: str) -> runs_pb2.Run:
        """Shows a run with its input."""
        request = runs_pb2.GetRunRequest(run_id=run_id)
        return (await self._connection.call(lambda to: to.runs.GetRun, request)).run

    async def list_runs(
        self,
        *,
        workflow: str = "",
        states: Iterable[runs_pb2.RunState.ValueType] = (),
        wanted: runs_pb2.RunFilter | None = None,
        oldest_first: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[runs_pb2.Run, None]:
        """Gives runs of a workflow, in states, and of a filter, newest first, without inputs."""
        request = runs_pb2.ListRunsRequest(
            workflow=workflow, states=states, filter=wanted, page_size=page_size
        )
        if oldest_first:
            request.order = runs_pb2.RUN_ORDER_OLDEST_FIRST
        async for page in self._connection.pages(lambda to: to.runs.ListRuns, request):
            for run in page.runs:
                yield run

    async def count_runs(
        self, wanted: runs_pb2.RunFilter | None = None
    ) -> runs_pb2.CountRunsResponse:
        """Counts runs by state; the answer says where counting stopped."""
        request = runs_pb2.CountRunsRequest(filter=wanted)
        return await self._connection.call(lambda to: to.runs.CountRuns, request)

    async def compare_runs(
        self, left_run_id: str, right_run_id: str, *, differing_only: bool = False
    ) -> runs_pb2.CompareRunsResponse:
        """Lays two runs side by side."""
        request = runs_pb2.CompareRunsRequest(
            left_run_id=left_run_id, right_run_id=right_run_id, differing_only=differing_only
        )
        return await self._connection.call(lambda to: to.runs.CompareRuns, request)

    async def explain_run(
        self, run_id: str, task_keys: Iterable[str] = ()
    ) -> AsyncGenerator[runs_pb2.TaskExplanation, None]:
        """Says of each task that does not run and has not ended, or of chosen ones, why."""
        request = runs_pb2.ExplainRunRequest(
            run_id=run_id, task_keys=task_keys, page_size=PAGE_SIZE
        )
        async for page in self._connection.pages(lambda to: to.runs.ExplainRun, request):
            for task in page.tasks:
                yield task

    async def get_task(self, run_id: str, task_key: str) -> runs_pb2.Task:
        """Shows a task with its output."""
        request = runs_pb2.GetTaskRequest(run_id=run_id, task_key=task_key)
        return (await self._connection.call(lambda to: to.runs.GetTask, request)).task

    async def list_tasks(
        self, run_id: str, *, states: Iterable[runs_pb2.TaskState.ValueType] = ()
    ) -> AsyncGenerator[runs_pb2.Task, None]:
        """Gives the tasks of a run in the order of its definition, without outputs."""
        request = runs_pb2.ListTasksRequest(run_id=run_id, states=states, page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.runs.ListTasks, request):
            for task in page.tasks:
                yield task

    def list_run_events(
        self, run_id: str, *, after_sequence: int = 0
    ) -> AsyncGenerator[runs_pb2.RunEvent, None]:
        """Gives what happened in a run so far, in order."""
        return watching.so_far(self._connection, run_id, after_sequence=after_sequence)

    def watch_run(
        self, run_id: str, *, after_sequence: int = 0, run_events_only: bool = False
    ) -> AsyncGenerator[runs_pb2.RunEvent, None]:
        """Gives what happens in a run as it happens, and ends after its last event.

        A lost line is taken up again where it broke: no event is missed and none comes twice.
        """
        watch = watching.Watch(
            self._connection,
            run_id,
            after_sequence=after_sequence,
            run_events_only=run_events_only,
        )
        return watch.events()

    async def wait_run(self, run_id: str) -> runs_pb2.Run:
        """Waits for the end of a run and shows it."""
        while True:
            async with aclosing(self.watch_run(run_id, run_events_only=True)) as events:
                async for _ in events:
                    pass
            run = await self.get_run(run_id)
            if run.state in watching.ENDED_STATES:
                return run

    async def cancel_run(self, run_id: str, *, reason: str = "") -> runs_pb2.RunState.ValueType:
        """Asks for the end of a run; CANCELLING while leases are live."""
        request = runs_pb2.CancelRunRequest(
            run_id=run_id, reason=reason, request_id=new_request_id()
        )
        return (await self._connection.call(lambda to: to.runs.CancelRun, request)).state

    # Agents

    async def list_agents(self) -> AsyncGenerator[agents_pb2.Agent, None]:
        """Gives the agents that serve the caller's tenant, by name."""
        request = agents_pb2.ListAgentsRequest(page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.agents.ListAgents, request):
            for agent in page.agents:
                yield agent
