"""Finds the functions of handlers, and calls them. Shared by the agent and its workers."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2
from tenure_agent import context, payloads
from tenure_agent.context import NonRetryable, TaskContext, Words

CODE_CHARS_MAX = 128
FAILURE_CHARS_MAX = 4000

#: How a handler ended: its output, or what it raised.
Ending = payload_pb2.Payload | BaseException | None
#: A handler, plain or async.
Function = Callable[[TaskContext, Any], Any]


class FunctionError(Exception):
    """The name of a function does not lead to one that can be a handler."""


def find(name: str, folder: Path) -> Function:
    """Imports `module:function`; the folder is put on `sys.path`.

    Raises FunctionError when the module cannot be imported, or the function is not there or takes
    other arguments.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise FunctionError(f"no module {error.name!r} on {folder}") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise FunctionError(f"the module cannot be imported: {reason}") from error
    target: object = module
    for part in path.split("."):
        if not hasattr(target, part):
            raise FunctionError(f"module {module_name!r} has no {path!r}")
        target = getattr(target, part)
    if not callable(target):
        raise FunctionError("is not a function")
    try:
        inspect.signature(target).bind(None, None)
    except TypeError as error:
        raise FunctionError(f"must take (context, input): {error}") from error
    return target


def is_async(function: Function) -> bool:
    """Tells whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


async def call_async(
    function: Function, lease: agents_pb2.Lease, run: agents_pb2.RunContext, words: Words
) -> Ending:
    """Calls an async handler. Never raises: what it raises is an ending."""
    try:
        ctx = TaskContext(lease, run, words)
        context.CURRENT.set(ctx)
        ctx.raise_if_cancelled()
        return _output(await function(ctx, _input(ctx)), words)
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything, SystemExit too
        return error


def call_plain(
    function: Function, lease: agents_pb2.Lease, run: agents_pb2.RunContext, words: Words
) -> Ending:
    """Calls a plain handler. Never raises: what it raises is an ending."""
    try:
        ctx = TaskContext(lease, run, words)
        context.CURRENT.set(ctx)
        ctx.raise_if_cancelled()
        return _output(function(ctx, _input(ctx)), words)
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything, SystemExit too
        return error


def failure(error: BaseException) -> runs_pb2.Failure:
    """Says what a handler raised, in words that the contract takes."""
    match error:
        case NonRetryable():
            return failure_in(error.code, error.message, non_retryable=True)
        case _:
            return failure_in(type(error).__name__, _words_of(error), non_retryable=False)


def failure_in(code: object, message: object, *, non_retryable: bool) -> runs_pb2.Failure:
    """A failure with texts as long as the contract takes."""
    return runs_pb2.Failure(
        code=context.text(code, CODE_CHARS_MAX),
        message=context.text(message, FAILURE_CHARS_MAX),
        non_retryable=non_retryable,
    )


def _input(ctx: TaskContext) -> Any:
    try:
        return ctx.input
    except payloads.PayloadError as error:
        raise NonRetryable("INPUT_INVALID", str(error)) from error


def _output(value: Any, words: Words) -> payload_pb2.Payload | None:
    """Encodes what a handler returned; None means no output."""
    if value is None:
        return None
    try:
        return payloads.encode(value, words.output_bytes_max)
    except payloads.PayloadError as error:
        if asyncio.iscoroutine(value):
            value.close()
        raise NonRetryable("OUTPUT_INVALID", f"output: {error}") from error


def _words_of(error: BaseException) -> str:
    """An exception's own words, or its representation; some exceptions cannot even do that."""
    try:
        return str(error) or repr(error)
    except Exception:  # noqa: BLE001 - the handler's own __str__ may raise anything
        return "an exception that cannot be printed"
