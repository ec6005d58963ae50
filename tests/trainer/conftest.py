"""Sandboxes for the trainer's tests; those that need bubblewrap are skipped where it cannot run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.trainer.cache.decoders import Decoders
from services.trainer.sandbox.sandbox import NoSandbox, Sandbox
from tests.trainer.fakes import Rig, make_rig, make_sandbox
from tests.trainer.storage_door import Storage, serve_storage


@pytest.fixture(scope="session")
def bubblewrap(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    folder = tmp_path_factory.mktemp("bubblewrap")
    try:
        sandbox: Any = make_sandbox("bubblewrap", folder)
        with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
            thread.submit(asyncio.run, sandbox.probe(folder)).result()
    except NoSandbox as error:
        pytest.skip(f"bubblewrap does not run here: {error}")
    return sandbox


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return make_sandbox("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(params=["bubblewrap", "plain"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def rig(sandbox: Sandbox, tmp_path) -> AsyncIterator[Rig]:
    async with make_rig(sandbox, tmp_path) as rig:
        yield rig


@pytest.fixture
async def isolated(bubblewrap: Sandbox, tmp_path) -> AsyncIterator[Rig]:
    async with make_rig(bubblewrap, tmp_path) as rig:
        yield rig


@pytest.fixture
async def plain_rig(plain: Sandbox, tmp_path) -> AsyncIterator[Rig]:
    async with make_rig(plain, tmp_path) as rig:
        yield rig


@pytest.fixture
async def storage(service_settings) -> AsyncIterator[Storage]:
    async with serve_storage(service_settings("storage")) as storage:
        yield storage


@pytest.fixture
async def decoders(plain, tmp_path) -> AsyncIterator[Decoders]:
    decoders = Decoders(plain, tmp_path / "decoders", 0, 2)
    yield decoders
    await decoders.close()
