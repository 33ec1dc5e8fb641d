"""Workflows written in Python.

The third way to a definition, beside YAML and JSON files; all three give the same bytes, because
the files are read into this builder::

    with Workflow("word-count", max_leases=4) as workflow:
        split = workflow.task("split", kind="split-text", input={"path": "corpus.txt"})
        workflow.task("count", kind="count-words", after=[split], retry=Retry(max_attempts=3))
        asked = workflow.approval("asked", "Publish the counts?", after=["count"], timeout="2d")
        workflow.task("publish", kind="publish", after=[asked], bind={"to": "run.input.to"})
    definition = workflow.definition()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tenure.v1 import workflows_pb2
from tenure_client import declarations, declaring, duration, graph, rules, wholeness
from tenure_client.declarations import Approval as Approval
from tenure_client.declarations import Concurrency as Concurrency
from tenure_client.declarations import Event as Event
from tenure_client.declarations import EventTrigger as EventTrigger
from tenure_client.declarations import ForEach as ForEach
from tenure_client.declarations import Handler as Handler
from tenure_client.declarations import Placement as Placement
from tenure_client.declarations import Rate as Rate
from tenure_client.declarations import Retry as Retry
from tenure_client.declarations import Schemas as Schemas
from tenure_client.declarations import Signal as Signal
from tenure_client.declarations import SubWorkflow as SubWorkflow
from tenure_client.declarations import Timer as Timer
from tenure_client.graph import DefinitionError, Path
from tenure_client.payload import ABSENT


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was declared; hand it to `after` of those that follow."""

    key: str


class Workflow:
    """A workflow under construction.

    Every method raises DefinitionError for what breaks a rule; its path is that of the same thing
    in a workflow file.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        max_leases: int = 0,
        labels: Mapping[str, str] | None = None,
        dimensions: Mapping[str, str] | None = None,
        input_schema: Any = ABSENT,
        schemas: Mapping[str, declarations.Schemas] | None = None,
        output: Mapping[str, str] | None = None,
        total_timeout: duration.Span | None = None,
        on_failure: declarations.Handler | None = None,
        concurrency: declarations.Concurrency | None = None,
        events: Iterable[declarations.EventTrigger] = (),
    ) -> None:
        rules.name(("name",), name)
        rules.text(("description",), description, 4000)
        rules.number(("max_leases",), max_leases, 0, rules.INT32_MAX)
        triggers = list(events)
        if len(triggers) > declaring.EVENTS_MAX:
            reason = f"must be at most {declaring.EVENTS_MAX}, are {len(triggers)}"
            raise DefinitionError(("events",), reason)
        self._definition = workflows_pb2.WorkflowDefinition(
            name=name,
            description=description,
            max_leases=max_leases,
            labels=rules.labels(("labels",), labels or {}, 64),
            dimensions=rules.statements(dimensions or {}),
            input_schema=rules.schema(("input_schema",), input_schema),
            schemas=declaring.schemas(("schemas",), schemas or {}),
            output=rules.bindings(("output",), output or {}),
            total_timeout=rules.lasting(("total_timeout",), total_timeout),
            on_failure=declaring.handler(
                ("on_failure",), on_failure, object_because="as `failed` is added to it"
            ),
            concurrency=declaring.concurrency(("concurrency",), concurrency),
            events=[
                declaring.event_trigger(("events", number), event)
                for number, event in enumerate(triggers)
            ],
        )

    def task(
        self,
        key: str,
        *,
        kind: str,
        after: Iterable[Task | str] = (),
        input: Any = ABSENT,  # noqa: A002  the contract's word
        retry: declarations.Retry | None = None,
        timeout: duration.Span | None = None,
        priority: int = 0,
        bind: Mapping[str, str] | None = None,
        when: str = "",
        trigger: str = "",
        for_each: declarations.ForEach | None = None,
        queue_timeout: duration.Span | None = None,
        total_timeout: duration.Span | None = None,
        heartbeat_timeout: duration.Span | None = None,
        compensation: declarations.Handler | None = None,
        weight: int = 0,
        concurrency: declarations.Concurrency | None = None,
        rate: declarations.Rate | None = None,
        placement: declarations.Placement | None = None,
    ) -> Task:
        """Declares a task that an agent executes, and gives the handle for those that follow.

        `input` is any JSON value; left out, there is none, which differs from None. `bind` has
        fields of it that are worked out when the task is leased. `timeout` bounds one attempt.
        Tasks named in `after` by key may be declared later; `trigger` says how they must have
        ended: `all_succeeded`, `all_done`, `any_failed` or `none_failed`.
        """
        path = self._next
        rules.name((*path, "kind"), kind)
        rules.number((*path, "weight"), weight, 0, 1000)
        return self._declare(
            key,
            after,
            when=when,
            trigger=trigger,
            kind=kind,
            retry=declaring.retry((*path, "retry"), retry),
            attempt_timeout=rules.span((*path, "attempt_timeout"), timeout),
            priority=priority,
            for_each=declaring.for_each((*path, "for_each"), for_each),
            queue_timeout=rules.lasting((*path, "queue_timeout"), queue_timeout),
            total_timeout=total_timeout,
            heartbeat_timeout=rules.lasting((*path, "heartbeat_timeout"), heartbeat_timeout),
            compensation=compensation,
            weight=weight,
            concurrency=declaring.concurrency((*path, "concurrency"), concurrency),
            rate=declaring.rate((*path, "rate"), rate),
            placement=declaring.placement((*path, "placement"), placement),
            **self._given(input, bind),
        )

    def timer(
        self,
        key: str,
        delay: duration.Span | None = None,
        *,
        until: str = "",
        after: Iterable[Task | str] = (),
        when: str = "",
        trigger: str = "",
    ) -> Task:
        """Declares a wait for a span, or until a time that an expression gives."""
        waits = declarations.Timer(delay=delay, until=until)
        return self.wait(key, waits, after=after, when=when, trigger=trigger)

    def signal(
        self,
        key: str,
        name: str,
        *,
        timeout: duration.Span | None = None,
        after: Iterable[Task | str] = (),
        when: str = "",
        trigger: str = "",
    ) -> Task:
        """Declares a wait for a signal to the run; the task's output is the signal's payload."""
        waits = declarations.Signal(name=name, timeout=timeout)
        return self.wait(key, waits, after=after, when=when, trigger=trigger)

    def event(
        self,
        key: str,
        name: str,
        *,
        of: str = "",
        timeout: duration.Span | None = None,
        after: Iterable[Task | str] = (),
        when: str = "",
        trigger: str = "",
    ) -> Task:
        """Declares a wait for an event of the tenant, of the key that the expression `of` gives."""
        waits = declarations.Event(name=name, key=of, timeout=timeout)
        return self.wait(key, waits, after=after, when=when, trigger=trigger)

    def approval(
        self,
        key: str,
        question: str = "",
        *,
        quorum: int = 0,
        approvers: Iterable[str] = (),
        timeout: duration.Span | None = None,
        escalate_after: duration.Span | None = None,
        escalate_to: Iterable[str] = (),
        after: Iterable[Task | str] = (),
        when: str = "",
        trigger: str = "",
    ) -> Task:
        """Declares a wait for the consent of people."""
        waits = declarations.Approval(
            question=question,
            quorum=quorum,
            approvers=approvers,
            timeout=timeout,
            escalate_after=escalate_after,
            escalate_to=escalate_to,
        )
        return self.wait(key, waits, after=after, when=when, trigger=trigger)

    def call(
        self,
        key: str,
        workflow: str,
        *,
        version: int = 0,
        until: str = "",
        repetitions_max: int = 0,
        after: Iterable[Task | str] = (),
        input: Any = ABSENT,  # noqa: A002  the contract's word
        bind: Mapping[str, str] | None = None,
        when: str = "",
        trigger: str = "",
        for_each: declarations.ForEach | None = None,
        retry: declarations.Retry | None = None,
        total_timeout: duration.Span | None = None,
        compensation: declarations.Handler | None = None,
        priority: int = 0,
    ) -> Task:
        """Declares a run of another workflow, or several until an expression holds."""
        waits = declarations.SubWorkflow(
            name=workflow, version=version, until=until, repetitions_max=repetitions_max
        )
        return self.wait(
            key,
            waits,
            after=after,
            input=input,
            bind=bind,
            when=when,
            trigger=trigger,
            for_each=for_each,
            retry=retry,
            total_timeout=total_timeout,
            compensation=compensation,
            priority=priority,
        )

    def wait(
        self,
        key: str,
        waits: declarations.Wait,
        *,
        after: Iterable[Task | str] = (),
        input: Any = ABSENT,  # noqa: A002  the contract's word
        bind: Mapping[str, str] | None = None,
        when: str = "",
        trigger: str = "",
        for_each: declarations.ForEach | None = None,
        retry: declarations.Retry | None = None,
        total_timeout: duration.Span | None = None,
        compensation: declarations.Handler | None = None,
        priority: int = 0,
    ) -> Task:
        """Declares a task that waits; a SubWorkflow may have input, bind, for_each and retry."""
        path, because = self._next, ""
        if isinstance(waits, declarations.SubWorkflow):
            because = "as `previous` is added to it" if waits.until else ""
        else:
            given = {
                "input": input is not ABSENT,
                "bind": bind,
                "for_each": for_each,
                "retry": retry,
            }
            for name in (name for name, there in given.items() if there):
                word = next(iter(declaring.wait(path, waits)))
                reason = f"is for handlers and workflows, not beside {word}"
                raise DefinitionError((*path, name), reason)
        return self._declare(
            key,
            after,
            when=when,
            trigger=trigger,
            for_each=declaring.for_each((*path, "for_each"), for_each),
            retry=declaring.retry((*path, "retry"), retry),
            total_timeout=total_timeout,
            compensation=compensation,
            priority=priority,
            **self._given(input, bind, because),
            **declaring.wait(path, waits),
        )

    def definition(self) -> workflows_pb2.WorkflowDefinition:
        """Checks the graph and gives a copy of the definition."""
        if not self._definition.tasks:
            raise DefinitionError(("tasks",), "must have at least one task")
        graph.upstream_of([(task.key, task.depends_on) for task in self._definition.tasks])
        wholeness.check(self._definition)
        definition = workflows_pb2.WorkflowDefinition()
        definition.CopyFrom(self._definition)
        return definition

    @property
    def _next(self) -> Path:
        return "tasks", len(self._definition.tasks)

    def _given(
        self, content: Any, bind: Mapping[str, str] | None, because: str = ""
    ) -> dict[str, Any]:
        because = because or (bind and "as fields of it are bound") or ""
        return {
            "input": rules.content((*self._next, "input"), content, object_because=because),
            "bindings": rules.bindings((*self._next, "bind"), bind or {}),
        }

    def _declare(
        self,
        key: str,
        after: Iterable[Task | str],
        *,
        when: str,
        trigger: str,
        total_timeout: duration.Span | None,
        compensation: declarations.Handler | None,
        priority: int,
        **more: Any,
    ) -> Task:
        path = self._next
        rules.key((*path, "key"), key)
        rules.number((*path, "priority"), priority, -1000, 1000)
        words = workflows_pb2.TriggerRule
        made = workflows_pb2.WorkflowTask(
            key=key,
            depends_on=[step.key if isinstance(step, Task) else step for step in after],
            when=rules.optional((*path, "when"), when),
            trigger=rules.word((*path, "trigger"), trigger, words, "TRIGGER_RULE_"),
            total_timeout=rules.lasting((*path, "total_timeout"), total_timeout),
            compensation=declaring.handler((*path, "compensation"), compensation),
            priority=priority,
            **more,
        )
        if made.trigger > words.TRIGGER_RULE_ALL_SUCCEEDED and not made.depends_on:
            raise DefinitionError((*path, "trigger"), "needs tasks that this one depends on")
        self._definition.tasks.append(made)
        return Task(key)

    def __enter__(self) -> Workflow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.definition()
