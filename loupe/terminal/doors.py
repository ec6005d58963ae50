"""What stands behind an address: one of the mesh's public doors, another door, or something that is no Loupe at all.

gRPC says of all of these that the service is unavailable. Here the door is tried step by step - name, connection, TLS,
certificate, HTTP/2 - so that a person is told which step fails, and what would be right.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

SECONDS = 3.0
"""How long each step may take."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What an HTTP/2 client says first, with empty settings."""


_SETTINGS = 4
"""The type of an HTTP/2 frame of settings, with which a server begins."""
_OTHER_NAME = {62, 64}
"""OpenSSL's codes for a host name, and an address, that a certificate does not name."""
_CLOSED = "it closed the connection after the TLS handshake"


class State(Enum):
    """What was found behind an address; the value says what would be right."""

    OPEN = ""
    NO_ADDRESS = "expected HOST:PORT, as whoever runs the mesh gives it"
    UNKNOWN_HOST = "check the host's name, and this machine's DNS"
    REFUSED = "check that the mesh is up, and the port is that of auth's public door"
    SILENT = "check that the mesh is up and no firewall is between"
    NO_TLS = "use the port of auth's public door: what answers there speaks no TLS"
    OTHER_AUTHORITY = "take the CA file of this very mesh (ca.pem): `loupe login --ca FILE` stores it"
    EXPIRED = "check this machine's clock; else whoever runs the mesh has to renew the certificate"
    OTHER_HOST = "use a host name or address that its certificate names"
    INTERNAL_DOOR = "use the port of auth's public door: this one is for services only, a trainer's or an internal one"
    NOT_GRPC = "use the port of auth's public door: what answers there is another TLS server"


@dataclass(frozen=True)
class Door:
    """What was found: the state, what exactly was seen, the milliseconds to the first answer, the TLS version."""

    state: State
    seen: str = ""
    milliseconds: float = 0.0
    tls: str = ""
    certificate_ends: datetime | None = None


def split_address(address: str) -> tuple[str, int] | None:
    """Return host and port of "host:port" or "[v6]:port"; None for what is neither."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return host, int(port)


async def inspect_door(address: str, ca: str, seconds: float = SECONDS) -> Door:
    """Look what stands behind "host:port" for someone who trusts the authority `ca`, PEM text. Never raises."""
    place = split_address(address)
    if place is None:
        return Door(State.NO_ADDRESS, f"{address!r} is no address")
    try:
        context = ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        return Door(State.OTHER_AUTHORITY, f"the CA is no certificate ({error})")
    context.set_alpn_protocols(["h2"])
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(*place, ssl=context)
    except (OSError, TimeoutError, ssl.SSLError, UnicodeError) as error:
        return await _unopened(place, error, seconds)
    try:
        return await _talk(reader, writer, began, seconds)
    finally:
        writer.transport.abort()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float, seconds: float) -> Door:
    """Speak HTTP/2 as far as its settings: a door that wants a client's certificate refuses only then."""
    found = writer.get_extra_info("ssl_object")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(found.getpeercert()["notAfter"]), UTC)
    if found.selected_alpn_protocol() != "h2":
        return Door(State.NOT_GRPC, "it does not offer HTTP/2")
    try:
        writer.write(_PREFACE)
        async with asyncio.timeout(seconds):
            head = await reader.readexactly(9)
    except TimeoutError:
        return Door(State.SILENT, f"it said nothing for {seconds:.0f} s after the TLS handshake")
    except (OSError, asyncio.IncompleteReadError) as error:
        return Door(State.INTERNAL_DOOR, "it asks for the certificate of a service" if _asks(error) else _CLOSED)
    if head[3] != _SETTINGS:
        return Door(State.NOT_GRPC, "it does not speak HTTP/2")
    return Door(State.OPEN, "", 1e3 * (time.monotonic() - began), found.version() or "", ends)


async def _unopened(place: tuple[str, int], error: Exception, seconds: float) -> Door:
    """Return what keeps a TLS connection from being made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrusted(error)
    if _asks(error):
        return Door(State.INTERNAL_DOOR, "it asks for the certificate of a service")
    if isinstance(error, ConnectionRefusedError):
        return Door(State.REFUSED, "the connection was refused")
    if isinstance(error, (UnicodeError, socket.gaierror)):
        return Door(State.UNKNOWN_HOST, f"the host {place[0]!r} is not known")
    return await _mute(place, error, seconds)


async def _mute(place: tuple[str, int], error: Exception, seconds: float) -> Door:
    """Return what a server is that does not answer to TLS: one that speaks first tells it itself."""
    if not isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):
        return Door(State.SILENT, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    greeting = await _greeting(place, seconds)
    if isinstance(error, TimeoutError) and not greeting:
        return Door(State.SILENT, "no answer")
    return Door(State.NO_TLS, f"it says {greeting!r}" if greeting else "it does not speak TLS")


def _distrusted(error: ssl.SSLCertVerificationError) -> Door:
    said = error.verify_message
    if "expired" in said or "not yet valid" in said:
        return Door(State.EXPIRED, f"its certificate is not valid now ({said})")
    if error.verify_code in _OTHER_NAME:
        return Door(State.OTHER_HOST, said.rstrip("."))
    return Door(State.OTHER_AUTHORITY, f"its certificate was not signed by the CA ({said})")


def _asks(error: Exception) -> bool:
    """Tell whether a server refused since no client's certificate was shown."""
    return isinstance(error, ssl.SSLError) and any(
        each in str(error) for each in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
    )


async def _greeting(place: tuple[str, int], seconds: float) -> str:
    """Return the first words of a server that speaks before it is asked, as NATS, SSH and mail do; else nothing."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(min(seconds, 1.0)):
            reader, writer = await asyncio.open_connection(*place)
            try:
                return (await reader.read(40)).decode("utf-8", "backslashreplace").strip()
            finally:
                writer.transport.abort()
    return ""


async def explain_unavailable(address: str, ca: str) -> str:
    """Return one sentence on why an address cannot be used, and what would be right; nothing when the door is open."""
    door = await inspect_door(address, ca)
    if door.state is State.OPEN:
        return ""
    return f"{door.seen}; {door.state.value}"
