"""A whole mesh of real processes on free ports, people at terminals, and small pictures that can be told apart."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.local.mesh import LocalMesh
from loupe.names import AccountName
from loupe.terminal.client import Terminal
from loupe.terminal.profile import Profile, ProfileStore

LEASE_SECONDS = 4

OpenTerminal = Callable[..., AbstractAsyncContextManager[Terminal]]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Two clusters of one trainer each; short leases, so that a lost trainer is given up soon."""
    mesh = LocalMesh(
        tmp_path_factory.mktemp("mesh"),
        trainers=[("north", "a"), ("south", "b")],
        environment={"LOUPE_LEASE_SECONDS": str(LEASE_SECONDS)},
        lifeline=True,
    )
    with mesh:
        yield mesh


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """The passwords of the accounts that tests created, by account id."""
    return {}


@pytest.fixture
def terminal(mesh: LocalMesh, passwords: dict[str, str], tmp_path: Path) -> OpenTerminal:
    """A function that opens a terminal with somebody logged in; the administrator by default."""

    @contextlib.asynccontextmanager
    async def open_terminal(account: str = "admin") -> AsyncIterator[Terminal]:
        store = ProfileStore(tmp_path / f"profile-{account}.json")
        store.save(Profile(server=mesh.endpoints.auth, ca=mesh.endpoints.ca.read_text(encoding="utf-8")))
        password = mesh.endpoints.admin_password if account == "admin" else passwords[account]
        async with Terminal.connect(store, retry_seconds=30) as terminal:
            await terminal.sessions.login(AccountName(account), password)
            yield terminal

    return open_terminal


@pytest.fixture
async def project(terminal: OpenTerminal) -> str:
    """A new project of the administrator's, "projects/…"."""
    name = f"p{secrets.token_hex(6)}"
    async with terminal() as administrator:
        return (await administrator.projects.create(name)).name


@pytest.fixture
def hire(terminal: OpenTerminal, passwords: dict[str, str], project: str) -> Callable:
    """A function that creates an account in a group of the project and returns its id."""

    async def create(group: str) -> str:
        account = f"a{secrets.token_hex(6)}"
        passwords[account] = secrets.token_urlsafe(12)
        async with terminal() as administrator:
            await administrator.accounts.create(account, passwords[account], f"{project}/groups/{group}")
        return account

    return create


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 photographs-to-be, 64x64: stripes across, stripes along, and blots, all noisy."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:64, 0:64]
    for label in ("across", "along", "blots"):
        (folder / label).mkdir()
        for number in range(40):
            phase, period = random.uniform(0, 6.3), random.uniform(6, 12)
            wave = {
                "across": np.sin(rows * 6.3 / period + phase),
                "along": np.sin(columns * 6.3 / period + phase),
                "blots": np.sin(rows * 6.3 / period + phase) * np.sin(columns * 6.3 / period + phase),
            }[label]
            grey = 128 + 70 * wave + random.normal(0, 20, (64, 64))
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / label / f"{number:03d}.png")
    return folder
