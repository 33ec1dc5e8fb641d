"""Logs: one event a line, as JSON for machines or in colour for people, always on standard error.

Whatever is bound to the context of a task (correlation id, tenant, run, …) is in all of its lines.
What libraries write through `logging` takes the same road.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from tenure_evidence.shown import clean, one_line

LEVELS = ("debug", "info", "warning", "error")
# grpc warns of every connection that breaks; those are everyday life to a coordinator.
_LIBRARY_LEVELS = {"grpc": logging.ERROR, "asyncio": logging.WARNING, "peewee": logging.WARNING}


def configure(
    log_format: Literal["json", "console"], level: str, stream: TextIO | None = None
) -> None:
    """Sets up logging for the whole process. Call it once, before the first line."""
    out = _Enduring(sys.stderr if stream is None else stream)
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers: list[Processor]
    if log_format == "json":
        renderers = [
            # Without the frames' locals: keys, tokens and payloads are among them.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        renderers = [
            _harmless,
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=_plain_traceback
            ),
        ]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # One write a line; printing takes two.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    _route_libraries(out, number, shared, renderers)


class _Enduring:
    """A stream that loses lines when nobody can take them: a full disk or a reader that went.

    Lines are written between a commit and its answer; a fault there must not keep the answer back.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether people read it."""
        return self._stream.isatty()


def _route_libraries(
    out: _Enduring, number: int, shared: list[Processor], renderers: list[Processor]
) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, library_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(number, library_level))


def _json(event: EventDict, **_: Any) -> str:
    """One line to every reader: some take U+0085 or U+2028 for an end, and callers choose names."""
    text = orjson.dumps(event, default=str).decode()
    return text if text.isprintable() else json.dumps(orjson.loads(text))


def _harmless(_logger: Any, _name: str, event: EventDict) -> EventDict:
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
