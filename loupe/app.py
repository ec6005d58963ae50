"""What every service does: put together from its settings, started, registered, served, and stopped in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import ClassVar, Generic, Self, TypeVar

import grpc
import uvloop

from loupe import telemetry
from loupe.access import Authorizer
from loupe.audit import Recorder
from loupe.auth.v1 import session_service_pb2, session_service_pb2_grpc
from loupe.byte_budget import ByteBudget
from loupe.concurrency import race
from loupe.discovery import Discovery
from loupe.identity import JwksVerifier, TokenVerifier, current_caller
from loupe.limits import MAX_SMALL_MESSAGE_BYTES
from loupe.names import ProjectName
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.channel import ServiceChannels
from loupe.rpc.gate import require
from loupe.rpc.server import MeshServer, Registration
from loupe.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)

_JWKS_SECONDS = 5.0


class Background:
    """The work that goes on for as long as a service does; none of it may end by itself."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def begun(self) -> bool:
        """Whether any work was begun."""
        return bool(self._tasks)

    def add(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Begin a piece of work."""
        self._tasks.append(asyncio.create_task(work, name=name))

    async def watch(self) -> None:
        """Raise the error of the first piece that ends, RuntimeError when it had none."""
        if not self._tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            raise RuntimeError(f"the background work {task.get_name()!r} has ended")

    async def cancel(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class MeshApp(Generic[S]):
    """One process of a service. A subclass names its parts in `__init__` and its steps in `start`.

    Every step leaves behind on `closing` how it is undone: `stop` undoes them in reverse, all of them, also after a
    start that failed and when one of them fails.

    service: its name in the catalogue, "loupe-" in front. max_message_bytes: the longest message that its doors take.
    channels: to the other services, found through Consul.
    """

    service: ClassVar[str]
    max_message_bytes: ClassVar[int] = MAX_SMALL_MESSAGE_BYTES
    server: MeshServer

    def __init__(self, settings: S, discovery: Discovery | None = None) -> None:
        self.settings = settings
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.background = Background()
        self.discovery = discovery or Discovery(settings)
        self.channels = ServiceChannels(settings, self.discovery)
        self.closing = AsyncExitStack()
        self._remote: RemoteAuthorizer | None = None

    @classmethod
    async def create(cls, settings: S) -> Self:
        """Put a process together; where a part takes time to make, a subclass makes it here."""
        return cls(settings)

    @classmethod
    def instance(cls, settings: S) -> str:
        """Return what this process is called in its logs and in the catalogue; the service where it runs once."""
        return cls.service

    @classmethod
    def catalogue_name(cls, settings: S) -> str:
        """Return the name that others find this process by in Consul, where only it may register under that name."""
        return f"loupe-{cls.service}"

    def serves(
        self,
        servicers: Sequence[Registration],
        *,
        verifier: TokenVerifier | None = None,
        authorizer: Authorizer | None = None,
        budget: ByteBudget | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """Say what the doors serve. Tokens are checked with auth's keys and calls decided by auth, unless given.

        budget, recorder: see MeshServer.
        """
        if authorizer is None:
            authorizer = self._remote = RemoteAuthorizer(self.auth)
        self.server = MeshServer(
            self.settings,
            verifier=verifier or JwksVerifier(self._jwks),
            authorizer=authorizer,
            servicers=servicers,
            max_message_bytes=self.max_message_bytes,
            budget=budget,
            recorder=recorder,
        )

    async def permit(self, project: ProjectName, action: str) -> None:
        """Return if whoever makes the call that is being served may do an action in a project, too.

        Raises NotFound for a stranger to the project, PermissionDenied, and Unavailable while auth is silent.
        """
        await require(self.server.authorizer, current_caller(), project, action, str(project))

    async def auth(self) -> grpc.aio.Channel:
        """Return a channel to auth. Raises Unavailable while none is known."""
        return await self.channels.get("auth")

    async def storage(self) -> grpc.aio.Channel:
        """Return a channel to storage. Raises Unavailable while none is known."""
        return await self.channels.get("storage")

    async def start(self) -> None:
        """Serve. Each service says what has to be there before."""
        await self.open_doors()
        await self.register()

    async def open_doors(self) -> None:
        """Open the doors of the server. Raises OSError when a port is taken."""
        self.closing.push_async_callback(self.channels.close)
        if self._remote is not None:
            self._remote.start()
            self.closing.push_async_callback(self._remote.close)
        self.closing.push_async_callback(self.server.stop)
        await self.server.start()

    async def register(self, instance: str = "") -> None:
        """Enter the catalogue, under the service's name where there is one instance only."""
        settings = self.settings
        self.closing.push_async_callback(self.discovery.close)
        await self.discovery.register(
            self.catalogue_name(settings),
            instance or self.instance(settings),
            f"{settings.advertised}:{settings.public_port}" if settings.public_port else "",
            f"{settings.advertised}:{settings.internal_port}",
        )

    def work(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Begin work that goes on beside the calls until the process stops; it must not end by itself."""
        if not self.background.begun:
            self.closing.push_async_callback(self.background.cancel)
        self.background.add(name, work)

    async def stop(self) -> None:
        """Undo every step in reverse; running calls may end."""
        await self.closing.aclose()

    async def _jwks(self) -> str:
        stub = session_service_pb2_grpc.SessionServiceStub(await self.auth())
        answer = await stub.GetJwks(session_service_pb2.GetJwksRequest(), timeout=_JWKS_SECONDS)
        return answer.jwks_json


def main(app: type[MeshApp[S]], settings: type[S], *, umask: int = 0o077) -> None:
    """Run one process of a service until it is told to stop; its settings come from LOUPE_* variables.

    umask: by default nobody else on the machine reads what the process writes.
    """
    os.umask(umask)
    uvloop.run(_serve(app, settings()))


async def _serve(app: type[MeshApp[S]], settings: S) -> None:
    telemetry.configure_logging(settings, app.instance(settings))
    telemetry.serve_metrics(settings.metrics_port)
    await run(await app.create(settings))


async def run(app: MeshApp[S]) -> None:
    """Serve until SIGTERM or SIGINT, or until background work ends, which is raised."""
    told = asyncio.ensure_future(told_to_stop())
    try:
        await app.start()
        await race(told, app.background.watch())
    finally:
        told.cancel()
        await app.stop()


async def told_to_stop() -> None:
    """Return after SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
