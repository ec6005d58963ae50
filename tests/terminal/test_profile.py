"""The profile's file and its tokens: private, whole, and refreshed by one process at a time."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from loupe.errors import BadCredentials, FailedPrecondition, Unauthenticated, Unavailable
from loupe.names import AccountName
from loupe.terminal.client import Terminal
from loupe.terminal.locks import file_lock
from loupe.terminal.profile import Profile, ProfileStore, default_path
from tests.terminal.fake_mesh import FakeMesh, write_profile

PROFILE = Profile(server="127.0.0.1:1", ca="pem", access_token="secret-access", refresh_token="secret-refresh")


def test_the_file_is_private_and_comes_back(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "new" / "profile.json")
    store.save(PROFILE)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert store.load() == PROFILE
    assert [entry.name for entry in store.path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    store = ProfileStore(tmp_path / "profile.json")
    store.save(PROFILE)
    store.path.chmod(mode)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        store.load()


def test_no_profile_says_how_to_log_in(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated, match="loupe login --server"):
        ProfileStore(tmp_path / "profile.json").load()


def test_a_damaged_profile_is_told(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profile.json")
    store.save(PROFILE)
    store.path.write_text("[1, 2")
    with pytest.raises(FailedPrecondition, match="not a Loupe profile"):
        store.load()


def test_a_failed_save_leaves_the_old_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ProfileStore(tmp_path / "profile.json")
    store.save(PROFILE)

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        store.save(Profile("other:1", "pem"))
    assert store.load() == PROFILE
    assert [entry.name for entry in tmp_path.iterdir()] == ["profile.json"]


def test_tokens_do_not_stand_in_the_representation() -> None:
    assert "secret" not in repr(PROFILE)


def test_the_variable_names_the_file() -> None:
    assert default_path({"LOUPE_PROFILE": "/x/y.json"}) == Path("/x/y.json")


async def test_a_lock_that_stays_taken_is_told(tmp_path: Path) -> None:
    async with file_lock(tmp_path / "lock"):
        with pytest.raises(Unavailable, match="another process has held"):
            async with file_lock(tmp_path / "lock", seconds=0.2):
                pass


async def test_a_token_is_refreshed_before_it_expires(mesh: FakeMesh, tmp_path: Path) -> None:
    store = write_profile(mesh, tmp_path / "profile.json", access_expires=time.time() + 5)
    async with Terminal.connect(store) as loupe:
        assert (await loupe.sessions.who_am_i()).name == "accounts/anna"
    assert mesh.refreshes == 1
    assert store.load().refresh_token == mesh.refresh_token


async def test_a_refresh_whose_answer_is_lost_does_not_end_the_login(mesh: FakeMesh, tmp_path: Path) -> None:
    """The next one that asks, here in another process, sends the same request, and gets what the first one missed."""
    store = write_profile(mesh, tmp_path / "profile.json", access_expires=0.0)
    mesh.lost_refreshes = 1
    async with Terminal.connect(store, retry_seconds=0) as loupe:
        with pytest.raises(Unavailable):
            await loupe.sessions.who_am_i()
    assert store.load().refresh_token != mesh.refresh_token
    async with Terminal.connect(store) as loupe:
        assert (await loupe.sessions.who_am_i()).name == "accounts/anna"
    assert mesh.refreshes == 2
    assert (store.load().refresh_token, store.load().refresh_request) == (mesh.refresh_token, "")


async def test_a_refused_token_is_refreshed_once(mesh: FakeMesh, store: ProfileStore) -> None:
    mesh.access_tokens.clear()
    async with Terminal.connect(store) as loupe:
        await asyncio.gather(*(loupe.sessions.who_am_i() for _ in range(8)))
    assert mesh.refreshes == 1


async def test_an_ended_login_says_so_and_forgets_its_tokens(mesh: FakeMesh, store: ProfileStore) -> None:
    mesh.access_tokens.clear()
    mesh.refresh_token = "another"
    async with Terminal.connect(store) as loupe:
        with pytest.raises(Unauthenticated, match=r"has ended .*loupe login"):
            await loupe.sessions.who_am_i()
    assert store.load().refresh_token == ""


async def test_processes_take_turns_in_refreshing(mesh: FakeMesh, tmp_path: Path) -> None:
    """A replayed refresh token would revoke the login; the second process must see what the first one stored."""
    store = write_profile(mesh, tmp_path / "profile.json", access_expires=0.0)
    mesh.refresh_seconds = 0.3
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from loupe.terminal import ProfileStore, Terminal\n"
        "async def main():\n"
        "    async with Terminal.connect(ProfileStore(Path(sys.argv[1]))) as loupe:\n"
        "        print((await loupe.sessions.who_am_i()).name)\n"
        "asyncio.run(main())\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(store.path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    answers = [(await process.communicate())[0] for process in started]
    assert answers == [b"accounts/anna\n"] * 3
    assert mesh.refreshes == 1


async def test_login_with_a_wrong_password_keeps_the_old_login(mesh: FakeMesh, store: ProfileStore) -> None:

    before = store.load()
    async with Terminal.connect(store) as loupe:
        with pytest.raises(BadCredentials):
            await loupe.sessions.login(AccountName("anna"), "wrong")
    assert store.load() == before
