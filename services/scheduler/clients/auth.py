"""Auth: what gives an attempt its access to storage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.names import AccountName, JobName


@dataclass(frozen=True)
class StorageToken:
    """Opens storage for one attempt. lifetime: seconds from when it was issued."""

    value: str = field(repr=False)
    lifetime: float


class Tokens(Protocol):
    """Gives attempts their access to storage."""

    async def issue(self, submitter: AccountName, job: JobName, attempt: int) -> StorageToken:
        """Return a token. Raises PermissionDenied and the like when the submitter has no right any more."""


class AuthClient:
    """The Tokens over gRPC. timeout in seconds."""

    def __init__(self, channel: Callable[[], Awaitable[grpc.aio.Channel]], timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout

    async def issue(self, submitter: AccountName, job: JobName, attempt: int) -> StorageToken:
        """Return a token for one attempt."""
        stub = policy_service_pb2_grpc.PolicyServiceStub(await self._channel())
        request = policy_service_pb2.IssueAttemptTokenRequest(account=str(submitter), job=str(job), attempt=attempt)
        response = await stub.IssueAttemptToken(request, timeout=self._timeout)
        return StorageToken(response.token, response.lifetime.ToTimedelta().total_seconds())
