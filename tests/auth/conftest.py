"""A whole auth service inside the test, with real TLS; and its rooms without any door, on each database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import argon2
import grpc
import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.certificates import Leaf, ensure_certificates
from loupe import database
from loupe.auth.v1 import (
    account_service_pb2_grpc,
    group_service_pb2_grpc,
    policy_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from loupe.idempotency import Request
from loupe.names import AccountName, ProjectName
from loupe.rpc.channel import internal_channel, terminal_channel
from loupe.settings import ServiceSettings
from services.auth.accounts.accounts import Accounts
from services.auth.accounts.deletion import AccountDeletion
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.store import AccountTable
from services.auth.accounts.throttle import Throttle
from services.auth.app import AuthApp
from services.auth.collection.collector import Collector
from services.auth.database.metadata import metadata
from services.auth.database.session import Database
from services.auth.groups.bootstrap import bootstrap
from services.auth.groups.groups import Groups
from services.auth.policy.authority import Authority
from services.auth.sessions.sessions import Sessions
from services.auth.sessions.tokens import KeyRing, Lifetimes, Tokens
from services.auth.settings import AuthSettings
from tests.ports import free_port

PASSWORD = "correct horse battery"
LINE = ProjectName("line-7")
KEPT_SECONDS = 30 * 86_400.0


def cheap_passwords() -> Passwords:
    """Return passwords that are hashed in a millisecond."""
    return Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """Keep structlog from drawing a picture of every variable beside each traceback."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with an authority and the certificates of auth, storage, scheduler and nats."""
    folder = tmp_path_factory.mktemp("tls")
    leaves = [Leaf(name, f"loupe://service/{name}") for name in ("auth", "storage", "scheduler")]
    ensure_certificates(folder, [*leaves, Leaf("nats")], datetime.now(UTC))
    return folder


@dataclass
class Doors:
    """Stubs over one channel."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.accounts = account_service_pb2_grpc.AccountServiceStub(self.channel)
        self.groups = group_service_pb2_grpc.GroupServiceStub(self.channel)
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)


@dataclass
class RunningAuth:
    """A running auth service and how to call it."""

    app: AuthApp
    settings: AuthSettings
    tls: Path
    admin_password: str
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def terminal(self, token: str | None = None, address: str = "") -> Doors:
        """Return a terminal with an access token, or without one; address: of another service's public door."""

        async def give() -> str | None:
            return token

        ca = (self.tls / "ca.pem").read_bytes()
        channel = terminal_channel(address or f"127.0.0.1:{self.settings.public_port}", ca=ca, token=give)
        self.channels.append(channel)
        return Doors(channel)

    def service(self, name: str) -> Doors:
        """Return another service of the mesh, by its client certificate."""
        settings = ServiceSettings(
            state=self.settings.state,
            internal_port=1,
            tls_ca=self.tls / "ca.pem",
            tls_cert=self.tls / f"{name}.pem",
            tls_key=self.tls / f"{name}.key",
        )
        channel = internal_channel(settings, f"127.0.0.1:{self.settings.internal_port}", service="auth")
        self.channels.append(channel)
        return Doors(channel)

    async def login(self, account: str, password: str = PASSWORD) -> session_service_pb2.Tokens:
        """Return the tokens of a new login."""
        request = session_service_pb2.LoginRequest(account=f"accounts/{account}", password=password)
        return (await self.terminal().sessions.Login(request)).tokens

    async def administrator(self) -> Doors:
        """Return a terminal logged in as accounts/admin."""
        return self.terminal((await self.login("admin", self.admin_password)).access_token)


@pytest.fixture
def auth_settings(tmp_path: Path, tls: Path) -> Callable[..., AuthSettings]:
    """Make settings for an auth service of its own; Consul and NATS are not there."""

    def make(**more: Any) -> AuthSettings:
        return AuthSettings(
            **{
                "state": tmp_path / "auth",
                "public_port": free_port(),
                "internal_port": free_port(),
                "tls_ca": tls / "ca.pem",
                "tls_cert": tls / "auth.pem",
                "tls_key": tls / "auth.key",
                "consul_url": "http://127.0.0.1:1",
                "admin_password_file": tmp_path / "admin-password",
                "drain_seconds": 0.1,
                **more,
            }
        )

    return make


@pytest.fixture
def running_auth(
    auth_settings: Callable[..., AuthSettings], tls: Path
) -> Callable[..., contextlib.AbstractAsyncContextManager[RunningAuth]]:
    """Start an auth service with settings of one's choice."""

    @contextlib.asynccontextmanager
    async def run(**more: object) -> AsyncIterator[RunningAuth]:
        settings = auth_settings(**more)
        app = AuthApp(settings, announce=lambda text: None, passwords=cheap_passwords())
        await app.start()
        running = RunningAuth(app, settings, settings.tls_ca.parent, settings.admin_password_file.read_text().strip())
        try:
            yield running
        finally:
            for channel in running.channels:
                await channel.close()
            await app.stop()

    return run


@pytest.fixture
async def auth(running_auth: Callable[..., contextlib.AbstractAsyncContextManager[RunningAuth]]):
    """Give a running auth service."""
    async with running_auth() as running:
        yield running


@dataclass
class Clock:
    """A clock that stands still until it is moved; it serves as wall clock and as monotonic clock."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rooms:
    """The parts of auth over one database, with a clock that the test moves. accounts/admin exists."""

    database: Database
    authority: Authority
    clock: Clock
    engine: AsyncEngine
    passwords: Passwords = field(default_factory=cheap_passwords)

    def __post_init__(self) -> None:
        self.throttle = Throttle(self.clock)
        self.accounts = Accounts(self.database, self.authority, self.passwords, self.throttle)
        self.deletion = AccountDeletion(self.database, self.authority, KEPT_SECONDS)
        self.collector = Collector(self.database, self.clock)
        self.groups = Groups(self.database, self.authority)
        self.lifetimes = Lifetimes()
        self.keys = KeyRing(self.database, self.lifetimes, self.clock)
        self.tokens = Tokens(self.keys, self.lifetimes, self.clock)
        self.sessions = Sessions(self.database, self.authority, self.passwords, self.throttle, self.tokens)

    def again(self) -> Authority:
        """Return the policy in the memory of another process on the same database."""
        return Authority(self.database, AccountTable, revoked_seconds=900, now=self.clock, monotonic=self.clock)

    async def person(self, account: str, group: str) -> AccountName:
        """Make an account in a group, as the administrator."""
        admin = AccountName("admin")
        once = Request(str(admin), "CreateAccount", "", b"")
        await self.accounts.create(admin, once, account, "", password=PASSWORD, group=group)
        return AccountName(account)


def database_urls() -> list[str]:
    """Name the databases that tests run on: SQLite, and PostgreSQL where LOUPE_TEST_POSTGRES names one."""
    return ["sqlite", *filter(None, [os.environ.get("LOUPE_TEST_POSTGRES")])]


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a SQLite database of auth after the first start, once for all who copy it."""
    folder = tmp_path_factory.mktemp("first-start")

    async def make() -> None:
        engine = database.create_engine(database.sqlite_url(folder, "auth"))
        await populate(engine)
        await engine.dispose()

    asyncio.run(make())
    return folder / "auth.db"


async def populate(engine: AsyncEngine) -> None:
    """Let auth start for the first time, and make the empty project line-7 owned by accounts/olga."""
    await Database(engine).migrate()
    rooms = make_rooms(engine)
    await bootstrap(rooms.database, rooms.passwords, None)
    await rooms.keys.load()
    await rooms.authority.refresh()
    olga = await rooms.person("olga", "projects/system/groups/staff")
    await rooms.groups.ensure_project(LINE, "uid-line-7", olga)
    rooms.passwords.close()


def make_rooms(engine: AsyncEngine) -> Rooms:
    """Make auth's parts over a database."""
    clock = Clock()
    own = Database(engine, clock)
    return Rooms(own, Authority(own, AccountTable, revoked_seconds=900, now=clock, monotonic=clock), clock, engine)


@pytest.fixture(params=database_urls(), ids=lambda url: url.partition("+")[0].partition(":")[0])
async def engine(request: pytest.FixtureRequest, first_start: Path, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """Give a database of auth after the first start, with the empty project line-7 owned by accounts/olga."""
    if request.param == "sqlite":
        shutil.copy(first_start, tmp_path)
        engine = database.create_engine(database.sqlite_url(tmp_path, "auth"))
    else:
        engine = database.create_engine(request.param)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
        await populate(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
async def rooms(engine: AsyncEngine) -> AsyncIterator[Rooms]:
    """Give auth's parts after the first start, with the empty project line-7 owned by accounts/olga."""
    rooms = make_rooms(engine)
    await rooms.keys.load()
    await rooms.authority.refresh()
    yield rooms
    rooms.passwords.close()
