"""Ports for servers that a test opens later: none is given twice in a run, and each of pytest's workers has its own."""

from __future__ import annotations

import os

from deploy.local import ports

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class _NotOurs:
    """Ports that were given already, and those of the other workers."""

    def __init__(self) -> None:
        self.given: set[int] = set()

    def __contains__(self, port: object) -> bool:
        return port in self.given or (isinstance(port, int) and port % _WORKERS != _WORKER)


_not_ours = _NotOurs()


def free_port() -> int:
    """Return a port that nobody uses now and that no other test will get."""
    port = ports.free_port(_not_ours)
    _not_ours.given.add(port)
    return port
