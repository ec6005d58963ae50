"""The way from a terminal to the mesh: one known address, the others asked from it, a token on every call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar

import grpc

from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceStub
from loupe.backoff import Backoff
from loupe.errors import Internal, LoupeError, Unauthenticated, Unavailable
from loupe.rpc.channel import terminal_channel
from loupe.terminal.doors import explain_unavailable
from loupe.terminal.tokens import TokenKeeper

CALL_SECONDS = 60.0
RETRY_SECONDS = 6.0
"""How long a call is made again while its service is away."""
TRANSFER_RETRY_SECONDS = 120.0
"""How long a push, pull or export goes on after the last byte that moved."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Stub = TypeVar("Stub")
Request = TypeVar("Request")
Response = TypeVar("Response")


class PageRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class Page(Protocol):
    """One page of a list; next_page_token is empty in the last one."""

    @property
    def next_page_token(self) -> str: ...


class Stream(Protocol[T_co]):
    """A call whose responses come one after the other."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def cancel(self) -> bool: ...


AnyPageRequest = TypeVar("AnyPageRequest", bound=PageRequest)
AnyPage = TypeVar("AnyPage", bound=Page)


class Connection:
    """Knows the way to the services of one mesh, for one login.

    server: "host:port" of auth's public door. ca: the mesh's authority, PEM. retry_seconds: how long a call is made
    again while its service is away. anonymous: auth's sessions, called without a token.
    """

    def __init__(self, server: str, ca: bytes, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self.server = server
        self.ca = ca
        self.retry_seconds = retry_seconds
        self.tokens: TokenKeeper | None = None
        self.anonymous = Service(self, SessionServiceStub, logged_in=False)
        self._channels: dict[tuple[str, bool], grpc.aio.Channel] = {}
        self._endpoints: sessions.ListEndpointsResponse | None = None

    async def aclose(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def token(self) -> str:
        """Return the access token. Raises Unauthenticated when nobody is logged in."""
        if self.tokens is None:
            raise Unauthenticated("not logged in; run `loupe login ACCOUNT`", problem="logged_out")
        return await self.tokens.token()

    async def endpoints(self) -> sessions.ListEndpointsResponse:
        """Return where the public doors are; asked once, and again after one was away."""
        if self._endpoints is None:
            request = sessions.ListEndpointsRequest()
            self._endpoints = await self.anonymous.call(lambda stub: stub.ListEndpoints, request, again=False)
        return self._endpoints

    async def address(self, service: str) -> str:
        """Return the public door of "auth", "storage" or "scheduler", "host:port". Raises Unavailable."""
        address: str = self.server if service == "auth" else getattr(await self.endpoints(), service)
        if not address:
            raise Unavailable(f"no {service} service is registered at {self.server}", dependency=service)
        return address

    async def channel(self, service: str, *, logged_in: bool) -> grpc.aio.Channel:
        """Return a channel to "auth", "storage" or "scheduler"; logged_in: it carries the token. Raises Unavailable."""
        address = await self.address(service)
        if (address, logged_in) not in self._channels:
            token = self.token if logged_in else None
            self._channels[address, logged_in] = terminal_channel(address, ca=self.ca, token=token)
        return self._channels[address, logged_in]

    def lost(self, service: str, error: Unavailable) -> Unavailable:
        """Forget where the services are, and return what to tell a person of one that is away."""
        self._endpoints = None
        if "status" not in error.metadata:
            return error
        return Unavailable(
            f"{service} cannot be reached through {self.server} ({error.message}); "
            "check that the mesh is up and the address is right",
            dependency=service,
        )

    async def explained(self, service: str, error: Unavailable) -> Unavailable:
        """Return what to tell a person when a service stayed away, with what stands behind its address."""
        if error.dependency != service:
            return error
        known = self._endpoints
        address = self.server if service == "auth" or known is None else getattr(known, service)
        why = await explain_unavailable(address or self.server, self.ca.decode("utf-8", "replace"))
        if not why:
            return error
        where = "" if address == self.server else f"{address}: "
        return Unavailable(f"{service} cannot be reached through {self.server}: {where}{why}", dependency=service)

    def wrong_door(self, service: str, error: Internal) -> LoupeError:
        """Return what to tell a person when a server does not know a call of `service`; any other error as it is."""
        if error.metadata.get("status") != grpc.StatusCode.UNIMPLEMENTED.name:
            return error
        return Unavailable(
            f"what answers at {self.server if service == 'auth' else f'the {service} of {self.server}'} is not Loupe's "
            f"{service} ({error.message}); use the port of auth's public door, of a mesh that is not older than this",
            dependency=service,
        )


class Service(Generic[Stub]):
    """One service of the mesh; each call says which method of its generated stub is meant. All raise LoupeError.

    name: "auth", "storage" or "scheduler", where the stub's package does not say it.
    """

    def __init__(
        self,
        connection: Connection,
        stub: Callable[[grpc.aio.Channel], Stub],
        *,
        logged_in: bool = True,
        name: str = "",
    ) -> None:
        self._connection = connection
        self._stub = stub
        self._name = name or stub.__module__.split(".")[1]
        self._logged_in = logged_in

    async def _ready(self) -> Stub:
        return self._stub(await self._connection.channel(self._name, logged_in=self._logged_in))

    async def _repeat(self, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call again while the service is away, for `seconds` at most, looking anew where it is.

        A token that is refused is replaced, once.
        """
        backoff = Backoff(seconds)
        tokens = self._connection.tokens if self._logged_in else None
        while True:
            used = await self._connection.token() if self._logged_in else ""
            try:
                return await call()
            except Unauthenticated:
                if tokens is None:
                    raise
                await tokens.renew(used)
                tokens = None
            except Internal as error:
                raise self._connection.wrong_door(self._name, error) from error
            except Unavailable as error:
                lost = self._connection.lost(self._name, error)
                try:
                    await backoff.wait(lost)
                except Unavailable as given_up:
                    raise await self._connection.explained(self._name, given_up) from error

    async def call(
        self,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        again: bool = True,
    ) -> Response:
        """Make a unary call and return the response; again=False is for calls that may not be made twice."""

        async def once() -> Response:
            return await method(await self._ready())(request, timeout=CALL_SECONDS)

        return await self._repeat(self._connection.retry_seconds if again else 0.0, once)

    async def pages(
        self,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[AnyPageRequest, AnyPage]],
        request: AnyPageRequest,
    ) -> AsyncGenerator[AnyPage]:
        """Yield the pages of a list from the one that is asked for to the last."""
        while True:
            page = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def send(self, make: Callable[[Stub], Awaitable[Response]], seconds: float | None = None) -> Response:
        """Make a request stream with one response and return that; make: begins the call.

        It must have one effect however often it is made: after a cut it is made again, for `seconds` at most.
        """

        async def once() -> Response:
            return await make(await self._ready())

        return await self._repeat(self._connection.retry_seconds if seconds is None else seconds, once)

    async def read(self, begin: Callable[[Stub], Stream[Response]]) -> AsyncGenerator[Response]:
        """Open a response stream, once, and yield its messages; begin: makes the call.

        A token that is refused at the beginning is replaced and the call made anew; one that expires in mid-stream is
        replaced, and the cut is told as Unavailable.
        """
        tokens = self._connection.tokens
        while True:
            used = await self._connection.token()
            call = begin(await self._ready())
            begun = False
            try:
                async for response in call:
                    begun = True
                    yield response
            except Unauthenticated as error:
                if tokens is None:
                    raise
                await tokens.renew(used)
                tokens = None
                if begun:
                    raise Unavailable("the access token expired during the stream", dependency="token") from error
            except Unavailable as error:
                raise self._connection.lost(self._name, error) from error
            else:
                return
            finally:
                call.cancel()


async def flatten(pages: AsyncIterator[AnyPage], rows: Callable[[AnyPage], Iterable[T]]) -> AsyncGenerator[T]:
    """Yield everything that stands on the pages; rows: takes it out of one."""
    async for page in pages:
        for item in rows(page):
            yield item
