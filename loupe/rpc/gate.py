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


def _bearer(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            kind, _, token = str(value).partition(" ")
            if kind.lower() != "bearer" or not token:
                raise Unauthenticated('the authorization metadata is not "Bearer <token>"', problem="malformed")
            return token
    return None
