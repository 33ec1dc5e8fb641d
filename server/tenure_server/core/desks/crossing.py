"""A run laid beside a newer version of its workflow, task by task, by their keys.

What stands against moving it is named. When nothing does, the run is made anew under the newer
version, from its rows, as if it were read back.

a task that                     must be in the newer version
is leased                       nowhere: its lease is waited for
has begun and not ended         as the same work, waiting for the same, and its turn come there
has succeeded or failed         as the same work, and its turn come there
failed with what it depends on  and fail there with what it depends on
was skipped or cancelled        as whatever
is none of this                 nothing is asked: it is judged anew
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from tenure_server.core import errors
from tenure_server.core.definitions.features import RUN_TASKS_MAX, Timer
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.desks import versions
from tenure_server.core.desks.versions import Obstacle, Version, has, listed
from tenure_server.core.leasing import timeouts
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import TASK_ENDED, TASK_LOST, TaskState
from tenure_server.core.progress import timers
from tenure_server.core.runs import restoring, run_data
from tenure_server.core.runs.extensions import ITEMS, Extension
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.runs.triggers import Turn

#: Ends of tasks that may never have been executed.
_UNEXECUTED = frozenset({TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED})
#: So many of what stands against it are named.
_OBSTACLES_MAX = 100


class Crossing:
    """Changes nothing in the run."""

    def __init__(
        self,
        run: LiveRun,
        to: Version,
        *,
        again: Collection[int] = (),
        reopened: bool = False,
        until_us: int | None = None,
        now_us: int,
    ) -> None:
        """`again` are tasks that have ended and are to be executed again, as the run is `reopened`;
        `until_us` is by when the run must have ended that it was started for.
        """
        self.old = run
        self.to = to
        self._again = frozenset(again)
        self._now_us = now_us
        #: What stands against it, in the order of the tasks.
        self.obstacles: list[Obstacle] = []
        #: The new number of each task that is there under both versions, by its old one.
        self.numbers: dict[int, int] = {}
        #: What the activities keep of tasks that have begun.
        self._details: dict[int, dict[str, Any] | None] = {}
        span_us = to.definition.total_timeout_us
        by_us = timeouts.run_deadline_us(span_us, run.create_us, until_us)
        over = by_us is not None and by_us <= now_us
        detail = self._detail(self._kept_extensions())
        if over and (reopened or run.has_expired):
            # As with every run that is taken up again: it would end again at once.
            detail["expired"] = False
        elif over:
            why = f"its time would be up already by the total_timeout of version {to.number}"
            self.obstacles.append(Obstacle(versions.RUN_TIME, "", why))
        record = replace(
            _record_of(run),
            workflow_version=to.number,
            workflow_digest=to.digest,
            deadline_us=by_us,
            detail=orjson.dumps(detail).decode() if detail else None,
        )
        #: The run under the newer version; see `take`.
        self.new = LiveRun(
            record, to.definition, to.graph, order=run.order[1], workflow_facts=to.facts
        )
        self.new.sequence = run.sequence
        self._look()

    # -- what there will be

    def _kept_extensions(self) -> list[Extension]:
        """What the run has beside the newer graph; numbers all tasks that stay."""
        old, definition, index_of = self.old, self.to.definition, self.to.graph.index
        for index, task in enumerate(old.definition.tasks):
            if task.key in index_of:
                self.numbers[index] = index_of[task.key]
        kept: list[Extension] = []
        begin, first = len(definition.tasks), old.planned
        for extension in old.extensions:
            of = self.numbers.get(extension.of, -1)
            if extension.kind == ITEMS:
                stays = of >= 0 and definition.tasks[of].for_each is not None
            else:
                stays = definition.on_failure is not None
            if stays:
                kept.append(replace(extension, of=of))
                for place in range(extension.count):
                    self.numbers[first + place] = begin + place
                begin += extension.count
            first += extension.count
        return kept

    def _detail(self, kept: list[Extension]) -> dict[str, Any]:
        detail = dict(self.old.detail or {})
        detail.pop("extensions", None)
        detail.pop("expired", None)
        if kept:
            detail["extensions"] = [one.as_json() for one in kept]
        return detail

    def is_fresh(self, index: int) -> bool:
        """Whether a task of the run has neither begun nor ended, or is to be executed again."""
        state = self.old.states[index]
        if index in self._again or state == TaskState.WAITING:
            return True
        if state != TaskState.READY:
            return False
        facts = self.old.facts.get(index)
        # What lost its lease consumed no attempt, but an agent may have worked on it.
        return facts is None or not (facts.attempt or facts.lease_us or facts.checkpoint)

    # -- what stands against it

    def _look(self) -> None:
        old, new = self.old, self.new
        standing = [index for index in range(len(old.states)) if not self.is_fresh(index)]
        for index in standing:
            if index in self.numbers:
                new.move(self.numbers[index], TaskState(old.states[index]))
        self.obstacles += [Obstacle(kind, "", why) for kind, why in self._against_run()]
        for index in standing:
            if len(self.obstacles) >= _OBSTACLES_MAX:
                return
            found = self._against_task(index)
            if found is not None:
                self.obstacles.append(Obstacle(found[0], old.graph.keys[index], found[1]))

    def _against_run(self) -> Iterator[tuple[str, str]]:
        """What stands against the run as a whole."""
        version, count = f"version {self.to.number}", len(self.new.states)
        if problem := run_data.input_problem(self.to.definition, self.old.input):
            yield versions.RUN_INPUT, f"its input breaks the schema of {version}: {problem}"
        if count > RUN_TASKS_MAX:
            why = f"it would have {count} tasks, at most {RUN_TASKS_MAX} are allowed"
            yield versions.RUN_TASKS, why

    def _against_task(self, index: int) -> tuple[str, str] | None:
        """What stands against a task that has begun or ended: its kind, and why."""
        old, state = self.old, TaskState(self.old.states[index])
        where, facts = f"in version {self.to.number}", old.facts.get(index)
        if state is TaskState.LEASED:
            agent = facts.agent if facts else ""
            why = f"is leased to agent {agent}; wait for its end, or settle it by hand"
            return versions.TASK_LEASED, why
        number = self.numbers.get(index)
        if number is None:
            return versions.TASK_MISSING, f"{has(state)} and is not {where}"
        before, after = old.tasks[index], self.new.tasks[number]
        if state not in _UNEXECUTED and (other := versions.other_work(before, after)):
            return versions.TASK_WORK, f"{has(state)}, and {where} it is {other}"
        if state not in TASK_ENDED and versions.waits_for_other(before.wait, after.wait):
            return versions.TASK_WAIT, f"{has(state)}, and {where} it waits for something else"
        if why := self._turn_problem(number, state):
            return versions.TASK_ORDER, f"{has(state)}, and {where} {why}"
        if state in TASK_ENDED:
            return None
        assert facts is not None
        detail = timeouts.moved(before, after, facts.detail, self._now_us)
        if state is TaskState.ACTIVE and isinstance(before.wait, Timer):
            detail = timers.moved(before.wait, detail)
        self._details[index] = detail
        if timeouts.is_over(detail, self._now_us, at_work=state is TaskState.ACTIVE):
            return versions.TASK_TIME, f"{has(state)}, and {where} its time would be up already"
        return None

    def _turn_problem(self, number: int, state: TaskState) -> str:
        """Why a task cannot stand so under the newer version. Empty: it can."""
        new, whose = self.new, number
        if number >= new.planned:
            # Items have their turn with their list; what follows a failure has none.
            whose = new.extension_of(number)[0].of
        if whose < 0 or state in (TaskState.SKIPPED, TaskState.CANCELLED):
            return ""
        turn, upstream = new.turn_of(whose), new.graph.upstream[whose]
        if state is TaskState.UPSTREAM_FAILED:
            return "" if turn is Turn.DOOM else "nothing that it depends on has failed"
        if turn is Turn.COME:
            return ""
        if turn is Turn.WAIT:
            keys = [new.graph.keys[up] for up in upstream if new.states[up] not in TASK_ENDED]
            return f"it depends on {listed(keys)}: not ended yet"
        badly = TASK_LOST | {TaskState.SKIPPED}
        keys = [new.graph.keys[up] for up in upstream if new.states[up] in badly]
        return f"it would not have begun after {listed(keys)}" if keys else "nothing has failed"

    def check(self, more: Collection[Obstacle] = ()) -> None:
        """Raises VersionsDiffer where anything stands against it; `more` comes first."""
        found = [*more, *self.obstacles]
        if found:
            run, to = self.old, self.to
            between = f"from version {run.workflow_version} to version {to.number}"
            raise errors.VersionsDiffer(
                f"run {run.run_id} cannot be moved {between}",
                [(one.kind, one.subject, one.why) for one in found],
                state=run.state.name,
            )

    # -- the run under the newer version

    def unnoted(self) -> frozenset[str]:
        """The tasks that have succeeded and can be undone under the newer version only."""
        old, tasks = self.old, self.new.tasks
        return frozenset(
            old.graph.keys[index]
            for index, number in self.numbers.items()
            if old.states[index] == TaskState.SUCCEEDED
            and tasks[number].compensation is not None
            and tasks[number].for_each is None
            and not self.is_fresh(index)
            and index not in old.successes
        )

    def needed_outputs(self) -> list[int]:
        """The tasks that stay and whose outputs are needed from now on."""
        old, new = self.old, self.new
        found: list[int] = []
        for index, number in self.numbers.items():
            if old.states[index] != TaskState.SUCCEEDED or self.is_fresh(index):
                continue
            needed_by = new.graph.needed_by(number)
            if number >= new.planned:
                extension, _ = new.extension_of(number)
                needed_by = (extension.of,) if extension.kind == ITEMS else ()
            if new.needed_at_end(number) or any(
                new.states[one] not in TASK_ENDED for one in needed_by
            ):
                found.append(index)
        return found

    def rows(
        self, stored: Mapping[int, records.Task], successes: Mapping[str, int]
    ) -> dict[int, records.Task]:
        """The rows of its tasks under their new numbers.

        `stored` has those of tasks that have ended, `successes` says by which event each that was
        `unnoted` has succeeded.
        """
        old, found, unnoted = self.old, dict[int, records.Task](), self.unnoted()
        for index, number in self.numbers.items():
            if not self.is_fresh(index) and old.states[index] in TASK_ENDED:
                row, key = stored[index], old.graph.keys[index]
                detail = row.detail
                if key in unnoted:
                    kept = orjson.loads(detail or "{}") | {"succeeded": successes[key]}
                    detail = orjson.dumps(kept).decode()
                found[number] = replace(row, task_index=number, detail=detail)
            elif (known := old.facts.get(index)) is not None:
                facts = self._facts(index, known)
                if facts is not None:
                    found[number] = self._row(number, facts)
        return found

    def _facts(self, index: int, facts: TaskFacts) -> TaskFacts | None:
        """What is still known of a task that has not ended."""
        if not self.is_fresh(index):
            # A result for a lease that was lost under the older version comes too late.
            token_hash = facts.token_hash if facts.result_hash else b""
            return replace(facts, token_hash=token_hash, detail=self._details[index])
        # What was opened again keeps its term, and a list of which some items have ended.
        items = (facts.detail or {}).get("items")
        detail = None if items is None else {"items": items}
        return TaskFacts(term=facts.term, detail=detail) if facts.term or detail else None

    def _row(self, number: int, facts: TaskFacts) -> records.Task:
        new = self.new
        return records.Task(
            run_id=new.run_id,
            task_index=number,
            task_key=new.graph.keys[number],
            state=TaskState(new.states[number]),
            attempt=facts.attempt,
            term=facts.term,
            lost=facts.lost,
            agent=facts.agent,
            holder=facts.holder,
            token_hash=facts.token_hash or None,
            lease_us=facts.lease_us,
            end_us=None,
            retry_us=facts.retry_us,
            result_hash=facts.result_hash or None,
            failure=facts.failure,
            output=None,
            checkpoint=facts.checkpoint,
            detail=None if facts.detail is None else orjson.dumps(facts.detail).decode(),
        )

    def take(self, rows: Mapping[int, records.Task], outputs: Mapping[int, Payload]) -> LiveRun:
        """The run as it stands under the newer version, before anything is judged anew.

        `outputs` are those of its rows that are needed there.
        """
        restoring.restore(self.new, rows, outputs, judged=False)
        return self.new

    def kept_rows(self, rows: Mapping[int, records.Task]) -> Iterator[Row]:
        """The rows that the tables keep under new numbers, see `journal.TASK_MOVED_COLUMNS`."""
        new = self.new
        for index, number in self.numbers.items():
            row = rows.get(number)
            if row is not None and row.state in TASK_ENDED:
                yield new.tenant_id, new.run_id, index, number, row.detail


def _record_of(run: LiveRun) -> records.Run:
    """A run as its row has it, but for what its tasks come to."""
    return records.Run(
        tenant_id=run.tenant_id,
        run_id=run.run_id,
        workflow=run.workflow,
        workflow_version=run.workflow_version,
        workflow_digest=run.workflow_digest,
        state=run.state,
        priority=run.priority,
        labels=run.labels,
        input=run.input,
        correlation_id=run.correlation_id,
        started_by=run.started_by,
        reason=run.reason,
        task_count=0,
        succeeded=0,
        failed=0,
        upstream_failed=0,
        cancelled=0,
        create_us=run.create_us,
        start_us=run.start_us,
        end_us=run.end_us,
        constitution_digest=run.constitution_digest,
        parent_run_id=run.parent_run_id,
        parent_task=run.parent_task,
        output=run.output,
    )
