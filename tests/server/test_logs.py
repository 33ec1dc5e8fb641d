"""Logs: one JSON object a line, with everything that is bound, from us and from libraries."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import structlog

from tenure_agent import logs as agent_logs
from tenure_server import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's: it is put back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_is_bound_is_in_every_line() -> None:
    """Of ours and of what libraries write."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    structlog.contextvars.bind_contextvars(correlation_id="c", tenant="acme", run_id="r")
    structlog.get_logger().info("task settled", attempt=2)
    logging.getLogger("somebody.else").warning("it is %s", "late")
    ours, theirs = _lines(stream)
    for line in (ours, theirs):
        assert (line["correlation_id"], line["tenant"], line["run_id"]) == ("c", "acme", "r")
        assert line["timestamp"].endswith("Z")
    assert (ours["event"], ours["level"], ours["attempt"]) == ("task settled", "info", 2)
    assert (theirs["event"], theirs["level"]) == ("it is late", "warning")


def test_what_lies_below_the_level_is_not_written() -> None:
    """From us or from libraries."""
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    structlog.get_logger().info("chatter")
    logging.getLogger("somebody.else").info("chatter")
    assert stream.getvalue() == ""


def test_a_fault_is_written_with_its_traceback_and_without_its_values() -> None:
    """Locals of a frame can be secrets."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    secret = "tnr_" + "s" * 43
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger().exception("a call failed")
    [line] = _lines(stream)
    assert "broken" in json.dumps(line)
    assert "test_logs.py" in json.dumps(line)
    assert secret not in stream.getvalue()


def test_people_read_plain_lines() -> None:
    """No colours where nobody sees them, and no values of frames either."""
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    secret = "tnr_" + "s" * 43
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger().exception("a call failed", attempt=1)
    text = stream.getvalue()
    assert "a call failed" in text
    assert "attempt=1" in text
    assert "RuntimeError: broken" in text
    assert "\x1b[" not in text
    assert secret not in text


FORGED = 'x\u0085{"event":"all is well"}\u2028y\x9b31mz\x1b[31m\u202e'


@pytest.mark.parametrize("module", [logs, agent_logs])
def test_text_of_a_caller_begins_no_line_and_steers_no_terminal(module: ModuleType) -> None:
    """Whatever a reader takes for the end of a line; what was said can still be read."""
    stream = io.StringIO()
    module.configure(log_format="json", level="info", stream=stream)
    structlog.get_logger().info("no such schedule", name=FORGED)
    logging.getLogger("somebody.else").warning("no such %s", FORGED)
    ours, theirs = _lines(stream)
    assert ours["name"] == FORGED
    assert theirs["event"] == f"no such {FORGED}"

    stream = io.StringIO()
    module.configure(log_format="console", level="info", stream=stream)
    structlog.get_logger().info("no such schedule", name=FORGED)
    logging.getLogger("somebody.else").warning("no such %s", FORGED)
    lines = stream.getvalue().splitlines()
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        structlog.get_logger().exception("it broke")
    assert FORGED.encode("unicode_escape").decode() in stream.getvalue()
    assert len(lines) == 2
    assert all(line.isprintable() and "all is well" in line for line in lines)
