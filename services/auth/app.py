"""The composition root of auth: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import nacl.public
import nkeys
import structlog

from loupe import database
from loupe.app import MeshApp
from loupe.audit_log import AuditLog
from loupe.auth.v1.account_service_pb2_grpc import add_AccountServiceServicer_to_server
from loupe.auth.v1.group_service_pb2_grpc import add_GroupServiceServicer_to_server
from loupe.auth.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from loupe.auth.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from loupe.common.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from loupe.errors import LoupeError
from loupe.identity import JwksVerifier
from loupe.rpc.audit_servicer import AuditServicer
from services.auth.accounts.accounts import Accounts
from services.auth.accounts.deletion import AccountDeletion
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.servicer import AccountServicer
from services.auth.accounts.store import AccountTable
from services.auth.accounts.throttle import Throttle
from services.auth.clients.nats import NatsUser, stay_connected
from services.auth.collection.collector import Collector
from services.auth.database.session import Database
from services.auth.groups.bootstrap import ADMIN, bootstrap
from services.auth.groups.groups import Groups
from services.auth.groups.servicer import GroupServicer
from services.auth.nats.callout import Callout
from services.auth.nats.connections import CalloutDoor, Janitor, Revoker
from services.auth.policy.authority import Authority
from services.auth.policy.servicer import PolicyServicer
from services.auth.policy.store import ChangeTable
from services.auth.sessions.attempt_tokens import AttemptTokens
from services.auth.sessions.endpoints import Endpoints
from services.auth.sessions.servicer import SessionServicer
from services.auth.sessions.sessions import Sessions
from services.auth.sessions.store import RefreshTokenTable
from services.auth.sessions.tokens import KeyRing, Lifetimes, Tokens
from services.auth.settings import AuthSettings

log = structlog.get_logger(__name__)

_DAY = 24 * 3600.0
_HOUSEKEEPING_SECONDS = 3600.0
_HEALTH_SECONDS = 0.5


def announcement(password: str, file: Path | None, *, to_a_person: bool) -> str:
    """Tell about the first administrator; the password stands in it only where that makes it no log line.

    Where stdout is not a terminal it most likely ends in a log, and the file is the place to look.
    """
    if file is not None and not to_a_person:
        return f"The first administrator is accounts/{ADMIN}; its password is in {file}"
    return f"The first administrator is accounts/{ADMIN}; its password, shown once: {password}"


class AuthApp(MeshApp[AuthSettings]):
    """One auth process, built from its settings.

    announce: shows the first administrator's password to the operator. passwords: how hard passwords are hashed.
    """

    service: ClassVar[str] = "auth"
    max_message_bytes: ClassVar[int] = 256 << 10

    def __init__(
        self, settings: AuthSettings, *, announce: Callable[[str], None] = print, passwords: Passwords | None = None
    ) -> None:
        super().__init__(settings)
        self._announce = announce
        self._engine = database.create_engine(settings.database_url or database.sqlite_url(settings.state, "auth"))
        self._database = Database(self._engine)
        self._audit = AuditLog(self._database, lambda session: session.connection)
        self._passwords = passwords or Passwords()
        lifetimes = Lifetimes(
            settings.access_seconds, settings.refresh_seconds, settings.attempt_seconds, settings.signing_key_seconds
        )
        self._keys = KeyRing(self._database, lifetimes)
        tokens = Tokens(self._keys, lifetimes)
        self.authority = Authority(self._database, AccountTable, revoked_seconds=lifetimes.access + 300)
        throttle = Throttle(time.monotonic)
        accounts = Accounts(self._database, self.authority, self._passwords, throttle)
        deletion = AccountDeletion(self._database, self.authority, settings.keep_deleted_days * _DAY)
        self._collector = Collector(self._database, time.time)
        groups = Groups(self._database, self.authority)
        sessions = Sessions(self._database, self.authority, self._passwords, throttle, tokens)
        endpoints = Endpoints(self.discovery, settings.public_nats_url or settings.nats_url)
        policy = PolicyServicer(
            self.authority,
            ensure_project=groups.ensure_project,
            remove_project=groups.remove_project,
            attempt_token=AttemptTokens(self.authority, tokens).issue,
        )
        self.serves(
            [
                (add_AccountServiceServicer_to_server, AccountServicer(accounts, deletion)),
                (add_GroupServiceServicer_to_server, GroupServicer(groups)),
                (add_PolicyServiceServicer_to_server, policy),
                (add_SessionServiceServicer_to_server, SessionServicer(sessions, accounts, self._keys, endpoints)),
                (add_AuditServiceServicer_to_server, AuditServicer(self._audit)),
            ],
            verifier=JwksVerifier(self._jwks),
            authorizer=self.authority,
            recorder=self._audit,
        )

    async def _jwks(self) -> str:
        return self._keys.jwks()

    async def start(self) -> None:
        """Make the schema and the first administrator if need be, and serve."""
        self.closing.push_async_callback(self._database.close)
        self.closing.callback(self._passwords.close)
        await self._database.migrate()
        await self._keys.load()
        if password := await bootstrap(self._database, self._passwords, self.settings.admin_password_file):
            file = self.settings.admin_password_file
            self._announce(announcement(password, file, to_a_person=sys.stdout.isatty()))
        await self.authority.refresh()
        # Before the doors, so that the policy is confirmed for as long as the last calls run.
        self.work("policy-poll", self.authority.poll())
        self.work("housekeeping", self._keep_house())
        self.work("collection", self._collector.keep(self.settings.collect_seconds))
        self.work("readiness", self._follow_readiness())
        self.work("audit", self._audit.keep(self.settings.audit_days))
        self._work_with_nats()
        await self.open_doors()
        await self.register()

    def _work_with_nats(self) -> None:
        """Begin to work on three connections to NATS, as far as the settings give what they need."""
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
            self.work("nats-callout", stay_connected(who, CalloutDoor(callout).serve))
            self.work("nats-janitor", stay_connected(who, Janitor(self.authority).serve))
        if settings.nats_sys_user:
            who = user(settings.nats_sys_user, settings.nats_sys_password_file)
            self.work("nats-revoker", stay_connected(who, Revoker(self.authority).serve))

    async def _keep_house(self) -> None:
        while True:
            try:
                async with self._database.write() as session:
                    await RefreshTokenTable(session).prune()
                    await ChangeTable(session).prune()
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
