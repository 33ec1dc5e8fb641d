"""Logging of the agent: structlog for our own lines, and everybody else's through the same pipe.

Lines go to stderr, since stdout belongs to handlers. What a handler logs, with structlog or with
the standard library, carries the fields of its attempt by itself.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from tenure_agent import context

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "console")


def configure(*, log_format: str, level: str, stream: SupportsWrite[str] | None = None) -> None:
    """Sets up logging for the process: `json` or `console`, from a level on, to stderr."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_attempt,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor]
    if log_format == "json":
        final = [structlog.processors.format_exc_info, _render_json]
    else:
        # The plain traceback, since the rich ones show local variables: lease tokens, inputs.
        final = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def _add_attempt(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names the attempt for which a handler writes a line."""
    ctx = context.CURRENT.get()
    if ctx is not None:
        for name, value in ctx.log_fields().items():
            event.setdefault(name, value)
    return event


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """One line of JSON; what JSON does not know is put down as Python shows it."""
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # A text that is not valid Unicode, or a number too large: show everything as text.
        return orjson.dumps({str(key): ascii(value) for key, value in event.items()}).decode()
