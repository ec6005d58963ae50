"""Decisions of auth, asked for over gRPC and remembered for as long as they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import structlog

from loupe.access import Decision
from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.errors import LoupeError, Unavailable
from loupe.names import AccountName, ProjectName
from loupe.notifier import Notifier

log = structlog.get_logger(__name__)

_CACHED_DECISIONS = 100_000
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 0.5


class RemoteAuthorizer:
    """Asks auth, and remembers the answers for as long as auth's revision stands and is heard.

    channel: returns a channel to auth. Silence of auth for 3 seconds forgets everything, so that nothing old is
    trusted: a decision is then asked for anew, and when auth cannot answer, the call is refused as Unavailable.
    """

    def __init__(
        self,
        channel: Callable[[], Awaitable[grpc.aio.Channel]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._monotonic = monotonic
        self._revision = -1
        self._heard = float("-inf")
        self._decisions: dict[tuple[AccountName, ProjectName, str, str], Decision] = {}
        self._changed = Notifier()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the policy's revision."""
        self._task = asyncio.create_task(self._follow(), name="policy-watch")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def changed(self) -> asyncio.Event:
        """Return the event that is set when earlier decisions may no longer hold."""
        return self._changed.next()

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Answer from memory while that is safe, else ask auth. Raises Unavailable when auth is silent."""
        key = (account, project, action, login)
        fresh = self._monotonic() - self._heard < _SILENCE_SECONDS
        if fresh and (known := self._decisions.get(key)) is not None:
            return known
        request = policy_service_pb2.AuthorizeRequest(
            account=str(account), project=str(project), action=action, login=login
        )
        try:
            stub = policy_service_pb2_grpc.PolicyServiceStub(await self._channel())
            answer = await stub.Authorize(request, timeout=5)
        except LoupeError as error:
            raise Unavailable("auth cannot be asked now; nothing is allowed meanwhile", dependency="auth") from error
        given = answer.decision
        decision = Decision(
            allowed=given.allowed,
            member=given.member,
            group=given.group,
            parameter=given.parameter,
            threshold=given.threshold,
            active=given.active,
        )
        if answer.revision == self._revision:
            if len(self._decisions) >= _CACHED_DECISIONS:
                self._decisions.clear()
            self._decisions[key] = decision
        return decision

    async def _follow(self) -> None:
        while True:
            try:
                stub = policy_service_pb2_grpc.PolicyServiceStub(await self._channel())
                messages = aiter(stub.WatchPolicy(policy_service_pb2.WatchPolicyRequest()))
                while True:
                    message = await asyncio.wait_for(anext(messages), _SILENCE_SECONDS)
                    self._heard = self._monotonic()
                    if message.revision != self._revision:
                        self._forget(message.revision)
            except StopAsyncIteration:
                log.info("auth ended the policy watch")
            except TimeoutError:
                log.warning("auth is silent; asking it for every decision", seconds=_SILENCE_SECONDS)
            except LoupeError as error:
                log.warning("policy watch broken; asking auth for every decision", error=error.message)
            self._forget(-1)
            await asyncio.sleep(_RETRY_SECONDS)

    def _forget(self, revision: int) -> None:
        self._revision = revision
        self._decisions.clear()
        self._changed.notify()
