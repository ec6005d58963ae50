"""A storage service for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from loupe.settings import ServiceSettings
from services.storage.settings import StorageSettings
from tests.storage.house import Client, House, open_house


@pytest.fixture
def storage_settings(service_settings: Callable[..., ServiceSettings]) -> StorageSettings:
    """Settings with small packs, so that tests meet more than one."""
    settings = service_settings("storage", StorageSettings, pack_bytes=64 << 10)
    assert isinstance(settings, StorageSettings)
    return settings


@pytest.fixture
async def house(storage_settings: StorageSettings) -> AsyncIterator[House]:
    """A running storage service."""
    async with open_house(storage_settings) as running:
        yield running


@pytest.fixture
async def anna(house: House) -> Client:
    """The owner of projects/line-7."""
    return house.client("anna")


@pytest.fixture
async def eve(house: House) -> Client:
    """The owner of projects/other."""
    return house.client("eve")
