"""What operators do to runs, workflows and tenants: the verbs, allowed or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.model.acts import FULL, Act, named
from tests.model.course import Course
from tests.model.tasks import Run, Task

from tenure_server.core import errors
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs.live import LiveRun

_BY_HAND: Sequence[Success | Failure] = (FULL, Success(), Failure("BROKEN"))
_STANDS = (errors.RunStands, errors.RunClosed)


def _run(course: Course) -> tuple[Run, LiveRun] | None:
    runs = course.model.open_runs
    if not runs:
        return None
    run = course.choices.one(runs)
    return run, course.live[run.run_id]


def cancel(course: Course) -> str | None:
    """A run is cancelled."""
    if (found := _run(course)) is None:
        return None
    run, live = found
    course.bench.desk.cancel_run(live, "enough", course.now_us)
    course.hear()
    course.model.cancel(run)
    return f"cancel {named(run)}"


def close(course: Course) -> str | None:
    """A run is ended by force."""
    if (found := _run(course)) is None:
        return None
    run, live = found
    course.bench.desk.interventions.close(live, "closed", course.now_us)
    course.hear()
    course.model.close(run)
    return f"close {named(run)}"


def pause(course: Course) -> str | None:
    """A run is paused, or cannot be."""
    if (found := _run(course)) is None:
        return None
    run, live = found

    def act() -> None:
        course.bench.desk.interventions.pause(live, "wait", course.now_us)

    if course.model.pause(run):
        act()
        return f"pause {named(run)}"
    course.refuses(act, *_STANDS)
    return f"pause {named(run)}, which is refused"


def resume(course: Course) -> str | None:
    """A paused run goes on; of another one nothing changes."""
    paused = [run for run in course.model.open_runs if run.state == "PAUSED"]
    if not paused and (found := _run(course)) is not None:
        paused = [found[0]]
    if not paused:
        return None
    run = course.choices.one(paused)
    let_go_on(course, run)
    return f"resume {named(run)}"


def let_go_on(course: Course, run: Run) -> None:
    """Resumes a run in both."""
    live = course.live[run.run_id]
    course.bench.desk.interventions.resume(live, "go on", course.now_us)
    course.hear()
    course.model.resume(run)


def pause_name(course: Course) -> str:
    """A workflow or the tenant is paused."""
    name = course.choices.one([*course.bench.known, ""])
    course.bench.pause(name)
    course.model.pause_name(name)
    return f"pause {f'workflow {name}' if name else 'the tenant'}"


def resume_name(course: Course) -> str | None:
    """A workflow or the tenant goes on."""
    names = sorted(course.model.paused)
    if not names:
        return None
    name = course.choices.one(names)
    let_name_go_on(course, name)
    return f"resume {f'workflow {name}' if name else 'the tenant'}"


def let_name_go_on(course: Course, name: str) -> None:
    """Resumes a workflow or the tenant in both."""
    course.bench.resume(name)
    course.hear()
    course.model.resume_name(name)


def _task(course: Course) -> tuple[Run, Task] | None:
    """A task of an open run; of one that is held only what is known to wait for nothing else."""
    found = [(run, task) for run, task in course.model.tasks() if not task.ended]
    if course.choices.happens(10):
        found = list(course.model.tasks())
    return course.choices.one(found) if found else None


def skip(course: Course) -> str | None:
    """A task is skipped, or cannot be."""
    if (found := _task(course)) is None:
        return None
    run, task = found
    live = course.live[run.run_id]
    index = live.graph.index[task.key]

    def act() -> None:
        course.bench.desk.interventions.skip(live, index, "not needed", course.now_us)

    if course.model.may_skip(run, task):
        act()
        course.hear()
        course.model.skip(run, task)
        return f"skip {named(run, task)}"
    course.refuses(act, *_STANDS)
    return f"skip {named(run, task)}, which is refused"


def settle_by_hand(course: Course) -> str | None:
    """A task is settled by hand, or cannot be."""
    if (found := _task(course)) is None or found[0].held:
        return None
    run, task = found
    end = course.choices.one(_BY_HAND)
    live = course.live[run.run_id]
    index = live.graph.index[task.key]

    def act() -> None:
        course.bench.desk.interventions.settle(live, index, end, "by hand", course.now_us)

    expected = course.model.may_settle(run, task, end)
    if expected == "done":
        act()
        course.hear()
        course.model.settle_by_hand(run, task, end)
    else:
        kinds = _STANDS if expected == "stands" else (errors.FieldsInvalid,)
        course.refuses(act, *kinds)
    return f"settle {named(run, task)} by hand with {end}: {expected}"


def retry(course: Course) -> str | None:
    """What ended otherwise than well is executed again."""
    return _open_again(course, lambda run: [])


def rerun(course: Course) -> str | None:
    """Chosen tasks and what depends on them are executed again."""
    return _open_again(
        course,
        lambda run: course.choices.some(
            [task.key for task in run.tasks.values() if task.place in ("plan", "item")], 2
        ),
    )


def _open_again(course: Course, keys_of: Callable[[Run], Sequence[str]]) -> str | None:
    runs = course.model.runs
    if not runs:
        return None
    run = course.choices.one(runs[::-1])
    keys = keys_of(run)
    paused = course.choices.happens(25)
    again = course.model.again(run, keys)
    said = f"execute {', '.join(keys) or 'what failed'} of {named(run)} again"

    def act() -> None:
        live = course.bench.open_again(run.run_id, keys, paused=paused)
        course.live[run.run_id] = live

    if not again:
        course.refuses(act, *_STANDS)
        return f"{said}, which is refused"
    act()
    course.hear()
    course.model.open_again(run, again, paused=paused)
    return f"{said}{', paused' if paused else ''}"


VERBS: Sequence[tuple[int, Act]] = (
    (3, cancel),
    (2, close),
    (4, pause),
    (6, resume),
    (2, pause_name),
    (4, resume_name),
    (6, skip),
    (6, settle_by_hand),
    (4, retry),
    (4, rerun),
)
