"""What can happen to a desk. Each act says in words what it was; None: it had nobody to happen to.

Whom it happens to is chosen among what the reference knows, so that a story is the same however
often the desk is closed and opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.model.course import Course
from tests.model.definitions import EVENTS, INPUTS, PEOPLE, SIGNALS, fits
from tests.model.tasks import Run, Task
from tests.server.core.world import ACCEPT_US, LEASE_US, SECOND, json_payload

from tenure_server.core import errors
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.definitions.features import Approval
from tenure_server.core.desks import fairness
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger.lifecycle import Failure, Standing, Verdict
from tenure_server.core.progress.approvals import Decider

Act = Callable[[Course], str | None]

FULL = Success(json_payload({"n": 2, "ok": True, "list": [1, 2]}))
ENDS: Sequence[Any] = (
    FULL,
    FULL,
    Success(json_payload({"n": 1, "ok": False, "list": []})),
    Success(),
    Failure("BOOM"),
    Failure("BOOM"),
    Failure("BAD", "for good", True),
    STOPPED,
    Success(json_payload({"n": 3})),
    Success(json_payload([1])),
    Success(Payload(b"{")),
    Success(Payload(b"raw", "text/plain")),
)
#: What a report says that is not so; mostly nothing.
MADE_UP: Sequence[dict[str, Any]] = (
    {},
    {},
    {},
    {"token": b"forged"},
    {"holder": "key-3"},
    {"term": 1},
    {"term": 99},
)
#: Spans that fall before, on and after much of what has its time.
SPANS = (1, SECOND, 3 * SECOND, ACCEPT_US, 11 * SECOND, LEASE_US, 3 * LEASE_US, 300 * SECOND)
LIMITS = (6, 4, 2, 1, 10)
PAYLOADS = (None, json_payload({"n": 2, "ok": True, "list": [1]}), json_payload({"n": 0}))


def named(run: Run, task: Task | None = None) -> str:
    """What a run or a task is called in a story."""
    return f"run {run.number}" if task is None else f"{task.key} of run {run.number}"


# -- agents


def start(course: Course) -> str:
    """A run starts, or may not."""
    name = course.choices.one(list(course.bench.known))
    given, priority = course.choices.one(INPUTS), course.choices.below(2)
    said = f"start {name} with {given} at priority {priority}"
    flow = course.bench.known[name].definition
    if flow.input_schema is not None and not fits(
        None if given is None else json_payload(given), "k"
    ):
        course.refuses(lambda: course.bench.start(name, given, priority), errors.FieldsInvalid)
        return f"{said}, which is refused"
    run = course.begun(course.bench.start(name, given, priority))
    course.model.start(run)
    return f"{said}: run {run.number}"


def grant(course: Course) -> str:
    """An agent asks, and gets all that it may."""
    agent = course.choices.one(course.agents())
    at_most = course.choices.one([10, 10, 1, 2])
    leases = give(course, agent.key, at_most)
    shown = ", ".join(
        named(course.model.run(one.run.run_id)) + f" {one.task_key}" for one in leases
    )
    return f"grant {agent.holder} {agent.name} at most {at_most}: {shown or 'nothing'}"


def give(course: Course, key: tuple[str, str], at_most: int) -> list[Lease]:
    """Grants an agent what it may have, and checks that nothing was left idle."""
    desk, agent = course.bench.desk, course.bench.slots_of(*key)
    for one in course.agents():
        one.credits = one.slots
    desk.placing.line = [one for one in course.agents() if one.free > 0]
    room = min(at_most, agent.free)
    since = len(course.bench.journal.events)
    leases = fairness.grant([desk], agent, course.now_us, at_most=at_most)
    assert len(leases) <= room
    course.follow_grant(since, leases)
    if len(leases) < room and not desk.grants.resting:
        _check_idle(course, key)
    return leases


def _check_idle(course: Course, key: tuple[str, str]) -> None:
    """Wants nothing to be there that an agent could have been granted."""
    model, agent = course.model, course.bench.slots_of(*key)
    ready = [(run, task) for run, task in model.tasks() if task.state == "READY"]
    if any(task.node.weight > 1 for _, task in ready):
        # Room may be kept for it.
        return
    for run, task in ready:
        placement = task.node.placement
        others_first = placement is not None and (placement.preferred or placement.sticky)
        if not others_first and model.may_take(task, agent):
            assert model.obstacle(run, task), f"{named(run, task)} was left idle"


def _a_lease(course: Course) -> tuple[Run, Task, Lease] | None:
    live = course.model.leases()
    if not live:
        return None
    run, task = course.choices.one(live)
    return run, task, _lease_of(course, run, task)


def _lease_of(course: Course, run: Run, task: Task) -> Lease:
    words = (run.run_id, task.key, task.term, task.token, task.holder)
    lease = course.bench.desk.find(*words)
    assert lease is not None, f"no lease on {named(run, task)}"
    return lease


def accept(course: Course) -> str | None:
    """A live lease is accepted."""
    if (found := _a_lease(course)) is None:
        return None
    run, task, lease = found
    course.bench.desk.accept(lease)
    task.accept_us = None
    return f"accept {named(run, task)}"


def renew(course: Course) -> str | None:
    """A live lease is renewed, perhaps with news of it."""
    if (found := _a_lease(course)) is None:
        return None
    run, task, lease = found
    checkpoint = json_payload("half") if course.choices.happens(30) else None
    progress = (0.5, "half") if course.choices.happens(30) else None
    standing = course.bench.desk.renew(lease, checkpoint, course.now_us, progress=progress)
    told = course.model.is_told(run, task)
    assert standing is (Standing.CANCELLING if told else Standing.HELD)
    course.model.renew(task, checkpoint, progress=progress is not None)
    return f"renew {named(run, task)} with {checkpoint and 'a checkpoint'} {progress}"


def renew_all(course: Course) -> None:
    """All agents say that they are at work."""
    for run, task in course.model.leases():
        lease = _lease_of(course, run, task)
        course.bench.desk.renew(lease, None, course.now_us, progress=(0.5, ""))
        course.model.renew(task, None, progress=True)


def give_back(course: Course) -> str | None:
    """A live lease comes back."""
    if (found := _a_lease(course)) is None:
        return None
    run, task, lease = found
    course.bench.desk.give_back(lease, course.now_us)
    course.hear()
    course.model.give_back(run, task)
    return f"give back {named(run, task)}"


def settle(course: Course) -> str | None:
    """The result of a live lease comes."""
    live = course.model.leases()
    if not live:
        return None
    run, task = course.choices.one(live)
    end = course.choices.one(ENDS)
    verdict = report(course, _granted(course, task), end)
    assert verdict in (Verdict.APPLIED, Verdict.OUTPUT_REFUSED)
    return f"settle {named(run, task)} with {end}: {verdict.name}"


def _granted(course: Course, task: Task) -> Lease:
    mine = [one for one in course.granted if one.task_key == task.key and one.term == task.term]
    return next(one for one in mine if one.token == task.token)


def settle_any(course: Course) -> str | None:
    """A result of any lease there ever was comes, perhaps late, once more, or made up."""
    if not course.granted:
        return None
    granted = sorted(course.granted, key=lambda one: (one.run.run_id, one.task_key, one.term))
    lease = course.choices.one(granted)
    words = course.choices.one(MADE_UP)
    end = course.choices.one(ENDS)
    verdict = report(course, lease, end, **words)
    run = course.model.run(lease.run.run_id)
    said = f"settle attempt {lease.term} of {lease.task_key} of run {run.number}"
    return f"{said} with {end} {words or ''}: {verdict.name}"


def report(course: Course, lease: Lease, end: Any, **words: Any) -> Verdict:
    """Reports the end of an attempt to both."""
    said: dict[str, Any] = {
        "run_id": lease.run.run_id,
        "task_key": lease.task_key,
        "term": lease.term,
        "token": lease.token,
        "holder": lease.agent.holder,
        **words,
    }
    verdict = course.bench.verdict(end, **said)
    course.hear()
    key = said.pop("task_key")
    expected = course.model.settle(**said, key=key, end=end)
    assert verdict is expected, f"verdict {verdict.name}, not {expected.name}"
    return verdict


# -- time and chance


def wait(course: Course) -> str:
    """Time passes."""
    span, odd = course.choices.one(SPANS), course.choices.below(2)
    course.wait(span + odd)
    return f"wait {(span + odd) / SECOND} s"


def sleep(course: Course) -> str:
    """Nobody looks at the clock for a while."""
    span = course.choices.one(SPANS)
    course.wait(span, late=True)
    return f"sleep {span / SECOND} s"


def restart(course: Course) -> str:
    """The coordinator starts anew."""
    course.reopen()
    return "restart"


def limit(course: Course) -> str:
    """The tenant's limit changes; leases above it stay."""
    course.model.limit = course.choices.one(LIMITS)
    course.bench.limit(course.model.limit)
    return f"limit the tenant to {course.model.limit}"


# -- what is waited for


def _run(course: Course) -> Run | None:
    runs = course.model.open_runs
    return course.choices.one(runs) if runs else None


def signal(course: Course) -> str | None:
    """A signal comes to a run."""
    if (run := _run(course)) is None:
        return None
    name, payload = course.choices.one(SIGNALS), course.choices.one(PAYLOADS)
    send(course, run, name, payload)
    return f"signal {name} to {named(run)} with {payload}"


def send(course: Course, run: Run, name: str, payload: Payload | None) -> None:
    """Gives a signal to both."""
    signals = course.bench.desk.consequences.signals
    served = signals.signal(course.live[run.run_id], name, payload, course.now_us)
    course.hear()
    assert course.model.signal(run, name, payload) is served


def publish(course: Course) -> str:
    """An event comes."""
    name, key = course.choices.one(EVENTS), course.choices.one(["", "x", "y", "2"])
    payload = course.choices.one(PAYLOADS)
    served = publish_to(course, name, key, payload)
    return f"publish {name} {key} with {payload}: {served} served"


def publish_to(course: Course, name: str, key: str, payload: Payload | None = None) -> int:
    """Gives an event to both."""
    served = course.bench.desk.consequences.events.publish(name, key, payload, course.now_us)
    course.hear()
    assert course.model.publish(name, key, payload) == served
    return served


def decide(course: Course) -> str | None:
    """Somebody decides what a task asks, or would like to."""
    asking = [(r, t) for r, t in course.model.tasks() if isinstance(t.node.wait, Approval)]
    if not asking:
        return None
    run, task = course.choices.one(asking)
    who, consents = course.choices.one([*PEOPLE, "key-0"]), not course.choices.happens(20)
    found = consent(course, run, task, who, consents)
    return f"{who} decides {named(run, task)}: {consents}, {found}"


def consent(course: Course, run: Run, task: Task, who: str, consents: bool) -> str:
    """Has somebody decide in both."""
    live = course.live[run.run_id]

    def act() -> None:
        index = live.graph.index[task.key]
        course.bench.desk.consequences.approvals.decide(
            live, index, Decider(who, who), consents, "", course.now_us
        )

    expected = course.model.would_decide(task, who, consents)
    if expected == "done":
        act()
        course.hear()
        course.model.decide(run, task, who, consents)
    else:
        refusal = {"stands": errors.RunStands, "not theirs": errors.NotApprover}[expected]
        course.refuses(act, refusal)
    return expected


ACTS: Sequence[tuple[int, Act]] = (
    (22, wait),
    (12, start),
    (26, grant),
    (30, settle),
    (6, settle_any),
    (4, accept),
    (4, renew),
    (3, give_back),
    (3, sleep),
    (2, restart),
    (2, limit),
    (7, signal),
    (5, publish),
    (7, decide),
)
