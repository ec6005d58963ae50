"""What happens around every RPC of every service: log line, errors as status, identity, access."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
import traceback
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Self, TypeAlias, cast

import grpc
import structlog

from loupe import errors, telemetry
from loupe.audit import Recorder, begin_call, current_call
from loupe.byte_budget import ByteBudget, Hold, read_message
from loupe.common.v1 import access_pb2
from loupe.concurrency import interrupt, interruptible
from loupe.errors import LoupeError
from loupe.identity import Caller, set_caller
from loupe.limits import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES
from loupe.rpc.audited import describe_call
from loupe.rpc.decoding import decoded
from loupe.rpc.gate import Context, Gate
from loupe.rpc.status import DETAILS_KEY, to_status
from loupe.rpc.strangers import Strangers, short

log = structlog.get_logger("loupe.rpc")

# Health and reflection tell nothing that is not public.
EXEMPT = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Serves a call: identify the caller, decide access, run the handler, turn errors into status.

    strangers: given at a public door. There a caller is recognised by the token before a byte of a message is read,
    and the messages of calls that need none are read at these places only. At an internal door the certificate was
    checked when the connection was made.

    budget: where it is given, the first message of a call is read only when there is room for the longest one. What a
    client stream brings after that is read by its handler.

    recorder: where it is given, calls whose row of the access table says so leave a row in the audit log.
    """

    def __init__(
        self,
        table: Mapping[str, access_pb2.Access],
        gate: Gate,
        strangers: Strangers | None = None,
        budget: ByteBudget | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._table = table
        self._gate = gate
        self._strangers = strangers
        self._budget = budget
        self._recorder = recorder
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap a method's handler once and keep it; refuse at a public door who is not recognised."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._wrap(method, handler)
        if self._strangers is not None and not method.startswith(EXEMPT):
            try:
                await self._gate.recognise(self._table.get(method), handler_call_details.invocation_metadata)
            except LoupeError as error:
                return self._refusal(method, error)
        return self._handlers[method]

    def _refusal(self, method: str, error: LoupeError) -> Handler:
        """Answer a call without reading what it sends."""

        async def refuse(_requests: object, context: Context) -> None:
            async with self._call(method, context):
                raise error

        refusal: Handler = grpc.stream_unary_rpc_method_handler(refuse)
        return refusal

    def _wrap(self, method: str, handler: Any) -> Handler:
        rule, strangers = self._table.get(method), self._strangers
        if method.startswith(EXEMPT):
            if strangers is None:
                return cast(Handler, handler)
            rule = access_pb2.Access(public=True)
        if rule is None or not rule.public:
            strangers = None
        deserializer = decoded(handler.request_deserializer)
        if strangers is not None:
            deserializer = short(deserializer)
        budget = self._budget if rule is not None and not method.startswith(EXEMPT) else None
        behaviour = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary

        async def admit(request: Any, context: Context) -> Permit:
            if rule is None:
                raise errors.PermissionDenied("this call has no row in the access table and is refused to everybody")
            permit = Permit(self._gate, rule, await self._gate.identify(rule, context))
            if budget is not None:
                request = _Messages(context)
            if strangers is not None:
                request = strangers.each(aiter(request), context.peer())
            first, permit.hold = await _first(request, budget, permit.caller)
            try:
                if permit.hold is not None:
                    _require_short(handler, permit.hold.size)
                await self._ask(permit, method, rule, first, context)
            except BaseException:
                permit.forget()
                raise
            set_caller(permit.caller)
            permit.rest = request if handler.request_streaming else None
            return permit

        async def serve_stream(request: Any, context: Context) -> None:
            # It writes by itself: were gRPC to do that, a call that ends while its reader stalls could not say why.
            async with self._call(method, context):
                permit = await admit(request, context)
                permit.release()
                async with permit.held():
                    if not inspect.isasyncgenfunction(behaviour):  # gRPC's own health service writes by itself
                        await behaviour(permit.request(), context)
                        return
                    await _send(behaviour(permit.request(), context), context)

        async def serve(request: Any, context: Context) -> Any:
            async with self._call(method, context):
                permit = await admit(request, context)
                if not handler.request_streaming:
                    try:
                        return await behaviour(permit.request(), context)
                    finally:
                        permit.forget()
                permit.release()
                async with permit.held():
                    return await behaviour(permit.request(), context)

        # A unary call and a stream of one message are the same on the wire, but of a stream nothing is read unasked,
        # and what cannot be decoded is told by `admit`.
        answer = "stream" if handler.response_streaming else "unary"
        made: Handler = getattr(grpc, f"stream_{answer}_rpc_method_handler")(
            serve_stream if handler.response_streaming else serve,
            request_deserializer=deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    @contextlib.asynccontextmanager
    async def _call(self, method: str, context: Context) -> AsyncIterator[None]:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        serving = asyncio.current_task()
        assert serving is not None
        try:
            with interruptible():
                yield
        except LoupeError as error:
            # gRPC keeps the error that ends a call with every frame that it came through; these let go of messages.
            traceback.clear_frames(error.__traceback__)
            code, status = to_status(error)
            await self._record_failure(error)
            details = ((DETAILS_KEY, status.SerializeToString()),)
            await context.abort(code, error.message, trailing_metadata=details)
        except _PeerGoneError as error:
            code = grpc.StatusCode.CANCELLED
            raise cast(BaseException, error.__cause__) from None
        except grpc.aio.AbortError:
            code = grpc.StatusCode.UNKNOWN  # told by the handler itself; ours never do
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and serving.cancelling():
                code = grpc.StatusCode.CANCELLED
                raise
            # Of a call that ends as cancelled, and that nobody cancelled, gRPC would tell its caller nothing, for ever.
            incident = uuid.uuid4().hex
            log.exception("unexpected error", method=method, incident=incident)
            told = errors.Internal("something went wrong inside; the log has it under this incident", incident=incident)
            code, status = to_status(told)
            await self._record_failure(told)
            await context.abort(code, status.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),))
        finally:
            if (call := current_call()) is not None:
                call.over = True
            seconds = time.perf_counter() - started
            telemetry.count_call(method, code.name, seconds)
            log.debug("call", method=method, code=code.name, milliseconds=round(seconds * 1e3, 2))

    async def _ask(self, permit: Permit, method: str, rule: access_pb2.Access, first: Any, context: Context) -> None:
        """Begin a call that leaves a row, so that a refusal leaves one, too, and ask whether it may be made."""
        if rule.audit and self._recorder is not None:
            begin_call(describe_call(method, rule, permit.caller, first, context))
        await permit.ask_for(first)

    async def _record_failure(self, error: LoupeError) -> None:
        """Tell the audit log how the call ended, before its caller hears of it."""
        if self._recorder is not None and (call := current_call()) is not None:
            await self._recorder.failed(call, error.reason_name())


class _PeerGoneError(Exception):
    """The other side of a call does not listen any more; the cause is what gRPC says."""


async def _send(responses: AsyncGenerator[Any, None], context: Context) -> None:
    begun = False
    async with contextlib.aclosing(responses):
        async for response in responses:
            try:
                if not begun:
                    await _begin(context)
                    begun = True
                await context.write(response)
            except grpc.aio.InternalError as error:
                raise _PeerGoneError from error


async def _begin(context: Context) -> None:
    """Send the initial metadata to its end, also when the call is interrupted.

    A status that gRPC is given in the middle of that is refused by it, and the caller would not hear why.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending])
        raise


class _Messages:
    """The messages of a call as they are read; unlike gRPC's own iterator it keeps none until the next one has come."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


async def _first(messages: AsyncIterator[Any], budget: ByteBudget | None, caller: Caller) -> tuple[Any, Hold | None]:
    try:
        if budget is None:
            return await anext(aiter(messages)), None
        return await read_message(aiter(messages), budget, (str(caller.account or caller.service),), MAX_MESSAGE_BYTES)
    except StopAsyncIteration:
        raise errors.UploadIncomplete("the stream ended before its first message", committed=0) from None


def _require_short(handler: Any, size: int) -> None:
    """Refuse a long first message that would be kept for as long as a stream goes on."""
    longest = MAX_HEADER_BYTES if handler.request_streaming else MAX_SMALL_MESSAGE_BYTES
    if size > longest and (handler.request_streaming or handler.response_streaming):
        raise errors.ResourceExhausted(
            f"the first message has {size} bytes; at most {longest} are taken", limit="message_bytes"
        )


class Permit:
    """What a call was let in by: its first message, held against every change of the policy while the call goes on."""

    def __init__(self, gate: Gate, rule: access_pb2.Access, caller: Caller) -> None:
        self.caller = caller
        self.first: Any = None
        self.rest: AsyncIterator[Any] | None = None
        self.hold: Hold | None = None
        self._gate = gate
        self._rule = rule
        self._changed = gate.authorizer.changed()

    async def ask_for(self, first: Any) -> None:
        """Raise unless the caller may make the call that begins with this message."""
        self.first = first
        await self._ask()

    def release(self) -> None:
        """Give back the room of the first message."""
        if self.hold is not None:
            self.hold.release()

    def forget(self) -> None:
        """Give back the room of the first message, and the message."""
        self.first = None
        self.release()

    def request(self) -> Any:
        """Return what the handler takes: the message, or the stream of them."""
        return self.first if self.rest is None else self.messages(self.rest)

    async def _ask(self) -> None:
        # Taken before the question: a change while the answer is on its way asks once more.
        self._changed = self._gate.authorizer.changed()
        parameter = await self._gate.admit(self._rule, self.caller, self.first)
        self.caller = replace(self.caller, parameter=parameter)

    async def confirm(self) -> None:
        """Raise when a change has taken the right away."""
        while self._changed.is_set():
            await self._ask()

    async def messages(self, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the stream from its first message on; none after the right has gone."""
        yield self.first
        async for message in rest:
            await self.confirm()
            box = [message]
            del message  # or it stayed in memory until the next one has come
            yield box.pop()
        await self.confirm()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """End the block with the refusal as soon as the caller loses the right."""
        if self.caller.account is None:
            yield
            return
        serving = asyncio.current_task()
        assert serving is not None

        async def watch() -> None:
            while True:
                await self._changed.wait()
                try:
                    await self.confirm()
                except LoupeError as error:
                    interrupt(serving, error)
                    return

        watcher = asyncio.create_task(watch(), name="access-watch")
        try:
            with interruptible():
                yield
        finally:
            watcher.cancel()
