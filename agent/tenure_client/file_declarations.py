"""What a task or a workflow declares in a file, read into the builder's values.

Each function takes the value that stands under its key, with its path. A wait can be written in
short: `timer: 30s`, `signal: NAME`, `event: NAME`, `approval: QUESTION`, `workflow: NAME`.
"""

from __future__ import annotations

from typing import Any

from tenure_client import declarations
from tenure_client.graph import DefinitionError, Path
from tenure_client.payload import ABSENT
from tenure_client.tables import Table, is_span

_RETRY_KEYS = (
    "max_attempts",
    "initial_delay",
    "max_delay",
    "multiplier",
    "jitter",
    "non_retryable_codes",
    "strategy",
    "total_timeout",
)
_HANDLER_KEYS = ("kind", "input", "bind", "retry", "attempt_timeout")
_FOR_EACH_KEYS = ("items", "parallelism", "failures_max", "items_max")
_APPROVAL_KEYS = (
    "question",
    "quorum",
    "approvers",
    "timeout",
    "escalate_after",
    "escalate_to",
)
_SUB_WORKFLOW_KEYS = ("name", "version", "until", "repetitions_max")

#: The keys of which a task has one in place of a handler's kind.
WAITS = ("timer", "signal", "event", "approval", "workflow")


def retry(table: Table) -> declarations.Retry | None:
    """What becomes of failed attempts."""
    if "retry" not in table:
        return None
    found = Table(table.value("retry"), (*table.path, "retry"), _RETRY_KEYS)
    return declarations.Retry(
        max_attempts=found.whole("max_attempts"),
        initial_delay=found.span("initial_delay"),
        max_delay=found.span("max_delay"),
        multiplier=found.number("multiplier"),
        jitter=found.number("jitter") if "jitter" in found else None,
        non_retryable_codes=found.texts("non_retryable_codes"),
        strategy=found.text("strategy"),
        total_timeout=found.span("total_timeout"),
    )


def handler(table: Table, key: str) -> declarations.Handler | None:
    """Something that is executed beside the graph."""
    if key not in table:
        return None
    found = Table(table.value(key), (*table.path, key), _HANDLER_KEYS, required=("kind",))
    return declarations.Handler(
        kind=found.text("kind"),
        input=found.value("input"),
        bind=found.words("bind"),
        retry=retry(found),
        attempt_timeout=found.span("attempt_timeout"),
    )


def for_each(table: Table) -> declarations.ForEach | None:
    """One task for each item."""
    found = _part(table, "for_each", _FOR_EACH_KEYS, required=("items",))
    if found is None:
        return None
    return declarations.ForEach(
        items=found.expression("items"),
        parallelism=found.whole("parallelism"),
        failures_max=found.whole("failures_max"),
        items_max=found.whole("items_max"),
    )


def concurrency(table: Table) -> declarations.Concurrency | None:
    """How much of a key goes on at once."""
    found = _part(table, "concurrency", ("key", "limit", "strategy"), required=("limit",))
    if found is None:
        return None
    return declarations.Concurrency(
        key=found.expression("key"), limit=found.whole("limit"), strategy=found.text("strategy")
    )


def rate(table: Table) -> declarations.Rate | None:
    """How often something begins."""
    found = _part(table, "rate", ("key", "count", "per"), required=("count", "per"))
    if found is None:
        return None
    per = found.span("per")
    assert per is not None
    return declarations.Rate(key=found.expression("key"), count=found.whole("count"), per=per)


def placement(table: Table) -> declarations.Placement | None:
    """Which agents."""
    found = _part(table, "placement", ("required", "preferred", "sticky"))
    if found is None:
        return None
    return declarations.Placement(
        required=found.words("required"),
        preferred=found.words("preferred"),
        sticky=found.flag("sticky"),
    )


def events(table: Table) -> list[declarations.EventTrigger]:
    """Events that start a run."""
    found = []
    for value, path in table.items("events"):
        event = _named(value, path, ("name", "when", "bind"))
        found.append(
            declarations.EventTrigger(
                name=event.text("name"), when=event.expression("when"), bind=event.words("bind")
            )
        )
    return found


def schemas(table: Table) -> dict[str, declarations.Schemas]:
    """JSON Schemas by kind."""
    found = {}
    for kind, value, path in table.pairs("schemas"):
        pair = Table(value, path, ("input", "output"))
        found[kind] = declarations.Schemas(input=pair.value("input"), output=pair.value("output"))
    return found


def wait(table: Table) -> declarations.Wait | None:
    """What a task waits for, if it does; of two such keys the second is refused."""
    there = [key for key in WAITS if key in table]
    if not there:
        return None
    for key in ("kind", *there[1:]):
        if key in table:
            reason = f"cannot stand beside {there[0]}"
            raise DefinitionError((*table.path, key), reason)
    [key, *_] = there
    value, path = table.value(key), (*table.path, key)
    match key:
        case "timer":
            return _timer(value, path)
        case "signal":
            found = _named(value, path, ("name", "timeout"))
            return declarations.Signal(name=found.text("name"), timeout=found.span("timeout"))
        case "event":
            found = _named(value, path, ("name", "key", "timeout"))
            return declarations.Event(
                name=found.text("name"), key=found.expression("key"), timeout=found.span("timeout")
            )
        case "approval":
            return _approval(value, path)
        case _:
            found = _named(value, path, _SUB_WORKFLOW_KEYS)
            return declarations.SubWorkflow(
                name=found.text("name"),
                version=found.whole("version"),
                until=found.expression("until"),
                repetitions_max=found.whole("repetitions_max"),
            )


def _timer(value: Any, path: Path) -> declarations.Timer:
    if is_span(value):
        return declarations.Timer(delay=value)
    found = Table(value, path, ("delay", "until"))
    return declarations.Timer(delay=found.span("delay"), until=found.expression("until"))


def _approval(value: Any, path: Path) -> declarations.Approval:
    if isinstance(value, str):
        return declarations.Approval(question=value)
    found = Table(value, path, _APPROVAL_KEYS)
    return declarations.Approval(
        question=found.text("question"),
        quorum=found.whole("quorum"),
        approvers=found.texts("approvers"),
        timeout=found.span("timeout"),
        escalate_after=found.span("escalate_after"),
        escalate_to=found.texts("escalate_to"),
    )


def _named(value: Any, path: Path, keys: tuple[str, ...]) -> Table:
    """A table with a name, or the name alone."""
    if isinstance(value, str):
        value = {"name": value}
    return Table(value, path, keys, required=("name",))


def _part(
    table: Table, key: str, keys: tuple[str, ...], *, required: tuple[str, ...] = ()
) -> Table | None:
    value = table.value(key)
    return None if value is ABSENT else Table(value, (*table.path, key), keys, required=required)
