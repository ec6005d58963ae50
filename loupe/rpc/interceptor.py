"""What happens around every RPC of every service: log line, errors as status, identity, access."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

import grpc
import structlog

from loupe import errors, telemetry
from loupe.common.v1 import access_pb2
from loupe.errors import LoupeError
from loupe.identity import Caller, set_caller
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
    """

    def __init__(self, table: Mapping[str, access_pb2.Access], gate: Gate, strangers: Strangers | None = None) -> None:
        self._table = table
        self._gate = gate
        self._strangers = strangers
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
        deserializer = handler.request_deserializer if strangers is None else short(handler.request_deserializer)
        # A unary call and a stream of one message are the same on the wire, but of a stream nothing is read unasked.
        streaming = handler.request_streaming or strangers is not None
        behaviour = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary

        async def admit(request: Any, context: Context) -> tuple[Any, Permit]:
            if rule is None:
                raise errors.PermissionDenied("this call has no row in the access table and is refused to everybody")
            permit = Permit(self._gate, rule, await self._gate.identify(rule, context))
            if strangers is not None:
                request = strangers.each(aiter(request), context.peer())
            await permit.ask_for(await _first(request) if streaming else request)
            set_caller(permit.caller)
            return permit.messages(request) if handler.request_streaming else permit.first, permit

        async def serve_stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._call(method, context):
                request, permit = await admit(request, context)
                async with permit.held():
                    if not inspect.isasyncgenfunction(behaviour):  # gRPC's own health service writes by itself
                        await behaviour(request, context)
                        return
                    async for response in behaviour(request, context):
                        yield response

        async def serve(request: Any, context: Context) -> Any:
            async with self._call(method, context):
                request, permit = await admit(request, context)
                if not handler.request_streaming:
                    return await behaviour(request, context)
                async with permit.held():
                    return await behaviour(request, context)

        kind = f"{'stream' if streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        made: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
            serve_stream if handler.response_streaming else serve,
            request_deserializer=deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    @contextlib.asynccontextmanager
    async def _call(self, method: str, context: Context) -> AsyncIterator[None]:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            yield
        except LoupeError as error:
            code, status = to_status(error)
            details = ((DETAILS_KEY, status.SerializeToString()),)
            await context.abort(code, error.message, trailing_metadata=details)
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = grpc.StatusCode.UNKNOWN  # told by the handler itself; ours never do
            raise
        except Exception:
            incident = uuid.uuid4().hex
            log.exception("unexpected error", method=method, incident=incident)
            code, status = to_status(
                errors.Internal("something went wrong inside; the log has it under this incident", incident=incident)
            )
            await context.abort(code, status.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),))
        finally:
            seconds = time.perf_counter() - started
            telemetry.count_call(method, code.name, seconds)
            log.debug("call", method=method, code=code.name, milliseconds=round(seconds * 1e3, 2))


async def _first(messages: AsyncIterator[Any]) -> Any:
    try:
        return await anext(aiter(messages))
    except StopAsyncIteration:
        raise errors.UploadIncomplete("the stream ended before its first message", committed=0) from None


class Permit:
    """What a call was let in by: its first message, held against every change of the policy while the call goes on."""

    def __init__(self, gate: Gate, rule: access_pb2.Access, caller: Caller) -> None:
        self.caller = caller
        self.first: Any = None
        self._gate = gate
        self._rule = rule
        self._changed = gate.authorizer.changed()

    async def ask_for(self, first: Any) -> None:
        """Raise unless the caller may make the call that begins with this message."""
        self.first = first
        await self._ask()

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
            yield message
        await self.confirm()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """End the block with the refusal as soon as the caller loses the right."""
        if self.caller.account is None:
            yield
            return
        serving = asyncio.current_task()
        assert serving is not None
        verdict: list[LoupeError] = []

        async def watch() -> None:
            while True:
                await self._changed.wait()
                try:
                    await self.confirm()
                except LoupeError as error:
                    verdict.append(error)
                    serving.cancel()
                    return

        watcher = asyncio.create_task(watch(), name="access-watch")
        try:
            yield
        except asyncio.CancelledError:
            if not verdict:
                raise
            serving.uncancel()
            raise verdict[0] from None
        finally:
            watcher.cancel()
