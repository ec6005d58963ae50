"""What happens around every RPC of every service: log line, errors as status, identity, access."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import structlog

from loupe import errors, telemetry
from loupe.common.v1 import access_pb2
from loupe.errors import LoupeError
from loupe.identity import Caller, set_caller
from loupe.rpc.gate import Context, Gate
from loupe.rpc.status import DETAILS_KEY, to_status

log = structlog.get_logger("loupe.rpc")

# Health and reflection tell nothing that is not public.
EXEMPT = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Serves a call: identify the caller, decide access, run the handler, turn errors into status."""

    def __init__(self, table: Mapping[str, access_pb2.Access], gate: Gate) -> None:
        self._table = table
        self._gate = gate
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap a method's handler once and keep it."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(EXEMPT):
            return handler
        wrapped = self._wrap(method, handler)
        self._handlers[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Handler:
        rule = self._table.get(method)
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            behaviour = handler.stream_stream or handler.unary_stream

            async def serve_stream(request: Any, context: Context) -> AsyncIterator[Any]:
                async with self._call(method, context):
                    caller, first, request = await self._admit(rule, request, context, handler.request_streaming)
                    async with self._revocable(rule, caller, first):
                        async for response in behaviour(request, context):
                            yield response

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(serve_stream, **codec)
        behaviour = handler.stream_unary or handler.unary_unary

        async def serve(request: Any, context: Context) -> Any:
            async with self._call(method, context):
                _, _, request = await self._admit(rule, request, context, handler.request_streaming)
                return await behaviour(request, context)

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(serve, **codec)

    async def _admit(
        self, rule: access_pb2.Access | None, request: Any, context: Context, streaming: bool
    ) -> tuple[Caller, Any, Any]:
        """Return the caller, the message that access was decided on, and the request for the handler."""
        if rule is None:
            raise errors.PermissionDenied("this call has no row in the access table and is refused to everybody")
        caller = await self._gate.identify(rule, context)
        first = request
        if streaming:
            try:
                first = await anext(aiter(request))
            except StopAsyncIteration:
                raise errors.UploadIncomplete("the stream ended before its first message", committed=0) from None
            request = _chain(first, request)
        await self._gate.admit(rule, caller, first)
        set_caller(caller)
        return caller, first, request

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

    @contextlib.asynccontextmanager
    async def _revocable(self, rule: access_pb2.Access | None, caller: Caller, first: Any) -> AsyncIterator[None]:
        """End an open stream when its caller loses the right to it."""
        if caller.account is None:
            yield
            return
        serving = asyncio.current_task()
        assert serving is not None and rule is not None, "_admit has let this call in"
        verdict: list[LoupeError] = []

        async def watch() -> None:
            while True:
                await self._gate.authorizer.changed().wait()
                try:
                    await self._gate.admit(rule, caller, first)
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


async def _chain(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for message in rest:
        yield message
