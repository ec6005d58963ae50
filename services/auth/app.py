"""The composition root of auth: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import nacl.public
import nkeys
import structlog

from loupe import database
from loupe.app import Background
from loupe.auth.v1 import (
    account_service_pb2_grpc,
    group_service_pb2_grpc,
    policy_service_pb2_grpc,
    session_service_pb2_grpc,
)
from loupe.discovery import Discovery
from loupe.errors import LoupeError
from loupe.idempotency import RequestLog
from loupe.identity import JwksVerifier
from loupe.rpc.server import MeshServer
from services.auth.accounts.accounts import Accounts
from services.auth.accounts.bootstrap import ADMIN, bootstrap
from services.auth.database.store import Store
from services.auth.groups.groups import Groups
from services.auth.nats.callout import Callout
from services.auth.nats.connections import CalloutDoor, NatsUser, Revoker, stay_connected
from services.auth.policy.authority import Authority
from services.auth.servicer import AccountServicer, GroupServicer, PolicyServicer, SessionServicer
from services.auth.sessions.attempt_tokens import Attempts
from services.auth.sessions.endpoints import Endpoints
from services.auth.sessions.passwords import Passwords
from services.auth.sessions.sessions import Sessions
from services.auth.sessions.throttle import Throttle
from services.auth.sessions.tokens import KeyRing, Lifetimes, Tokens
from services.auth.settings import AuthSettings

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "database" / "migrations"
_HOUSEKEEPING_SECONDS = 3600.0
_HEALTH_SECONDS = 0.5


def announcement(password: str, file: Path | None, *, to_a_person: bool) -> str:
    """Tell about the first administrator; the password stands in it only where that makes it no log line.

    Where stdout is not a terminal it most likely ends in a log, and the file is the place to look.
    """
    if file is not None and not to_a_person:
        return f"The first administrator is accounts/{ADMIN}; its password is in {file}"
    return f"The first administrator is accounts/{ADMIN}; its password, shown once: {password}"


class AuthApp:
    """One auth process, built from its settings.

    announce: shows the first administrator's password to the operator. passwords: how hard passwords are hashed.
    """

    def __init__(
        self, settings: AuthSettings, *, announce: Callable[[str], None] = print, passwords: Passwords | None = None
    ) -> None:
        self.settings = settings
        self._announce = announce
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = database.create_engine(settings.database_url or database.sqlite_url(settings.state, "auth"))
        self._store = Store(self._engine)
        self._passwords = passwords or Passwords()
        lifetimes = Lifetimes(
            settings.access_seconds, settings.refresh_seconds, settings.attempt_seconds, settings.signing_key_seconds
        )
        self._keys = KeyRing(self._store, lifetimes)
        tokens = Tokens(self._keys, lifetimes)
        self.authority = Authority(self._store, revoked_seconds=lifetimes.access + 300)
        throttle = Throttle(time.monotonic)
        requests = RequestLog()
        accounts = Accounts(self._store, self.authority, self._passwords, throttle, requests)
        groups = Groups(self._store, self.authority, requests)
        sessions = Sessions(self._store, self.authority, self._passwords, throttle, tokens)
        self._discovery = Discovery(settings)
        endpoints = Endpoints(self._discovery, settings.public_nats_url or settings.nats_url)
        self.verifier = JwksVerifier(self._jwks)
        self.server = MeshServer(
            settings,
            verifier=self.verifier,
            authorizer=self.authority,
            servicers=[
                (account_service_pb2_grpc.add_AccountServiceServicer_to_server, AccountServicer(accounts)),
                (group_service_pb2_grpc.add_GroupServiceServicer_to_server, GroupServicer(groups)),
                (
                    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server,
                    PolicyServicer(self.authority, groups, Attempts(self.authority, tokens)),
                ),
                (
                    session_service_pb2_grpc.add_SessionServiceServicer_to_server,
                    SessionServicer(sessions, accounts, self._keys, endpoints),
                ),
            ],
        )
        self.background = Background()

    async def _jwks(self) -> str:
        return self._keys.jwks()

    async def start(self) -> None:
        """Make the schema and the first administrator if need be, and serve."""
        settings = self.settings
        await database.migrate(self._engine, MIGRATIONS)
        await self._keys.load()
        if password := await bootstrap(self._store, self._passwords, settings.admin_password_file):
            self._announce(announcement(password, settings.admin_password_file, to_a_person=sys.stdout.isatty()))
        await self.authority.refresh()
        await self.server.start()
        await self._discovery.register(
            "loupe-auth",
            "auth",
            f"{settings.advertised}:{settings.public_port}",
            f"{settings.advertised}:{settings.internal_port}",
        )
        for name, work in (
            ("policy-poll", self.authority.poll()),
            ("housekeeping", self._keep_house()),
            ("readiness", self._follow_readiness()),
            *self._nats_work(),
        ):
            self.background.add(name, work)

    def _nats_work(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """The two connections to NATS, as far as the settings give what they need."""
        settings = self.settings

        def user(name: str, password_file: Path | None) -> NatsUser:
            return NatsUser(settings.nats_url, name, settings.secret(password_file) or "", settings.tls_ca)

        seed, xkey = settings.secret(settings.nats_callout_seed_file), settings.secret(settings.nats_xkey_file)
        if seed and xkey:
            callout = Callout(
                self.authority,
                self._keys.public,
                signer=nkeys.from_seed(seed.encode()),
                sealer=nacl.public.PrivateKey(bytes.fromhex(xkey)),
                nats_account=settings.nats_account,
                now=time.time,
            )
            who = user(settings.nats_user, settings.nats_password_file)
            yield "nats-callout", stay_connected(who, CalloutDoor(callout).serve)
        if settings.nats_sys_user:
            who = user(settings.nats_sys_user, settings.nats_sys_password_file)
            yield "nats-revoker", stay_connected(who, Revoker(self.authority).serve)

    async def _keep_house(self) -> None:
        while True:
            try:
                async with self._store.write() as tx:
                    await tx.prune()
                await self._keys.load()
            except LoupeError as error:
                log.warning("housekeeping failed; it is tried again later", error=error.message)
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)

    async def _follow_readiness(self) -> None:
        serving = True
        while True:
            if self.authority.ready != serving:
                serving = self.authority.ready
                await self.server.set_serving(serving)
                log.warning("readiness changed", serving=serving)
            await asyncio.sleep(_HEALTH_SECONDS)

    async def stop(self) -> None:
        """Leave the catalogue, let running calls end and close everything."""
        await self._discovery.close()
        await self.server.stop()
        await self.background.cancel()
        self._passwords.close()
        await self._engine.dispose()
