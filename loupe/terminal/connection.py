"""The way from a terminal to the mesh: one known address, the others asked from it, a token on every call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceStub
from loupe.backoff import Backoff
from loupe.errors import Unauthenticated, Unavailable
from loupe.rpc.channel import terminal_channel
from loupe.terminal.tokens import TokenKeeper

CALL_SECONDS = 60.0
RETRY_SECONDS = 6.0

Stub = type[Any]


class Connection:
    """Calls the services of one mesh for one login.

    server: "host:port" of auth's public door. ca: the mesh's authority, PEM. A call that finds its service away is
    tried again for `retry_seconds`, looking anew where the service is; a refused token is replaced once.
    """

    def __init__(self, server: str, ca: bytes, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self.server = server
        self.ca = ca
        self.tokens: TokenKeeper | None = None
        self._retry_seconds = retry_seconds
        self._anonymous = terminal_channel(server, ca=ca)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._endpoints: sessions.ListEndpointsResponse | None = None

    async def aclose(self) -> None:
        """Close every channel."""
        for channel in (self._anonymous, *self._channels.values()):
            await channel.close()
        self._channels.clear()

    async def call(self, stub: Stub, method: str, request: Any, *, again: bool = True) -> Any:
        """Make a unary call and return the response. Raises LoupeError.

        again=False is for calls that may not be made twice.
        """
        backoff = Backoff(self._retry_seconds if again else 0.0)
        renewed = False
        while True:
            used = await self.token()
            try:
                ready = await self._ready(stub)
                return await getattr(ready, method)(request, timeout=CALL_SECONDS)
            except Unauthenticated:
                if renewed or self.tokens is None:
                    raise
                renewed = True
                await self.tokens.renew(used)
            except Unavailable as error:
                self._endpoints = None
                await backoff.wait(self._away(stub, error))

    async def anonymous(self, method: str, request: Any, *, again: bool = False) -> Any:
        """Call auth's SessionService without a token; again=True is for calls that may be made twice."""
        backoff = Backoff(self._retry_seconds if again else 0.0)
        while True:
            try:
                return await getattr(SessionServiceStub(self._anonymous), method)(request, timeout=CALL_SECONDS)
            except Unavailable as error:
                await backoff.wait(self._away(SessionServiceStub, error))

    async def items(self, stub: Stub, method: str, request: Any, field: str) -> AsyncIterator[Any]:
        """List everything, page by page; field is the response's repeated field."""
        while True:
            page = await self.call(stub, method, request)
            for item in getattr(page, field):
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def read(
        self, stub: Stub, method: str, request: Any | Callable[[], AsyncIterator[Any]]
    ) -> AsyncIterator[Any]:
        """Open a response stream, once, and yield its messages. Raises LoupeError.

        request: the message, or for a request stream a function that begins it. A token that expires in mid-stream is
        replaced, and the cut is told as Unavailable.
        """
        renewed = False
        while True:
            used = await self.token()
            call = getattr(await self._ready(stub), method)(request() if callable(request) else request)
            begun = False
            try:
                async for response in call:
                    begun = True
                    yield response
            except Unauthenticated as error:
                if renewed or self.tokens is None:
                    raise
                renewed = True
                await self.tokens.renew(used)
                if begun:
                    raise Unavailable("the access token expired during the stream", dependency="token") from error
            except Unavailable as error:
                self._endpoints = None
                raise self._away(stub, error) from error
            else:
                return
            finally:
                call.cancel()

    async def send(
        self, stub: Stub, method: str, requests: Callable[[], AsyncIterator[Any]], seconds: float | None = None
    ) -> Any:
        """Make a request stream with one response and return that. Raises LoupeError.

        It must have one effect however often it is made: after a cut it is made again, for `seconds` at most.
        """
        backoff = Backoff(self._retry_seconds if seconds is None else seconds)
        renewed = False
        while True:
            used = await self.token()
            try:
                return await getattr(await self._ready(stub), method)(requests())
            except Unauthenticated:
                if renewed or self.tokens is None:
                    raise
                renewed = True
                await self.tokens.renew(used)
            except Unavailable as error:
                self._endpoints = None
                await backoff.wait(self._away(stub, error))

    async def token(self) -> str:
        """Return the access token. Raises Unauthenticated when nobody is logged in."""
        if self.tokens is None:
            raise Unauthenticated("not logged in; run `loupe login ACCOUNT`", problem="logged_out")
        return await self.tokens.token()

    async def endpoints(self) -> sessions.ListEndpointsResponse:
        """Return where the public doors are; asked once, and again after one was away."""
        if self._endpoints is None:
            self._endpoints = await self.anonymous("ListEndpoints", sessions.ListEndpointsRequest())
        return self._endpoints

    async def _ready(self, stub: Stub) -> Any:
        service = _service(stub)
        address = self.server if service == "auth" else getattr(await self.endpoints(), service)
        if not address:
            raise Unavailable(f"no {service} service is registered at {self.server}", dependency=service)
        if address not in self._channels:
            self._channels[address] = terminal_channel(address, ca=self.ca, token=self.token)
        return stub(self._channels[address])

    def _away(self, stub: Stub, error: Unavailable) -> Unavailable:
        if "status" not in error.metadata:
            return error
        service = _service(stub)
        return Unavailable(
            f"{service} cannot be reached through {self.server} ({error.message}); "
            "check that the mesh is up and the address is right",
            dependency=service,
        )


def _service(stub: Stub) -> str:
    return stub.__module__.split(".")[1]
