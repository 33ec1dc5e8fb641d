"""A right history in which every kind of declaration comes up once, written down line by line.

Each line is an event, `kind task term`, with `key=value` for a code or the digest of an output, and
a message behind a bar: ``task.activated each | 3 items``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.history import (
    DONE,
    Asked,
    Entry,
    Explained,
    Happening,
    Hindrance,
    Observation,
    Record,
    StoredEvent,
    StoredRun,
    StoredSchedule,
    StoredTask,
)
from tests.server.core.world import SECOND, START_US, flow, task

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import (
    Approval,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    Rate,
    SignalWait,
    SubWorkflow,
    Timer,
    TriggerRule,
)
from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    Author,
    Cause,
    Fire,
    FireLine,
    Outcome,
    Overlap,
    Schedule,
    Standing,
)

TENANT = "alpha"
KEY = "run.input.key"
UNDO = Handler(kind="undo")


@dataclass(eq=False)
class Tale:
    """What happened in one tenant."""

    seen: list[Observation] = field(default_factory=list)
    now: float = START_US / 1e6
    _flows: dict[str, WorkflowDefinition] = field(default_factory=dict)
    _runs: dict[str, StoredRun] = field(default_factory=dict)
    _tasks: dict[tuple[str, str], StoredTask] = field(default_factory=dict)
    _events: dict[str, list[StoredEvent]] = field(default_factory=dict)
    _log: list[Entry] = field(default_factory=list)
    _schedules: dict[tuple[str, str], StoredSchedule] = field(default_factory=dict)

    def know(self, definition: WorkflowDefinition) -> None:
        """Registers a workflow."""
        self._flows[definition.name] = definition

    def run(self, run_id: str, workflow: str, state: str, **words: Any) -> None:
        """Has a run in the store."""
        self._runs[run_id] = StoredRun(tenant=TENANT, workflow=workflow, state=state, **words)
        self._events[run_id] = []

    def gave(self, run_id: str, **outputs: Any) -> None:
        """Has tasks of a run in the store that have succeeded with these outputs."""
        for key, output in outputs.items():
            name = key.replace("__", "[") + "]" if "__" in key else key
            self._tasks[run_id, name] = StoredTask(state="SUCCEEDED", output=output)

    def act(
        self,
        kind: str,
        run_id: str,
        *lines: str,
        after: float = 1.0,
        subject: Mapping[str, str] | None = None,
    ) -> None:
        """Something happened so many seconds later, in one act."""
        self.now += after
        items = []
        for line in lines:
            said, _, message = line.partition(" | ")
            what, *words = said.split()
            named = dict(word.split("=") for word in words if "=" in word)
            place = [word for word in words if "=" not in word]
            key, term = place[0] if place else "", int(place[1]) if len(place) > 1 else 0
            sequence = len(self._events[run_id]) + 1
            self._events[run_id].append(
                StoredEvent(
                    sequence=sequence,
                    kind=what,
                    task=key,
                    term=term,
                    entry=len(self._log),
                    at=self.now,
                    code=named.get("code", ""),
                    message=message,
                )
            )
            items.append(
                Happening(
                    run_id=run_id,
                    sequence=sequence,
                    kind=what,
                    at=self.now,
                    task=key,
                    term=term,
                    agent="one",
                    output=named.get("out", ""),
                )
            )
        entry = Entry(
            index=len(self._log),
            kind=kind,
            items=tuple(items),
            at=self.now,
            subject=subject or {},
        )
        self._log.append(entry)

    def ask(self, verb: str, run_id: str = "", **words: Any) -> None:
        """Somebody asked for something, and it was acknowledged."""
        self.now += 1
        asked: dict[str, Any] = {"outcome": DONE, "began": self.now, "ended": self.now, **words}
        self.seen.append(Asked(actor="ann", tenant=TENANT, verb=verb, run_id=run_id, **asked))

    def schedule(self, schedule: Schedule, standing: Standing, *lines: FireLine) -> None:
        """Has a schedule in the store."""
        stored = StoredSchedule(schedule=schedule, standing=standing, lines=lines)
        self._schedules[TENANT, schedule.name] = stored

    def explain(self, run_id: str, **tasks: Sequence[Hindrance]) -> None:
        """Why an open run does not go on."""
        self.seen.append(
            Explained(actor="ann", tenant=TENANT, run_id=run_id, at=self.now, tasks=tasks)
        )

    def record(self) -> Record:
        """What is in the store."""
        return Record(
            tenants={TENANT: 9},
            workflows={(TENANT, name, 1): one for name, one in self._flows.items()},
            agents={"one": 9},
            runs=self._runs,
            tasks=self._tasks,
            schedules=self._schedules,
            events={run_id: tuple(events) for run_id, events in self._events.items()},
            logs={TENANT: tuple(self._log)},
        )


def told() -> Tale:
    """The whole tale."""
    tale = Tale()
    for chapter in (_list, _saga, _keys, _branches, _waits, _family, _by_hand, _schedule, _open):
        chapter(tale)
    return tale


def _list(tale: Tale) -> None:
    each = ForEach(items="run.input.items", parallelism=2, failures_max=1, items_max=3)
    tale.know(flow(task("each", for_each=each), task("after", "each"), name="list"))
    tale.run("list", "list", "SUCCEEDED")
    tale.act("run.start", "list", "run.started", "task.activated each | 3 items")
    tale.act("lease.grant", "list", "task.leased each[0] 1", "task.leased each[1] 1")
    tale.act("lease.settle", "list", "task.succeeded each[0] 1")
    tale.act("lease.grant", "list", "task.leased each[2] 1")
    tale.act("lease.settle", "list", "task.failed each[1] 1 code=BOOM")
    tale.act("lease.settle", "list", "task.succeeded each[2] 1", "task.succeeded each")
    tale.act("lease.grant", "list", "task.leased after 1")
    tale.act("lease.settle", "list", "task.succeeded after 1", "run.succeeded")
    tale.gave("list", each__0="a", each__2="c", each=["a", None, "c"])


def _saga(tale: Tale) -> None:
    tasks = (task("book", compensation=UNDO), task("pay", compensation=UNDO), task("ship"))
    tale.know(flow(*tasks, name="saga", on_failure=UNDO))
    tale.run("saga", "saga", "FAILED")
    tale.act("run.start", "saga", "run.started")
    tale.act("lease.grant", "saga", *(f"task.leased {one.key} 1" for one in tasks))
    tale.act("lease.settle", "saga", "task.succeeded book 1", "task.succeeded pay 1")
    tale.act("lease.settle", "saga", "task.failed ship 1 code=BOOM", "run.compensating")
    for key in ("pay~undo", "book~undo", "~on_failure"):
        tale.act("lease.grant", "saga", f"task.leased {key} 1")
        tale.act("lease.settle", "saga", f"task.succeeded {key} 1")
    tale.act("lease.settle", "saga", "run.failed")


def _keys(tale: Tale) -> None:
    work = task(
        "work",
        concurrency=Concurrency(limit=1, key=KEY),
        rate=Rate(count=2, per_us=10 * SECOND, key=KEY),
        weight=2,
    )
    tale.know(flow(work, name="keyed", concurrency=Concurrency(limit=2, key=KEY)))
    for run_id in ("first", "second"):
        tale.run(run_id, "keyed", "SUCCEEDED", input={"key": "red"})
        tale.act("run.start", run_id, "run.started")
    tale.act("lease.grant", "first", "task.leased work 1")
    tale.act("lease.settle", "first", "task.lease_returned work 1")
    tale.act("lease.grant", "second", "task.leased work 1")
    tale.act("lease.settle", "second", "task.succeeded work 1", "run.succeeded")
    tale.act("lease.grant", "first", "task.leased work 2", after=20)
    tale.act("lease.settle", "first", "task.succeeded work 2", "run.succeeded")


def _branches(tale: Tale) -> None:
    tale.know(
        flow(
            task("a", attempt_timeout_us=5 * SECOND),
            task("b", when="run.input.b"),
            task("rescue", "a", "b", trigger=TriggerRule.ANY_FAILED),
            task("both", "a", "b"),
            task("never", "b"),
            name="branches",
        )
    )
    tale.run("branches", "branches", "FAILED")
    condition = "task.skipped b | its condition does not hold"
    ruled_out = "task.skipped never | its trigger rule did not hold after b"
    tale.act("run.start", "branches", "run.started", condition, ruled_out)
    tale.act("lease.grant", "branches", "task.leased a 1")
    doomed = "task.upstream_failed both | task a did not succeed"
    tale.act("time.pass", "branches", "task.failed a 1 code=TIMED_OUT", doomed, after=6)
    tale.act("run.pause", "branches", "run.paused")
    tale.act("run.resume", "branches", "run.resumed")
    tale.act("lease.grant", "branches", "task.leased rescue 1")
    tale.act("lease.settle", "branches", "task.succeeded rescue 1", "run.failed")


def _waits(tale: Tale) -> None:
    tale.know(
        flow(
            task("nap", kind="", wait=Timer(delay_us=5 * SECOND)),
            task("one", kind="", wait=SignalWait(name="go")),
            task("two", "one", kind="", wait=SignalWait(name="go")),
            task("news", kind="", wait=EventWait(name="news", timeout_us=60 * SECOND)),
            task("asked", kind="", wait=Approval(quorum=2)),
            name="waits",
        )
    )
    heard = EventTrigger(name="news", bindings={"event": "event.payload.id"})
    tale.know(flow(task("a"), name="heard", events=(heard,)))
    tale.run("waits", "waits", "SUCCEEDED", signals={"go": ["third"]})
    keys = ("nap", "one", "news", "asked")
    tale.act("run.start", "waits", "run.started", *(f"task.activated {key}" for key in keys))
    for content, then in (("first", "one"), ("second", "two")):
        taken = f"task.succeeded {then} out={content}"
        if then == "two":
            tale.act("run.signal", "waits", "run.signalled | go", taken)
        else:
            tale.act("run.signal", "waits", "run.signalled | go", taken, "task.activated two")
        tale.ask("run.signal", "waits", name="go", content=content)
    tale.act("run.signal", "waits", "run.signalled | go")
    tale.ask("run.signal", "waits", name="go", content="third")
    tale.act("event.publish", "waits", "task.succeeded news out=event")
    tale.run("heard", "heard", "CLOSED", input={"event": "token"})
    tale.act("event.publish", "heard", "run.started")
    told: dict[str, Any] = {"content": "event", "token": "token", "started": ("heard",)}
    tale.ask("event.publish", name="news", served=1, **told)
    tale.act("run.close", "heard", "task.cancelled a", "run.closed")
    for who in ("ann", "bob"):
        tale.act("task.decide", "waits", f"task.decided asked | {who} consents")
    tale.act("task.decide", "waits", "task.succeeded asked")
    tale.act("time.pass", "waits", "task.succeeded nap", "run.succeeded")


def _family(tale: Tale) -> None:
    tale.know(flow(task("call", kind="", wait=SubWorkflow(name="child")), name="parent"))
    tale.know(flow(task("a"), name="child"))
    tale.run("parent", "parent", "SUCCEEDED")
    tale.run("lost", "child", "FAILED", parent="parent", parent_task="call")
    tale.run("kept", "child", "SUCCEEDED", parent="parent", parent_task="call", output={"a": 1})
    tale.act("run.start", "parent", "run.started", "task.activated call")
    for run_id, end in (("lost", "failed"), ("kept", "succeeded")):
        tale.act("run.start", run_id, "run.started")
        tale.act("lease.grant", run_id, "task.leased a 1")
        tale.act("lease.settle", run_id, f"task.{end} a 1", f"run.{end}")
        if end == "failed":
            tale.act("time.pass", "parent", "task.retrying call", "task.activated call")
    tale.act("lease.settle", "parent", "task.succeeded call", "run.succeeded")
    tale.gave("parent", call={"a": 1})


def _by_hand(tale: Tale) -> None:
    tale.know(flow(task("a"), task("b", "a"), name="plain"))
    tale.run("again", "plain", "SUCCEEDED")
    tale.act("run.start", "again", "run.started")
    tale.act("task.skip", "again", "task.skipped a | no", "task.skipped b", "run.succeeded")
    tale.ask("task.skip", "again", task="a")
    tale.act("run.reopen", "again", "run.reopened", "task.reopened a 1", "task.reopened b 1")
    tale.ask("run.reopen", "again")
    tale.act("task.settle", "again", "task.succeeded a 1 | done")
    tale.ask("task.settle", "again", task="a")
    tale.act("lease.grant", "again", "task.leased b 2")
    tale.act("lease.settle", "again", "task.succeeded b 2", "run.succeeded")


def _schedule(tale: Tale) -> None:
    tale.know(flow(task("a"), name="tick"))
    first = START_US // SECOND * SECOND + 1000 * SECOND
    author = Author("key-0")
    schedule = Schedule(
        name="often",
        workflow="tick",
        times=FireTimes(intervals=(Interval(10 * SECOND, first),)),
        overlap=Overlap.BUFFER_ONE,
        author=author,
        create_us=first - 1,
        created_by="key-0",
        update_us=first - 1,
    )
    outcomes = ("STARTED", "WAITS", "SKIPPED", "STARTED", "MISSED", "WAITS")
    nominal = (0, 10, 20, 10, 30, 40)
    lines = []
    for number, (name, at) in enumerate(zip(outcomes, nominal, strict=True), start=1):
        outcome, nominal_us = Outcome[name], first + at * SECOND
        run_id = f"tick-{at}" if outcome is Outcome.STARTED else None
        lines.append(
            FireLine(
                number=number,
                nominal_us=nominal_us,
                at_us=nominal_us,
                cause=Cause.TIME,
                outcome=outcome,
                run_id=run_id,
            )
        )
        if run_id is not None:
            labels = {
                "tenure.schedule": "often",
                "tenure.scheduled_at": f"2023-11-14T22:30:{at:02}Z",
                "tenure.schedule_cause": "time",
            }
            tale.run(run_id, "tick", "SUCCEEDED", labels=labels)
            tale.act("schedule.fire", run_id, "run.started", subject={"schedule": "often"})
            tale.act("lease.grant", run_id, "task.leased a 1")
            tale.act("lease.settle", run_id, "task.succeeded a 1", "run.succeeded")
    waiting = (Fire(first + 40 * SECOND, Cause.TIME, author),)
    standing = Standing(cursor_us=first + 40 * SECOND, number=6, waiting=waiting)
    tale.schedule(schedule, standing, *lines)


def _open(tale: Tale) -> None:
    """A run that waits for a run that waits for a signal that nobody has given yet."""
    wait = task("stay", kind="", wait=SignalWait(name="stay"))
    tale.know(flow(wait, name="guest"))
    tale.know(flow(task("call", kind="", wait=SubWorkflow(name="guest")), task("b", "call")))
    tale.run("host", "flow", "RUNNING")
    tale.run("guest", "guest", "RUNNING", parent="host", parent_task="call")
    tale.act("run.start", "host", "run.started", "task.activated call")
    tale.act("run.start", "guest", "run.started", "task.activated stay")
    tale.explain("guest", stay=(Hindrance(kind="SIGNAL", name="stay"),))
    tale.explain(
        "host",
        call=(Hindrance(kind="CHILD_RUN", child="guest"),),
        b=(Hindrance(kind="TASKS", tasks=("call",)),),
    )
