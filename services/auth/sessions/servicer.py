"""The RPCs about logins, keys and doors: unpack, call, pack."""

from __future__ import annotations

from typing import Any

import grpc

from loupe.auth.v1 import session_service_pb2 as rpc
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceServicer
from loupe.names import AccountName
from loupe.rpc.calls import acting_account, peer_address
from services.auth.accounts.accounts import Accounts
from services.auth.accounts.messages import pack_account
from services.auth.sessions.endpoints import Endpoints
from services.auth.sessions.messages import pack_tokens
from services.auth.sessions.sessions import Sessions
from services.auth.sessions.tokens import KeyRing


class SessionServicer(SessionServiceServicer):
    """Serves loupe.auth.v1.SessionService."""

    def __init__(self, sessions: Sessions, accounts: Accounts, keys: KeyRing, endpoints: Endpoints) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._keys = keys
        self._endpoints = endpoints

    async def Login(self, request: rpc.LoginRequest, context: grpc.aio.ServicerContext[Any, Any]) -> rpc.LoginResponse:
        """Give tokens for a password."""
        name = AccountName.parse(request.account, "account")
        pair, account = await self._sessions.login(name, request.password, peer_address(context))
        return rpc.LoginResponse(tokens=pack_tokens(pair), account=pack_account(account))

    async def Refresh(self, request: rpc.RefreshRequest, context: object) -> rpc.RefreshResponse:
        """Exchange a refresh token for new tokens."""
        pair = await self._sessions.refresh(request.refresh_token, request.request_id)
        return rpc.RefreshResponse(tokens=pack_tokens(pair))

    async def Logout(self, request: rpc.LogoutRequest, context: object) -> rpc.LogoutResponse:
        """End the login that a refresh token belongs to."""
        await self._sessions.logout(request.refresh_token)
        return rpc.LogoutResponse()

    async def WhoAmI(self, request: rpc.WhoAmIRequest, context: object) -> rpc.WhoAmIResponse:
        """Return the caller's own account."""
        return rpc.WhoAmIResponse(account=pack_account(await self._accounts.get(acting_account())))

    async def GetJwks(self, request: rpc.GetJwksRequest, context: object) -> rpc.GetJwksResponse:
        """Return the public keys that tokens are checked with."""
        return rpc.GetJwksResponse(jwks_json=self._keys.jwks())

    async def ListEndpoints(self, request: rpc.ListEndpointsRequest, context: object) -> rpc.ListEndpointsResponse:
        """Return where a terminal finds the other doors."""
        found = await self._endpoints.find()
        return rpc.ListEndpointsResponse(storage=found.storage, scheduler=found.scheduler, nats_url=found.nats_url)
