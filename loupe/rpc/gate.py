"""The door of every call: the access table, read from the contract, and who is let in by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from loupe.access import SYSTEM_PROJECT, Authorizer, denial
from loupe.common.v1 import access_pb2
from loupe.errors import PermissionDenied, Unauthenticated, not_found
from loupe.identity import Caller, TokenVerifier, peer_of
from loupe.names import ProjectName, project_of

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]] | None


def access_table(services: Iterable[ServiceDescriptor]) -> dict[str, access_pb2.Access]:
    """Return the row of every RPC that has one, by its full method path."""
    extension: Any = access_pb2.access  # its stub calls an extension an ordinary field
    table: dict[str, access_pb2.Access] = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            if options.HasExtension(extension):
                table[f"/{service.full_name}/{method.name}"] = options.Extensions[extension]
    return table


def resource_of(request: Any, path: str) -> str:
    """Read the field that an ActionRule names, for example "header.parent"."""
    for part in path.split("."):
        request = getattr(request, part)
    return str(request)


class Gate:
    """Admits a call or refuses it: access is decided here, before the request is looked at any further."""

    def __init__(self, verifier: TokenVerifier, authorizer: Authorizer) -> None:
        self._verifier = verifier
        self.authorizer = authorizer

    async def identify(self, rule: access_pb2.Access, context: Context) -> Caller:
        """Find out who calls, and refuse who cannot be meant by the rule at all."""
        peer = peer_of(cast(Mapping[str, list[bytes]], context.auth_context() or {}))
        if peer is not None and peer.service in rule.services:
            return peer
        if rule.public:
            return Caller()
        token = _bearer(context.invocation_metadata())
        if token is None:
            raise _without_token()
        caller = await self._verifier.verify(token)
        if caller.attempt is not None and not rule.attempt:
            raise Unauthenticated("a training attempt's token is not taken for this call", problem="type")
        return caller

    async def recognise(self, rule: access_pb2.Access | None, metadata: Metadata) -> None:
        """Refuse at a public door, before a message is read, who has no token that is valid here.

        Whether the call may be made is decided by `admit`, which needs the message. Raises Unauthenticated.
        """
        if rule is not None and not rule.public:
            token = _bearer(metadata)
            if token is None:
                raise _without_token()
            await self._verifier.verify(token)

    async def admit(self, rule: access_pb2.Access, caller: Caller, request: Any) -> int:
        """Return the permission parameter with which an identified caller is let through, 0 where none is needed.

        Raises Unauthenticated, NotFound or PermissionDenied.
        """
        if rule.public or caller.account is None:
            return 0
        action = rule.action.action
        if caller.attempt is not None:
            project = ProjectName(caller.attempt.job.project)
            if rule.action.resource:
                name = resource_of(request, rule.action.resource)
                if project_of(name, rule.action.resource) != project:
                    raise not_found(name)
            return await self.require(caller, project, action or "jobs.submit", str(project))
        if rule.authenticated:
            decision = await self.authorizer.decide(caller.account, SYSTEM_PROJECT, "projects.create", caller.login)
            if not decision.active:
                raise _inactive()
            return 0
        if not action:
            raise PermissionDenied("this call is for services of the mesh only")
        if rule.action.resource:
            name = resource_of(request, rule.action.resource)
            return await self.require(caller, project_of(name, rule.action.resource), action, name)
        return await self.require(caller, SYSTEM_PROJECT, action, str(SYSTEM_PROJECT))

    async def require(self, caller: Caller, project: ProjectName, action: str, resource: str) -> int:
        """Return the caller's parameter; see `require`."""
        return await require(self.authorizer, caller, project, action, resource)


async def require(authorizer: Authorizer, caller: Caller, project: ProjectName, action: str, resource: str) -> int:
    """Return the caller's parameter, or raise where it is too low; who is in no group there sees NotFound."""
    assert caller.account is not None
    decision = await authorizer.decide(caller.account, project, action, caller.login)
    if decision.allowed and decision.active:
        return decision.parameter
    if not decision.active:
        raise _inactive()
    if not decision.member and project != SYSTEM_PROJECT:
        raise not_found(resource)
    raise denial(caller.account, project, action, decision)


def _inactive() -> Unauthenticated:
    return Unauthenticated("the account is disabled or this login has ended; log in again", problem="inactive")


def _without_token() -> Unauthenticated:
    return Unauthenticated("this call needs a bearer token; log in first", problem="missing")


def _bearer(metadata: Metadata) -> str | None:
    for key, value in metadata or ():
        if key == "authorization":
            kind, _, token = str(value).partition(" ")
            if kind.lower() != "bearer" or not token:
                raise Unauthenticated('the authorization metadata is not "Bearer <token>"', problem="malformed")
            return token
    return None
