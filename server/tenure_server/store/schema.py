"""Every table of the store, in the order of their making."""

from __future__ import annotations

from tenure_server.store import evidence_tables, schedule_tables, tables

ALL: tuple[type[tables.Table], ...] = (
    tables.Tenant,
    tables.Seat,
    tables.ApiKey,
    tables.ApiKeyTenant,
    tables.WorkflowDefinition,
    tables.WorkflowRun,
    tables.WorkflowTask,
    tables.WorkflowExecutionLog,
    tables.Request,
    evidence_tables.EvidenceEntry,
    evidence_tables.EvidenceNode,
    evidence_tables.EvidenceHead,
    evidence_tables.EvidenceCheckpoint,
    evidence_tables.SigningKey,
    tables.Constitution,
    tables.RunTerm,
    tables.WorkflowWord,
    tables.EventTrigger,
    tables.Pause,
    schedule_tables.Schedule,
    schedule_tables.ScheduleStanding,
    schedule_tables.ScheduleFire,
)
