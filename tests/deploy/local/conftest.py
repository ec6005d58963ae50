"""A real Consul and a real NATS server, supervised, for the tests of the local deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.mesh import LocalMesh

TRAINERS = [("north", "a"), ("south", "b")]


@pytest.fixture(scope="session")
def infrastructure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """A mesh of Consul and NATS alone, shared by tests that leave both running."""
    mesh = LocalMesh(
        tmp_path_factory.mktemp("mesh") / "state", trainers=TRAINERS, processes=["consul", "nats"], lifeline=True
    )
    with mesh:
        yield mesh


@pytest.fixture
def nats_alone(tmp_path: Path) -> Iterator[LocalMesh]:
    """A mesh of NATS alone, not started: the quickest real process to start and to kill."""
    mesh = LocalMesh(tmp_path / "state", trainers=TRAINERS, processes=["nats"], lifeline=True)
    yield mesh
    mesh.stop()
