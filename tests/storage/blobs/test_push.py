"""A terminal pushes files to a real storage: through cuts, and with storage's own refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from loupe.errors import NotFound, PermissionDenied, ResourceExhausted
from loupe.terminal.blobs import Blobs
from loupe.terminal.connection import Connection
from services.storage.settings import StorageSettings
from tests.cutting_proxy import CuttingProxy
from tests.storage.house import LINE, OTHER, House, open_channel, open_house


class Direct(Connection):
    """The way to one storage, without an auth to ask."""

    def __init__(self, settings: StorageSettings, account: str = "anna", address: str = "") -> None:
        super().__init__(f"127.0.0.1:{settings.public_port}", settings.tls_ca.read_bytes())
        self._channel = open_channel(settings, account, address)

    async def token(self) -> str:
        return ""

    async def channel(self, service: str, *, logged_in: bool) -> grpc.aio.Channel:
        return self._channel

    async def aclose(self) -> None:
        await self._channel.close()


@pytest.fixture(autouse=True)
def own_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's memory of digests is not the one of whoever runs the tests."""
    monkeypatch.setattr("loupe.terminal.digests.default_file", lambda: tmp_path / "digests.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five MiB and a bit."""
    made = tmp_path / "weights.safetensors"
    made.write_bytes(hashlib.shake_128(b"weights").digest((5 << 20) + 17))
    return made


@pytest.mark.parametrize("budgets", [(), (100, 2_000_000, 3_000_000)])
async def test_what_was_pushed_is_there_whole(house: House, file: Path, budgets: Sequence[int]) -> None:
    """Also where the connection is cut again and again; a second push sends nothing."""
    proxy = CuttingProxy(house.settings.public_port, budgets)
    connection = Direct(house.settings, address=await proxy.start())
    try:
        (pushed,) = await Blobs(connection).push(LINE, [file])
        (again,) = await Blobs(connection).push(LINE, [file])
    finally:
        await connection.aclose()
        await proxy.close()
    assert (pushed.sent, again.sent, proxy.spent) == (True, False, True)
    assert hashlib.sha256((await house.client().download([pushed.digest]))[pushed.digest]).hexdigest() == pushed.digest


async def test_a_file_above_the_limit_is_refused_with_it(storage_settings: StorageSettings, file: Path) -> None:
    limited = storage_settings.model_copy(update={"max_blob_bytes": 5 << 20})
    async with open_house(limited) as house:
        connection = Direct(house.settings)
        with pytest.raises(ResourceExhausted, match=f"at most {5 << 20} are taken") as caught:
            await Blobs(connection).push(LINE, [file])
        await connection.aclose()
    assert caught.value.limit == "max_blob_bytes"


async def test_who_may_not_write_there_sends_nothing(house: House, file: Path) -> None:
    house.auth.levels["vera", "line-7"] = 10
    for account, project, error in (("vera", LINE, PermissionDenied), ("anna", OTHER, NotFound)):
        connection = Direct(house.settings, account)
        with pytest.raises(error):
            await Blobs(connection).push(project, [file])
        await connection.aclose()
