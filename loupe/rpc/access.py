"""The access table, read from the contract, and the decision behind every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.common.v1 import access_pb2
from loupe.errors import LoupeError, PermissionDenied, Unauthenticated, Unavailable, not_found
from loupe.names import SYSTEM, AccountName, ProjectName, project_of
from loupe.rpc.identity import Caller, TokenVerifier, peer_of

log = structlog.get_logger(__name__)

SYSTEM_PROJECT = ProjectName(SYSTEM)

DEFAULT_THRESHOLDS: dict[str, int] = {
    "accounts.create": 40,
    "accounts.disable": 90,
    "accounts.read": 90,
    "algorithms.write": 30,
    "blobs.write": 20,
    "datasets.read": 10,
    "datasets.write": 20,
    "groups.admin": 90,
    "groups.read": 20,
    "groups.write": 40,
    "jobs.cancel": 30,
    "jobs.read": 10,
    "jobs.submit": 30,
    "models.read": 10,
    "projects.create": 30,
    "projects.read": 10,
    "thresholds.write": 90,
}
"""Every action of the contract and the permission parameter that it needs until an administrator changes it."""

_CACHED_DECISIONS = 100_000
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Decision:
    """What auth decided and what it rests on; the fields are those of loupe.auth.v1.Decision."""

    allowed: bool
    member: bool
    group: str
    parameter: int
    threshold: int
    active: bool


class Authorizer(Protocol):
    """Decides what an account may do."""

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Answer one question. Raises Unavailable when it cannot be decided, never for a denial."""

    def changed(self) -> asyncio.Event:
        """Return set, and replaced by a new one, when earlier decisions may no longer hold."""


def access_table(services: Iterable[ServiceDescriptor]) -> dict[str, access_pb2.Access]:
    """Return the row of every RPC that has one, by its full method path."""
    table = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            if options.HasExtension(access_pb2.access):
                table[f"/{service.full_name}/{method.name}"] = options.Extensions[access_pb2.access]
    return table


def resource_of(request: Any, path: str) -> str:
    """Read the field that an ActionRule names, for example "header.parent"."""
    value = request
    for part in path.split("."):
        value = getattr(value, part)
    return value


def denial(account: AccountName, project: ProjectName, action: str, decision: Decision) -> PermissionDenied:
    """Make the error that names group, parameter and threshold."""
    where = decision.group or str(project)
    has = (
        f"its group {decision.group} has the permission parameter {decision.parameter}"
        if decision.group
        else f"it is in no group of {project}"
    )
    return PermissionDenied(
        f"{account} may not do {action} in {project}: {has}, and {action} needs {decision.threshold}",
        account=account,
        action=action,
        project=project,
        group=where if decision.group else "",
        parameter=decision.parameter,
        threshold=decision.threshold,
    )


class Gate:
    """Admits a call or refuses it: access is decided here, before the request is looked at any further."""

    def __init__(self, verifier: TokenVerifier, authorizer: Authorizer) -> None:
        self._verifier = verifier
        self.authorizer = authorizer

    async def identify(self, rule: access_pb2.Access | None, context: grpc.aio.ServicerContext) -> Caller:
        """Find out who calls, and refuse who cannot be meant by the rule at all."""
        if rule is None:
            raise PermissionDenied("this call has no row in the access table and is refused to everybody")
        peer = peer_of(context.auth_context() or {})
        if peer is not None and peer.service in rule.services:
            return peer
        if rule.public:
            return Caller()
        token = _bearer(context)
        if token is None:
            raise Unauthenticated("this call needs a bearer token; log in first", problem="missing")
        caller = await self._verifier.verify(token)
        if caller.attempt is not None and not rule.attempt:
            raise Unauthenticated("a training attempt's token is not taken for this call", problem="type")
        return caller

    async def admit(self, rule: access_pb2.Access, caller: Caller, request: Any) -> None:
        """Let an identified caller through, or raise Unauthenticated, NotFound or PermissionDenied."""
        if rule.public or caller.account is None:
            return
        action = rule.action.action
        if caller.attempt is not None:
            project = ProjectName(caller.attempt.job.project)
            if rule.action.resource:
                name = resource_of(request, rule.action.resource)
                if project_of(name, rule.action.resource) != project:
                    raise not_found(name)
            await self.require(caller, project, action or "jobs.submit", str(project))
        elif rule.authenticated:
            decision = await self.authorizer.decide(caller.account, SYSTEM_PROJECT, "projects.create", caller.login)
            if not decision.active:
                raise _inactive()
        elif not action:
            raise PermissionDenied("this call is for services of the mesh only")
        elif rule.action.resource:
            name = resource_of(request, rule.action.resource)
            await self.require(caller, project_of(name, rule.action.resource), action, name)
        else:
            await self.require(caller, SYSTEM_PROJECT, action, str(SYSTEM_PROJECT))

    async def require(self, caller: Caller, project: ProjectName, action: str, resource: str) -> None:
        """Raise unless the caller may do the action; who is in no group of the project sees NotFound."""
        assert caller.account is not None
        decision = await self.authorizer.decide(caller.account, project, action, caller.login)
        if decision.allowed and decision.active:
            return
        if not decision.active:
            raise _inactive()
        if not decision.member and project != SYSTEM_PROJECT:
            raise not_found(resource)
        raise denial(caller.account, project, action, decision)


def _inactive() -> Unauthenticated:
    return Unauthenticated("the account is disabled or this login has ended; log in again", problem="inactive")


def _bearer(context: grpc.aio.ServicerContext) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            kind, _, token = str(value).partition(" ")
            if kind.lower() != "bearer" or not token:
                raise Unauthenticated('the authorization metadata is not "Bearer <token>"', problem="malformed")
            return token
    return None


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
        self._changed = asyncio.Event()
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
        """Return set when earlier decisions may no longer hold."""
        return self._changed

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Answer from memory while that is safe, else asks auth. Raises Unavailable when auth is silent."""
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
        self._changed.set()
        self._changed = asyncio.Event()


__all__ = [
    "DEFAULT_THRESHOLDS",
    "SYSTEM_PROJECT",
    "Authorizer",
    "Decision",
    "Gate",
    "RemoteAuthorizer",
    "access_table",
    "denial",
    "resource_of",
]
