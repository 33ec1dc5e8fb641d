"""Logging of the agent: structlog for our own lines, and everybody else's through the same pipe.

Lines go to stderr, since stdout belongs to handlers. What a handler logs, with structlog or with
the standard library, carries the fields of its attempt by itself.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TYPE_CHECKING, TextIO

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from tenure_agent import context
from tenure_evidence.shown import clean, one_line

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
        final = [
            _harmless,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=_plain_traceback,
            ),
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


def _harmless(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Shows what a terminal would obey, and what would begin a line of its own."""
    return {
        key: one_line(value) if isinstance(value, str) and key != "stack" else value
        for key, value in event.items()
    }


def _plain_traceback(out: TextIO, raised: ExcInfo) -> None:
    """Without the values of the frames, lease tokens and inputs among them."""
    written = io.StringIO()
    structlog.dev.plain_traceback(written, raised)
    out.write(clean(written.getvalue()))


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """One line of JSON; what JSON does not know is put down as Python shows it.

    It is one line to every reader, also to those who take U+0085 or U+2028 for an end.
    """
    try:
        text = orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
        return text if text.isprintable() else json.dumps(orjson.loads(text))
    except TypeError:
        # A text that is not valid Unicode, or a number too large: show everything as text.
        return orjson.dumps({str(key): ascii(value) for key, value in event.items()}).decode()
