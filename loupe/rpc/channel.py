"""Channels: mutual TLS between services, TLS and a bearer token from terminals; failed calls raise domain errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from loupe.errors import Internal, Unavailable
from loupe.limits import MAX_MESSAGE_BYTES
from loupe.names import TrainerName, host_of
from loupe.rpc.status import from_rpc_error

if TYPE_CHECKING:
    from loupe.discovery import Discovery
    from loupe.settings import ServiceSettings

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

TLS_NAME = "grpc.ssl_target_name_override"
"""The channel option for the name that the server's certificate must have."""


class Certificates(Protocol):
    """Who a process is in mutual TLS, as PEM files; ServiceSettings is one."""

    @property
    def tls_ca(self) -> Path: ...
    @property
    def tls_cert(self) -> Path: ...
    @property
    def tls_key(self) -> Path: ...


TokenSource = Callable[[], Awaitable[str | None]]


class _Translate:
    """What the four client interceptors share: a bearer token on the way out, domain errors on the way back."""

    def __init__(self, token: TokenSource | None = None) -> None:
        self._token = token

    async def _prepare(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        token = await self._token() if self._token else None
        if token is None:
            return details
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {token}"))
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    async def _one(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        try:
            call = await continuation(await self._prepare(details), request)
            _understood(await call)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return call

    async def _many(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> AsyncIterator[Any]:
        call = await continuation(await self._prepare(details), request)

        async def responses() -> AsyncIterator[Any]:
            try:
                async for response in call:
                    yield _understood(response)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            finally:
                call.cancel()

        return responses()


def _understood(response: Any) -> Any:
    """Return a response. Raises Internal for bytes that are no such message: gRPC makes None of them."""
    if response is None:
        raise Internal("an answer came that is not the message that the contract names")
    return response


class _UnaryUnary(_Translate, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _Translate._one


class _UnaryStream(_Translate, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _Translate._many


class _StreamUnary(_Translate, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _Translate._one


class _StreamStream(_Translate, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _Translate._many


def _interceptors(token: TokenSource | None) -> list[grpc.aio.ClientInterceptor]:
    return [kind(token) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


def internal_channel(
    own: Certificates, address: str, *, service: str | TrainerName, token: TokenSource | None = None
) -> grpc.aio.Channel:
    """Open a mutual-TLS channel to the internal door of a service, or of a trainer, at "host:port".

    Whoever shows another certificate is not spoken to, whatever Consul says of the place: calls raise Unavailable.
    token: an attempt's token to send along, if any. Stream calls are to be read with `async for`.
    """
    credentials = grpc.ssl_channel_credentials(
        own.tls_ca.read_bytes(), own.tls_key.read_bytes(), own.tls_cert.read_bytes()
    )
    options = (*OPTIONS, (TLS_NAME, host_of(service)))
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=_interceptors(token))


def terminal_channel(address: str, *, ca: bytes, token: TokenSource | None = None) -> grpc.aio.Channel:
    """Open a TLS channel to a public door, "host:port"; `ca` is the mesh's authority in PEM.

    token is asked before every call; None sends none. Stream calls are to be read with `async for`.
    """
    credentials = grpc.ssl_channel_credentials(ca)
    return grpc.aio.secure_channel(address, credentials, options=OPTIONS, interceptors=_interceptors(token))


class ServiceChannels:
    """Finds other services through Consul and keeps a channel to each.

    token: sent along on every call, for a training attempt's channels.
    """

    def __init__(self, settings: ServiceSettings, discovery: Discovery, *, token: TokenSource | None = None) -> None:
        self._settings = settings
        self._discovery = discovery
        self._token = token
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}

    async def get(self, service: str) -> grpc.aio.Channel:
        """Return a channel to "auth", "storage" or "scheduler". Raises Unavailable while Consul knows none."""
        known = self._channels.get(service)
        if known is not None and known[1].get_state() in (
            grpc.ChannelConnectivity.READY,
            grpc.ChannelConnectivity.IDLE,
            grpc.ChannelConnectivity.CONNECTING,
        ):
            return known[1]
        instances = await self._discovery.instances(f"loupe-{service}")
        if not instances:
            raise Unavailable(f"no {service} service is known to Consul", dependency=service)
        address = instances[0].internal
        if known is not None:
            if known[0] == address:
                return known[1]
            await known[1].close()
        channel = internal_channel(self._settings, address, service=service, token=self._token)
        self._channels[service] = (address, channel)
        return channel

    async def close(self) -> None:
        """Close every channel."""
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()
