"""The service Constitution: what is in force, what would change, and how it was kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from tenure.v1 import constitution_pb2, constitution_pb2_grpc, verdict_pb2
from tenure_constitution.laws import Law
from tenure_server.core import errors
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.engine import compliance
from tenure_server.engine.engine import Engine
from tenure_server.engine.trials import Change
from tenure_server.rpc import access, convert, gates, pages, verdicts
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable
from tenure_server.store.verdict_reads import Scope

#: What a report covers when nothing else is asked for.
PERIOD_US = 30 * compliance.DAY_US
#: The most changed decisions in one message of a trial.
CHANGES_MAX = 500

Rules = Mapping[str, access.AccessRule]


class Constitution(constitution_pb2_grpc.ConstitutionServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine, rules: Rules) -> None:
        self._engine = engine
        self._rules = rules

    async def SetConstitution(
        self, request: constitution_pb2.SetConstitutionRequest, context: Context
    ) -> constitution_pb2.SetConstitutionResponse:
        """Puts a constitution into force."""
        caller = access.caller()
        asked = repeatable(request, caller.rule.method)
        done = await self._engine.legislature.enact(caller.origin, request.text, asked)
        return constitution_pb2.SetConstitutionResponse(
            constitution=verdicts.version_message(done.version, done.content), created=done.created
        )

    async def GetConstitution(
        self, request: constitution_pb2.GetConstitutionRequest, context: Context
    ) -> constitution_pb2.GetConstitutionResponse:
        """Shows a version, and the platform's."""
        tenant_id = access.caller().tenant_id
        found = await self._engine.legislature.version(tenant_id, request.version)
        if found is None and request.version:
            raise errors.NotFound("constitution", f"version {request.version}")
        response = constitution_pb2.GetConstitutionResponse(
            platform=verdicts.platform_message(self._engine.constitutions.platform)
        )
        if found is not None:
            response.tenant.CopyFrom(verdicts.version_message(*found, with_articles=True))
        response.digest = self._engine.constitutions.digest_with(found[1] if found else None)
        return response

    async def ListConstitutions(
        self, request: constitution_pb2.ListConstitutionsRequest, context: Context
    ) -> constitution_pb2.ListConstitutionsResponse:
        """Lists the versions, newest first."""
        caller = access.caller()
        limit = pages.limit(request)
        (before,) = pages.read(caller, request) or (None,)
        found = await self._engine.legislature.versions(caller.tenant_id, before, limit + 1)
        response = constitution_pb2.ListConstitutionsResponse(
            constitutions=[verdicts.version_message(*one) for one in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1][0].version
            response.next_page_token = pages.issue(caller, request, [last])
        return response

    async def TryConstitution(
        self, request: constitution_pb2.TryConstitutionRequest, context: Context
    ) -> AsyncIterator[constitution_pb2.TryConstitutionResponse]:
        """Judges recorded acts anew."""
        steps: Any = self._engine.legislature.attempt(
            access.caller().tenant_id, request.text, request.decisions_max, self._rpc_of
        )
        async with contextlib.aclosing(steps):
            async for progress in steps:
                changes = [_change_message(one) for one in progress.changes]
                for begin in range(0, len(changes) or 1, CHANGES_MAX):
                    yield constitution_pb2.TryConstitutionResponse(
                        judged=progress.judged,
                        total=progress.total,
                        changes=changes[begin : begin + CHANGES_MAX],
                    )

    async def GetComplianceReport(
        self, request: constitution_pb2.GetComplianceReportRequest, context: Context
    ) -> constitution_pb2.GetComplianceReportResponse:
        """Reports how the laws were kept."""
        tenant_id = access.caller().tenant_id
        end_us = self._engine.now_us()
        if request.HasField("end_time"):
            end_us = convert.timestamp_us(request.end_time, "end_time")
        start_us = max(0, end_us - PERIOD_US)
        if request.HasField("start_time"):
            start_us = convert.timestamp_us(request.start_time, "start_time")
        scope = Scope(workflow=request.workflow, run_id=request.run_id)
        report = await self._engine.compliance.report(tenant_id, scope, start_us, end_us)
        return _report_message(tenant_id, report)

    def _rpc_of(self, method: str) -> Mapping[str, Any] | None:
        """What articles may look at of a method, None for one that a tenant's never judge."""
        rule = self._rules.get(method)
        if rule is None or method == gates.SET_CONSTITUTION:
            return None
        return gates.rpc_facts(rule)


def _change_message(change: Change) -> constitution_pb2.ChangedDecision:
    return constitution_pb2.ChangedDecision(
        index=change.index,
        kind=change.kind,
        time=convert.timestamp(change.at_us),
        point=cast("verdict_pb2.Point.ValueType", int(change.point)),
        was=cast("verdict_pb2.VerdictResult.ValueType", int(change.was)),
        would=cast("verdict_pb2.VerdictResult.ValueType", int(change.would.result)),
        objections=verdicts.objection_messages(change.would.objections),
        subject=change.subject,
    )


def _report_message(
    tenant_id: str, report: compliance.Report
) -> constitution_pb2.GetComplianceReportResponse:
    response = constitution_pb2.GetComplianceReportResponse(
        tenant_id=tenant_id,
        start_time=convert.timestamp(report.start_us),
        end_time=convert.timestamp(report.end_us),
        constitution_digest=report.constitution_digest,
        acts=sum(day.acts for day in report.days),
        refusals=sum(day.refusals for day in report.days),
        runs=report.runs,
        log_size=report.log_size,
    )
    for law in Law:
        kept, standing = report.law_standing(law)
        response.laws.add(
            law=cast("verdict_pb2.Law.ValueType", int(law)),
            denied=report.by_law[law.word, "deny"],
            warned=report.by_law[law.word, "warn"],
            standing=standing,
            kept=kept,
        )
    gone = report.gone()
    for articles, platform in (
        (report.platform, True),
        (report.tenant, False),
        (gone, False),
    ):
        for article in articles:
            response.articles.add(
                article=verdicts.article_message(article),
                platform=platform,
                denied=report.objections[article.id, article.law.word, "deny"],
                warned=report.objections[article.id, article.law.word, "warn"],
            )
    for one in report.workflows:
        _add_workflow(response, one)
    for day in report.days:
        response.days.add(
            begin_time=convert.timestamp(day.start_us),
            acts=day.acts,
            refusals=day.refusals,
            denied=day.denied,
            warned=day.warned,
        )
    for index, entry in reversed(report.refusals):
        response.recent_refusals.add(
            index=index,
            time=convert.timestamp(entry["at"]),
            kind=entry["kind"],
            principal=entry["principal"],
            reason=entry["refusal"],
            articles=[article["id"] for article in entry.get("articles", ())],
        )
    return response


def _add_workflow(
    response: constitution_pb2.GetComplianceReportResponse, one: compliance.WorkflowStanding
) -> None:
    response.workflows.add(
        workflow=one.record.name,
        version=one.record.version,
        digest=one.record.digest,
        dimensions=verdicts.assessment_messages(one.dimensions),
        runs=one.states.total(),
        succeeded=one.states[RunState.SUCCEEDED],
        failed=one.states[RunState.FAILED],
        cancelled=one.states[RunState.CANCELLED],
    )
