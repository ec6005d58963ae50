"""The trainer's gRPC door: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from loupe.trainer.v1 import attempt_service_pb2 as messages
from loupe.trainer.v1 import attempt_service_pb2_grpc
from services.trainer.attempts.attempts import Attempts
from services.trainer.attempts.messages import STATES, pack_event, unpack_key, unpack_seconds, unpack_spec


class AttemptServicer(attempt_service_pb2_grpc.AttemptServiceServicer):
    """Serves loupe.trainer.v1.AttemptService. code_version: the version of Loupe that runs here."""

    def __init__(self, attempts: Attempts, code_version: str) -> None:
        self._attempts = attempts
        self._code_version = code_version

    async def StartAttempt(
        self, request: messages.StartAttemptRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.StartAttemptResponse:
        state = self._attempts.start(unpack_spec(request.spec), unpack_seconds(request.lease))
        return messages.StartAttemptResponse(state=STATES[state])

    async def WatchAttempt(
        self, request: messages.WatchAttemptRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[messages.WatchAttemptResponse]:
        async for event in self._attempts.watch(unpack_key(request.key), request.after_sequence):
            yield messages.WatchAttemptResponse(event=pack_event(event, self._code_version))

    async def RenewLeases(
        self, request: messages.RenewLeasesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.RenewLeasesResponse:
        keys = [unpack_key(key) for key in request.keys]
        states = self._attempts.renew(keys, unpack_seconds(request.lease))
        return messages.RenewLeasesResponse(states=[STATES[state] for state in states])

    async def ReplaceStorageToken(
        self, request: messages.ReplaceStorageTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.ReplaceStorageTokenResponse:
        self._attempts.replace_token(unpack_key(request.key), request.storage_token)
        return messages.ReplaceStorageTokenResponse()

    async def CancelAttempt(
        self, request: messages.CancelAttemptRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.CancelAttemptResponse:
        self._attempts.cancel(unpack_key(request.key))
        return messages.CancelAttemptResponse()
