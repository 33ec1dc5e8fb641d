"""The court: gathers the facts of calls, registrations and starts, and has them judged.

Leases and results are judged on the desk itself, see `constitutions.TenantLaw`.

What was judged is kept beside the entry of the act, so that a trial can judge it anew under
other articles: one table a root, and in `points` where it was judged. Kept are the facts of every
registration and start, of mutations, and of whatever an article objected to. A read that nobody
objected to keeps none: its entry has all but how busy the tenant was. A start names its definition
instead of repeating its facts, and a call for several tenants keeps nothing, because no tenant may
learn of another how busy it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import structlog

from tenure_constitution import facts as fact_table
from tenure_constitution.judge import Objection, Verdict
from tenure_constitution.laws import Effect, Law, Perspective, Point
from tenure_server.core import errors
from tenure_server.core.desks.desk import Desk
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.engine.constitutions import Constitutions, TenantLaw
from tenure_server.engine.registry import KnownWorkflow

Facts = dict[str, Mapping[str, Any]]

#: Others are served whenever starts have been judged for so long.
SLICE_SECONDS = 0.010

log = structlog.get_logger()


class Court:
    """Judges for every tenant whose desk is held here, and for calls that are for none."""

    def __init__(
        self,
        constitutions: Constitutions,
        desks: Callable[[], Mapping[str, Desk]],
        now_us: Callable[[], int],
        note: Callable[[Act, Sequence[str]], object],
    ) -> None:
        """`note` writes an act down by which nothing happened, in these logs."""
        self._note_refused = note
        self._constitutions = constitutions
        self._desks = desks
        self._now_us = now_us
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def call(
        self,
        act: Act,
        rpc: Mapping[str, Any],
        tenant_ids: Sequence[str],
        *,
        platform_only: bool,
        keeps_facts: bool,
        divisible: bool,
    ) -> list[str]:
        """Judges a call, or a message of a stream, for each tenant that it is for.

        What objects is noted on the act. Raises CallDenied; a call that is `divisible` only when
        every tenant denies it. Otherwise it goes on for the others, those that deny it are given,
        and each has the refusal in its own log.
        """
        denied: Sequence[Objection] = ()
        denying: list[str] = []
        for tenant_id in tenant_ids or ("",):
            law = self._constitutions.of("" if platform_only else tenant_id)
            if not law.applies(Point.CALL):
                continue
            given = self._around(law.roots(Point.CALL), act.principal, act.roles, tenant_id)
            given["rpc"] = rpc
            verdict = law.judge(Point.CALL, given)
            if (keeps_facts or verdict.objections) and len(tenant_ids) <= 1:
                rest = _AROUND - given.keys()
                given |= self._around(rest, act.principal, act.roles, tenant_id)
                keep(act, Point.CALL, given)
            self._note(act, tenant_id, verdict)
            if verdict.denied:
                denied = denied or verdict.objections
                denying.append(tenant_id)
        if denied and not (divisible and len(denying) < len(tenant_ids)):
            raise errors.CallDenied(denied)
        for tenant_id in denying:
            refused = act.again(objected=True)
            refused.refusal = "CALL_DENIED"
            with contextlib.suppress(errors.Refusal):  # its seat is elsewhere, and so is its log
                self._note_refused(refused, [tenant_id])
        return denying

    def registration(
        self, origin: records.Origin, act: Act, workflow: Mapping[str, Any]
    ) -> tuple[Objection, ...]:
        """Judges a registration by the facts of its definition, and gives what warns of it.

        Raises ActDenied.
        """
        verdict, given = self._registration(origin, act.roles, workflow)
        keep(act, Point.REGISTER, given)
        self._note(act, origin.tenant_id, verdict)
        if verdict.denied:
            raise errors.ActDenied(verdict.objections)
        return verdict.objections

    def would_register(
        self, origin: records.Origin, roles: tuple[str, ...], workflow: Mapping[str, Any]
    ) -> tuple[Objection, ...]:
        """What a registration would meet; nothing is noted."""
        return self._registration(origin, roles, workflow)[0].objections

    def turn(self, tenant_id: str) -> asyncio.Lock:
        """Held by who has starts judged, until the runs are open: of two batches judged side by
        side, neither would be held against the other.
        """
        lock = self._turns.get(tenant_id)
        if lock is None:
            lock = self._turns[tenant_id] = asyncio.Lock()
        return lock

    async def starts(
        self,
        origin: records.Origin,
        act: Act,
        new: Sequence[tuple[records.Run, KnownWorkflow]],
    ) -> list[tuple[Objection, ...]]:
        """Judges the starts of runs, each as if those before it had begun, and gives what warns.

        Serves others in between, but not after the last, which the law in force has judged. How
        busy the tenant is, is what it was at the beginning. Raises ActDenied for the first that is
        denied.
        """
        tenant_id = origin.tenant_id
        facts = [(run.facts(), known.facts) for run, known in new]
        judged_under = None
        while judged_under is not (law := self._constitutions.of(tenant_id)):
            judged_under = law
            given = self._around(_AROUND, origin.api_key_id, act.roles, tenant_id)
            verdicts = await _judged(law, in_order(given, facts))
        kept = [
            {"definition": known.record.digest, "run": of_run}
            for (_, known), (of_run, _) in zip(new, facts, strict=True)
        ]
        keep(act, Point.START, {**given, "starts": kept})
        if not law.applies(Point.START):
            return [()] * len(new)
        for verdict in verdicts:
            self._note(act, tenant_id, verdict)
            if verdict.denied:
                raise errors.ActDenied(verdict.objections)
        return [verdict.objections for verdict in verdicts]

    def _registration(
        self, origin: records.Origin, roles: tuple[str, ...], workflow: Mapping[str, Any]
    ) -> tuple[Verdict, Facts]:
        law: TenantLaw = self._constitutions.of(origin.tenant_id)
        given = self._around(_AROUND, origin.api_key_id, roles, origin.tenant_id)
        given["workflow"] = workflow
        return law.judge(Point.REGISTER, given), given

    def _around(
        self, roots: frozenset[str], principal: str, roles: tuple[str, ...], tenant_id: str
    ) -> Facts:
        """Who asks, for whom and when, as far as it is asked for."""
        given: Facts = {}
        if "principal" in roots:
            given["principal"] = {"id": principal, "roles": roles}
        if "tenant" in roots:
            given["tenant"] = usage(self._desks().get(tenant_id), tenant_id)
        if "time" in roots:
            given["time"] = fact_table.of_time(self._now_us() / 1e6)
        return given

    @staticmethod
    def _note(act: Act, tenant_id: str, verdict: Verdict) -> None:
        act.object(tenant_id, verdict.objections)
        for one in verdict.objections:
            # A denial is told where the refusal is.
            if not one.denies:
                log.info("the constitution warns", detail=one.sentence, tenant=tenant_id)


async def _judged(law: TenantLaw, starts: Iterable[Facts]) -> list[Verdict]:
    """The verdicts on starts, up to the first that denies."""
    verdicts: list[Verdict] = []
    if not law.applies(Point.START):
        return verdicts
    began = time.monotonic()
    for given in starts:
        if time.monotonic() - began >= SLICE_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()
        verdict = law.judge(Point.START, given)
        verdicts.append(verdict)
        if verdict.denied:
            break
    return verdicts


_AROUND = frozenset({"principal", "tenant", "time"})


def usage(desk: Desk | None, tenant_id: str) -> dict[str, Any]:
    """What articles may look at under ``tenant``."""
    return {
        "id": tenant_id,
        "open_runs": 0 if desk is None else len(desk.runs),
        "open_tasks": 0 if desk is None else desk.open_tasks,
        "live_leases": 0 if desk is None else len(desk.leases),
        "max_leases": 0 if desk is None else desk.tenant.max_leases,
    }


def in_order(
    given: Facts, starts: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Iterator[Facts]:
    """The facts of runs (run, workflow) started together: each finds those before it open."""
    tenant = dict(given["tenant"])
    for run, workflow in starts:
        yield {**given, "tenant": dict(tenant), "run": run, "workflow": workflow}
        tenant["open_runs"] += 1
        tenant["open_tasks"] += workflow["task_count"]


def keep(act: Act, point: Point, given: Mapping[str, Any]) -> None:
    """Keeps on an act what it was judged by at a point."""
    points = act.facts["points"] if act.facts else []
    act.keep(**given, points=[*points, point.word])


def as_words(one: Objection) -> dict[str, str]:
    """An objection as an answer keeps it."""
    return one.members()


def from_words(words: Mapping[str, str]) -> Objection:
    """The objection again."""
    return Objection(
        article=words["id"],
        law=Law[words["law"].upper()],
        perspective=Perspective[words["perspective"].upper()],
        point=Point[words["point"].upper()],
        effect=Effect[words["effect"].upper()],
        message=words["message"],
        problem=words.get("problem", ""),
    )
