"""Tasks that wait for the consent of people.

`detail` holds what was decided so far, ``decisions``, in their order; when it expires, ``due``; and
when others may decide as well, ``escalate``, and whether they may by now, ``escalated``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from tenure_server.core import errors
from tenure_server.core.definitions.features import Approval
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.leasing.alarms import ACTIVITY
from tenure_server.core.ledger.lifecycle import EventKind, Failure, TaskState
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

REJECTED = "REJECTED"
APPROVAL_EXPIRED = "APPROVAL_EXPIRED"


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides: the id of a key, and its name."""

    api_key_id: str
    name: str


class Approvals:
    """Asks, counts, and ends with consent, rejection, or nothing in time."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Asks."""
        asked = _asked(run, index)
        facts.keep(
            decisions=[],
            due=_after(asked.timeout_us, now_us),
            escalate=_after(asked.escalate_after_us, now_us),
            escalated=False,
        )
        text = asked.question or "approval"
        self._consequences.note(run, index, facts, EventKind.TASK_ACTIVATED, text, now_us)
        self._set_alarms(run, index, facts)

    def decide(
        self,
        run: LiveRun,
        index: int,
        decider: Decider,
        consents: bool,
        reason: str,
        now_us: int,
    ) -> None:
        """Takes somebody's decision. The same decision twice is the same as once.

        Raises RunStands when the task does not ask, or the decider has decided otherwise;
        NotApprover when it is not for them to decide.
        """
        asked, key = _asked(run, index), run.graph.keys[index]
        if run.states[index] != TaskState.ACTIVE:
            state = TaskState(run.states[index]).name.lower()
            message = f"task {key} is {state} and asks for nobody's consent now"
            raise errors.RunStands(message, task=key)
        facts = run.facts[index]
        detail = facts.detail
        assert detail is not None
        if not _may(asked, run, decider, detail["escalated"]):
            raise errors.NotApprover(f"it is not for key {decider.name} to decide task {key}")
        for one in detail["decisions"]:
            if one["by"] == decider.api_key_id:
                if one["consent"] == consents:
                    return
                raise errors.RunStands(f"key {decider.name} has decided task {key}", task=key)
        decision = {
            "by": decider.api_key_id,
            "name": decider.name,
            "consent": consents,
            "reason": reason,
            "at_us": now_us,
        }
        facts.keep(decisions=[*detail["decisions"], decision])
        word = "consents" if consents else "rejects"
        text = f"{decider.name} {word}: {reason}" if reason else f"{decider.name} {word}"
        self._consequences.note(run, index, facts, EventKind.TASK_DECIDED, text, now_us)
        self._conclude(run, index, facts, asked, now_us)

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Lets others decide too, or gives up."""
        detail = facts.detail
        assert detail is not None
        if detail["due"] is not None and detail["due"] <= now_us:
            text = f"{_consents(detail)} of {_asked(run, index).quorum} consented in time"
            failure = Failure(APPROVAL_EXPIRED, text, True)
            self._consequences.fail(run, index, facts, failure, now_us)
        elif not detail["escalated"] and (detail["escalate"] or now_us + 1) <= now_us:
            facts.keep(escalated=True)
            text = f"{', '.join(_asked(run, index).escalate_to)} may decide as well"
            self._consequences.note(run, index, facts, EventKind.TASK_ESCALATED, text, now_us)

    def part_ended(self, run: LiveRun, index: int, part: int, now_us: int) -> None:
        """It has no parts."""

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """There is nothing to let go of."""

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Nothing is remembered of it."""

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Sets the alarms."""
        self._set_alarms(run, index, facts)

    def _conclude(
        self, run: LiveRun, index: int, facts: TaskFacts, asked: Approval, now_us: int
    ) -> None:
        detail = facts.detail
        assert detail is not None
        last = detail["decisions"][-1]
        if not last["consent"]:
            text = f"{last['name']}: {last['reason']}" if last["reason"] else last["name"]
            failure = Failure(REJECTED, f"rejected by {text}", True)
            self._consequences.fail(run, index, facts, failure, now_us)
        elif _consents(detail) >= asked.quorum:
            output = Payload(orjson.dumps({"decisions": detail["decisions"]}))
            self._consequences.succeed(run, index, facts, output, now_us)

    def _set_alarms(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        detail = facts.detail or {}
        times = [detail.get("due"), None if detail.get("escalated") else detail.get("escalate")]
        for at_us in times:
            if at_us is not None:
                self._consequences.alarm(at_us, ACTIVITY, run.run_id, index)


def _asked(run: LiveRun, index: int) -> Approval:
    asked = run.tasks[index].wait
    if not isinstance(asked, Approval):
        key = run.graph.keys[index]
        raise errors.RunStands(f"task {key} asks for nobody's consent", task=key)
    return asked


def _may(asked: Approval, run: LiveRun, decider: Decider, escalated: bool) -> bool:
    named = asked.approvers + (asked.escalate_to if escalated else ())
    who = {decider.api_key_id, decider.name}
    if asked.approvers:
        return not who.isdisjoint(named)
    return decider.api_key_id != run.started_by or not who.isdisjoint(named)


def _consents(detail: dict[str, Any]) -> int:
    return sum(one["consent"] for one in detail["decisions"])


def _after(span_us: int | None, now_us: int) -> int | None:
    return None if span_us is None else now_us + span_us
