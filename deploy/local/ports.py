"""Loopback ports that stay the same over restarts."""

from __future__ import annotations

import random
import socket
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from deploy.local.errors import PortTakenError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_240


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a TCP and a UDP server could listen on `port` now."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                # As servers do: a connection of the last run in TIME_WAIT does not make a port taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
            except OSError:
                return False
    return True


def settle(
    wanted: Iterable[str],
    kept: Mapping[str, int],
    fixed: frozenset[str],
    running: bool,
    source: random.Random,
) -> dict[str, int]:
    """Return a port for every wanted name: the kept one where there is one, else a free one.

    While the mesh is running its kept ports are its own. Otherwise a kept port that somebody else uses is
    replaced, except the `fixed` ones, which others have written down: PortTakenError.
    """
    ports: dict[str, int] = {}
    for name in wanted:
        port = kept.get(name)
        if port is not None and not running and not is_free(port):
            if name in fixed:
                raise PortTakenError(
                    f"Port {port}, which this mesh uses for {name}, is taken by another program. "
                    f"End that program (`ss -ltnp 'sport = :{port}'` names it), or start with a new state directory."
                )
            port = None
        ports[name] = port if port is not None else free_port({*kept.values(), *ports.values()}, source)
    return ports


def free_port(avoid: Container[int] = (), source: random.Random = random.SystemRandom()) -> int:  # noqa: B008
    """Return a port that nobody uses now. Raises PortTakenError when there is none.

    It stays below the range that the kernel lends to outgoing connections: those could sit on a port of ours.
    """
    highest = 32_767
    if _EPHEMERAL.exists():
        first = int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
        highest = first - 1 if first > _LOWEST + 1000 else 60_000
    for _ in range(1000):
        port = source.randint(_LOWEST, highest)
        if port not in avoid and is_free(port):
            return port
    raise PortTakenError(f"No free loopback port was found between {_LOWEST} and {highest}.")
