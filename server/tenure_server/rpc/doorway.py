"""Leads every RPC, of all four shapes, through the gates, and answers what is refused.

The doorway takes requests as bytes, so that the caller is known before anything of a message is
parsed, and bytes that do not parse are refused like any other bad input. Whatever is raised that is
no refusal is a fault: it is logged whole, and the caller hears only the correlation id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from tenure_evidence.canonical import digest_text
from tenure_server.core import errors
from tenure_server.core.evidence import Act
from tenure_server.rpc import access, sizes, status
from tenure_server.rpc.calls import Call, Desk
from tenure_server.rpc.gates import CORRELATION_HEADER, Chain
from tenure_server.rpc.turns import Turns
from tenure_server.store.errors import StoreFailed

#: How often a stream's key is looked at between messages: the net under `Streams.end`.
STREAM_CHECK_SECONDS = 1.0
#: How long a refusal waits for its evidence: a caller is not to hang with a store that does.
REFUSAL_SECONDS = 3.0

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger()


class Streams:
    """The open streams, by the key they were opened with: a revoked key ends its own at once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        #: Streams that need no key stand under the empty one.
        self._by_key: dict[str, dict[Call, asyncio.Task[Any]]] = {}

    @contextlib.asynccontextmanager
    async def watched(self, call: Call) -> AsyncIterator[None]:
        """Ends the present task with CredentialInvalid once the call's key is no longer valid."""
        task = asyncio.current_task()
        assert task is not None
        api_key_id = call.key.api_key_id if call.key is not None else ""
        calls = self._by_key.setdefault(api_key_id, {})
        calls[call] = task
        timer = _Timer(lambda: self._look(api_key_id))
        try:
            yield
        finally:
            timer.cancel()
            del calls[call]
            if not calls:
                self._by_key.pop(api_key_id, None)

    def end(self, api_key_id: str) -> None:
        """Ends the streams of a key that is no longer valid."""
        for call, task in list(self._by_key.get(api_key_id, {}).items()):
            call.ended = errors.CredentialInvalid("the API key is unknown, expired or revoked")
            task.cancel()

    def end_all(self) -> None:
        """Ends every stream because the coordinator stops."""
        for calls in list(self._by_key.values()):
            for call, task in list(calls.items()):
                call.ended = errors.Stopping("the coordinator is stopping")
                task.cancel()

    def _look(self, api_key_id: str) -> None:
        if api_key_id and not self._desk.still_valid(api_key_id):
            self.end(api_key_id)


class _Timer:
    """Calls back at every `STREAM_CHECK_SECONDS` until it is cancelled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(STREAM_CHECK_SECONDS, self._fire)

    def _fire(self) -> None:
        self._handle = self._loop.call_later(STREAM_CHECK_SECONDS, self._fire)
        self._callback()

    def cancel(self) -> None:
        """Calls back no more."""
        self._handle.cancel()


class Doorway(grpc.GenericRpcHandler):
    """The one handler that gRPC knows of, before all others. `open` it before the server starts.

    The code that is generated takes it for the server, and gives it the handlers. No method is
    registered: gRPC waits for each that is by itself, and anew for all of them with every call that
    comes, so that what a call costs would grow with the contract.
    """

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._passages: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._turns = Turns()
        self._chain: Chain | None = None
        self._streams: Streams | None = None

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Takes the handlers of a service."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Takes nothing: they were given as generic ones already."""

    def open(self, chain: Chain, streams: Streams) -> None:
        """Says which gates to pass. Until then every call is refused."""
        self._chain = chain
        self._streams = streams

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Gives the handler of a method with the gates before it."""
        method = handler_call_details.method
        passage = self._passages.get(method)
        if passage is not None:
            return passage
        if self._chain is None or self._streams is None:
            return _refuse_all(errors.Stopping("the coordinator is not open yet"))
        found = (one.service(handler_call_details) for one in self._handlers)
        handler: Any = next((one for one in found if one is not None), None)
        if handler is None:
            return _refuse_all(status.MethodUnknown(f"no such method: {method}"))
        rule = self._chain.rules.get(method)
        if rule is None:
            log.error("a served method has no access rule", method=method)
            return _refuse_all(status.Internal("no access rule"))
        passage = _Passage(self._chain, self._streams, self._turns, rule, handler).wrapped()
        self._passages[method] = passage
        return passage


class _Passage:
    """The way of one method: gates, handler, answer."""

    def __init__(
        self,
        chain: Chain,
        streams: Streams,
        turns: Turns,
        rule: access.AccessRule,
        handler: Any,
    ) -> None:
        self._chain = chain
        self._streams = streams
        self._turns = turns
        self._rule = rule
        self._handler = handler
        self._parse: Callable[[bytes], Message] = handler.request_deserializer

    def wrapped(self) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of the same shape that takes bytes."""
        handler = self._handler
        serialise = handler.response_serializer
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(
                    self._unary_unary, response_serializer=serialise
                )
            case False, True:
                return grpc.unary_stream_rpc_method_handler(
                    self._unary_stream, response_serializer=serialise
                )
            case True, False:
                return grpc.stream_unary_rpc_method_handler(
                    self._stream_unary, response_serializer=serialise
                )
            case _:
                return grpc.stream_stream_rpc_method_handler(
                    self._stream_stream, response_serializer=serialise
                )

    async def _unary_unary(self, raw: bytes, context: Context) -> Any:
        async def serve(call: Call) -> Any:
            answer = await self._handler.unary_unary(await self._admit(call, raw), context)
            await self._record(call)
            return answer

        async def act(call: Call) -> Any:
            # Agents may wait long for work, and keep nobody else from theirs.
            if call.key is None or self._rule.all_tenants:
                return await serve(call)
            async with self._turns.turn(_line_of(call), len(raw)):
                self._chain.check_open(call)
                return await serve(call)

        return await self._conduct(context, act)

    async def _unary_stream(self, raw: bytes, context: Context) -> None:
        async def act(call: Call) -> None:
            with self._turns.stream(_line_of(call)):
                await pour(call)

        async def pour(call: Call) -> None:
            request = await self._admit(call, raw)
            async with self._streams.watched(call):
                await self._pour(call, self._handler.unary_stream(request, context), context)

        await self._conduct(context, act)

    async def _stream_unary(self, frames: AsyncIterator[bytes], context: Context) -> Any:
        async def act(call: Call) -> Any:
            call.inbound_stream = True
            async with self._streams.watched(call):
                answer = await self._handler.stream_unary(self._inbound(call, frames), context)
                await self._record(call)
                return answer

        return await self._conduct(context, act)

    async def _stream_stream(self, frames: AsyncIterator[bytes], context: Context) -> None:
        async def act(call: Call) -> None:
            call.inbound_stream = True
            with self._turns.stream(_line_of(call)):
                await converse(call)

        async def converse(call: Call) -> None:
            async with self._streams.watched(call):
                responses = self._handler.stream_stream(self._inbound(call, frames), context)
                await self._pour(call, responses, context)

        await self._conduct(context, act)

    async def _conduct(self, context: Context, act: Callable[[Call], Awaitable[T]]) -> T:
        """Leads a call through the gates to its handler, and answers whatever is refused."""
        begin_us = self._chain.desk.now_us()
        doing = Act(
            kind=self._rule.evidence,
            method=self._rule.method,
            principal="",
            begin_us=begin_us,
        )
        call = Call(self._rule, context.invocation_metadata() or (), doing)
        try:
            await self._chain.enter(call)
            if call.key is not None:
                access.remember_caller(call.caller())
            await self._echo(context, call)
            return await act(call)
        except errors.Refusal as error:
            refusal: errors.Refusal = error
        except asyncio.CancelledError:
            # Either the client went away, or the stream was ended from our side.
            if call.ended is None:
                raise
            refusal = call.ended
            _take_back_cancellation()
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except grpc.aio.InternalError as error:
            # The line is broken, so nobody is there to be told anything.
            log.info("the caller left in the middle of an answer")
            raise asyncio.CancelledError from error
        except StoreFailed as error:
            log.error("the store could not be read", error=str(error))
            refusal = errors.StoreUnavailable("the store cannot be read now; nothing was changed")
        except Exception:
            log.exception("a call failed")
            refusal = status.Internal(call.correlation_id)
            if self._chain.closing:
                # What it needed was taken down already; the next coordinator has it.
                refusal = errors.Stopping("the coordinator is stopping")
        await self._record_refusal(call, refusal)
        log.info("call refused", reason=status.reason_name(refusal), detail=refusal.message)
        raise await _refuse(context, refusal, call.correlation_id)

    async def _echo(self, context: Context, call: Call) -> None:
        """Tells the caller the correlation id: a stream at its start, a single answer with it."""
        echo = ((CORRELATION_HEADER, call.correlation_id),)
        if self._handler.response_streaming:
            await context.send_initial_metadata(echo)
        else:
            # Trailing metadata travels with the answer; sent at first it costs a write of its own.
            context.set_trailing_metadata(echo)

    async def _admit(self, call: Call, raw: bytes) -> Message:
        tenant_ids = call.tenant_ids
        if call.inbound_stream:
            call.act.begin_us = self._chain.desk.now_us()
        if len(raw) > sizes.LARGE_BYTES:
            message, call.act.request = await asyncio.to_thread(self._parsed_large, raw)
            await self._chain.admit_large(call, message)
        else:
            call.act.request = digest_text(raw)
            message = self._parsed(raw)
            self._chain.admit(call, message)
        if call.tenant_ids != tenant_ids:
            # A gate keeps the call from some of its tenants.
            access.remember_caller(call.caller())
        return message

    def _parsed(self, raw: bytes) -> Message:
        try:
            return self._parse(raw)
        except DecodeError:
            raise errors.FieldsInvalid([("request", "does not parse")]) from None

    def _parsed_large(self, raw: bytes) -> tuple[Message, str]:
        digest = digest_text(raw)
        message = self._parsed(raw)
        sizes.check(message)
        return message, digest

    async def _pour(self, call: Call, responses: Any, context: Context) -> None:
        """Sends what a handler yields, once it is written down that it was asked for.

        Some handlers write to the context themselves instead.
        """
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                if not call.act.taken:
                    await self._record(call)
                await context.write(response)
        await self._record(call)

    async def _record(self, call: Call) -> None:
        """Writes down a call that was let in and is not part of a transaction already."""
        if self._rule.recorded and call.recorded and not call.act.taken:
            desk = self._chain.desk
            await desk.record(call.act, call.logs(desk))

    async def _record_refusal(self, call: Call, refusal: errors.Refusal) -> None:
        """Writes down a refusal, and tells the caller under which decision.

        Not what says UNAVAILABLE: there nothing was decided, and nothing can be written either.
        """
        if not self._rule.recorded or not call.recorded or not status.is_decision(refusal):
            return
        desk = self._chain.desk
        act = call.act.again(objected=True) if call.act.taken else call.act
        act.refusal = status.reason_name(refusal)
        try:
            async with asyncio.timeout(REFUSAL_SECONDS):
                decision = await desk.record(act, call.logs(desk))
        except errors.Quarantined:
            log.debug("a refusal was not written down: its log is broken")
        except (errors.Refusal, TimeoutError) as error:
            # It is refused all the same.
            log.warning("a refusal could not be written down", reason=str(error) or "it took long")
        except Exception:
            log.exception("a refusal could not be written down")
        else:
            refusal.facts["decision"] = decision

    async def _inbound(self, call: Call, frames: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in frames:
            yield await self._admit(call, raw)


def _line_of(call: Call) -> str:
    """Where a call stands in line: with its tenant, or with its key where it chose none."""
    return call.tenant_id or (call.key.api_key_id if call.key is not None else "")


def _take_back_cancellation() -> None:
    """The cancellation was ours and is answered: awaits below must not be hit by it again."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def _refuse(context: Context, refusal: errors.Refusal, correlation_id: str) -> AssertionError:
    """Answers a refusal. Does not return: the abort of gRPC raises."""
    answer = status.answer(refusal)
    echo = ((CORRELATION_HEADER, correlation_id),) if correlation_id else ()
    await context.abort(answer.code, answer.message, (*answer.trailing_metadata, *echo))
    return AssertionError("the abort of gRPC did not raise")


def _refuse_all(refusal: errors.Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler for any shape of call that reads nothing and refuses."""

    async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
        await _refuse(context, refusal, "")

    return grpc.stream_stream_rpc_method_handler(refuse)
