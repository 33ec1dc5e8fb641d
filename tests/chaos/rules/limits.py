"""Whether live leases stayed within every limit, at each instant of each log."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.chaos import clocks
from tests.chaos.history import Happening, LeaseName, Observations, Record
from tests.chaos.rules.course import RELEASES, RUN_ENDS, declared

from tenure_server.core.definitions.declared import WorkflowTask

#: The expressions of keys that are understood here.
_PATH = "run.input."
_BEGINS = {"task.leased", "task.activated"}


def limits_hold(_: Observations, record: Record) -> Iterator[str]:
    """Slots of tenants, workflows and agents: a lease takes as many as its task weighs."""
    for tenant, most in record.tenants.items():
        yield from _tenant_limits_hold(tenant, most, record)
    logs = ((item for entry in log for item in entry.items) for log in record.logs.values())
    everything = [item for log in logs for item in clocks.evenly(log)]
    # At one instant leases end before others begin: that is what makes these possible.
    everything.sort(key=lambda item: (item.at, item.kind == "task.leased"))
    agents = {_name(step): step.agent for step in everything if step.kind == "task.leased"}
    yield from _replay(
        record,
        [step for step in everything if agents.get(_name(step), "") in record.agents],
        lambda step: f"agent {agents[_name(step)]}",
        lambda step: record.agents[agents[_name(step)]],
    )


def _tenant_limits_hold(tenant: str, most: int, record: Record) -> Iterator[str]:
    steps = _steps_of(tenant, record)
    yield from _replay(record, steps, lambda _: f"tenant {tenant}", lambda _: most)
    yield from _replay(
        record,
        [step for step in steps if _workflow_limit(record, step)],
        lambda step: f"workflow {tenant}/{record.runs[step.run_id].workflow}",
        lambda step: _workflow_limit(record, step),
    )


def _steps_of(tenant: str, record: Record) -> list[Happening]:
    return [item for entry in record.logs.get(tenant, ()) for item in entry.items]


def _workflow_limit(record: Record, step: Happening) -> int:
    definition = record.definition_of(step.run_id)
    return 0 if definition is None else definition.max_leases


def _name(step: Happening) -> LeaseName:
    return (step.run_id, step.task, step.term)


def _replay(
    record: Record,
    steps: Iterable[Happening],
    whose: Callable[[Happening], str],
    most: Callable[[Happening], int],
) -> Iterator[str]:
    live: dict[LeaseName, int] = {}
    held: Counter[str] = Counter()
    for step in steps:
        name = _name(step)
        if step.kind == "task.leased":
            live[name] = weight_of(record, step.run_id, step.task)
            held[whose(step)] += live[name]
            if held[whose(step)] > most(step):
                yield f"{whose(step)} had {held[whose(step)]} leases of {most(step)} at {name}"
                return
        elif step.kind in RELEASES and name in live:
            held[whose(step)] -= live.pop(name)


def weight_of(record: Record, run_id: str, key: str) -> int:
    """How many slots a lease of a task takes."""
    task = _declared(record, run_id, key)
    return 1 if task is None else task.weight


def _declared(record: Record, run_id: str, key: str) -> WorkflowTask | None:
    definition = record.definition_of(run_id)
    return None if definition is None else declared(definition, key)


# -- limits by key

#: The tenant's, or the task's own.
Key = tuple[str, ...]


def _key_of(record: Record, run_id: str, expression: str, own: Key) -> Key:
    if not expression:
        return own
    assert expression.startswith(_PATH), f"the checker does not know {expression}"
    given: Any = record.runs[run_id].input
    return ("key", str(given[expression.removeprefix(_PATH)]))


def keys_hold(_: Observations, record: Record) -> Iterator[str]:
    """Leases of a key at once, and leases of a key begun in a span of time."""
    for tenant in record.tenants:
        live: dict[Key, set[LeaseName]] = defaultdict(set)
        keys: dict[LeaseName, Key] = {}
        begun: dict[Key, deque[float]] = defaultdict(lambda: deque(maxlen=1000))
        before = 0.0
        for step in _steps_of(tenant, record):
            name = _name(step)
            if clocks.nearest(step.at, before) != step.at:
                # The clock was set. How long ago anything began nobody can say any more.
                begun.clear()
            before = step.at
            if step.kind in RELEASES and name in keys:
                live[keys.pop(name)].discard(name)
            task = _declared(record, step.run_id, step.task)
            if task is None or step.kind != "task.leased":
                continue
            own = ("task", record.runs[step.run_id].workflow, task.key)
            if (limit := task.concurrency) is not None:
                key = keys[name] = _key_of(record, step.run_id, limit.key, own)
                live[key].add(name)
                if len(live[key]) > limit.limit:
                    yield f"key {key} of {tenant} had {len(live[key])} leases of {limit.limit}"
            if (rate := task.rate) is not None:
                key = _key_of(record, step.run_id, rate.key, own)
                begun[key].append(step.at)
                late = sum(at > step.at - rate.per_us / 1e6 for at in begun[key])
                if late > rate.count:
                    yield f"rate {key} of {tenant} had {late} leases of {rate.count} at {name}"


def run_keys_hold(_: Observations, record: Record) -> Iterator[str]:
    """Runs of a key with work under way at once. One that was opened again begins anew."""
    for tenant in record.tenants:
        inside: dict[Key, set[str]] = defaultdict(set)
        for step in _steps_of(tenant, record):
            definition = record.definition_of(step.run_id)
            limit = None if definition is None else definition.concurrency
            if limit is None:
                continue
            own = ("run", record.runs[step.run_id].workflow)
            key = (*own, *_key_of(record, step.run_id, limit.key, ()))
            if step.kind in RUN_ENDS:
                inside[key].discard(step.run_id)
            elif step.kind in _BEGINS and step.run_id not in inside[key]:
                inside[key].add(step.run_id)
                if len(inside[key]) > limit.limit:
                    open_ = sorted(inside[key])
                    yield f"key {key} of {tenant} had {open_} at work, of {limit.limit}"
