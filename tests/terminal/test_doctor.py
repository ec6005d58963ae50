"""`loupe doctor`: each thing that a terminal needs fails by itself, with advice; the exit code is the first one's."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loupe.terminal.doctor import Check, Doctor, Mark, issued_at, worst_exit_code
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh, certificate
from tests.terminal.test_cli import loupe  # noqa: F401 - a fixture


async def examined(store: ProfileStore, models: Path, **options: Any) -> dict[str, Check]:
    return {check.name: check for check in await Doctor(store, models, **options).examine()}


async def test_a_set_up_that_works(mesh: FakeMesh, store: ProfileStore, tmp_path: Path) -> None:
    before = store.load()
    found = await examined(store, tmp_path / "models")
    assert list(found) == [
        "profile", "authority", "server", "login", "clock", "storage", "scheduler", "progress", "disk", "inference",
        "text",
    ]  # fmt: skip
    for name in ("profile", "login", "disk", "inference"):
        assert found[name].mark is Mark.OK, found[name]
    # The fake mesh's certificate ends within the hour, and it has no NATS.
    assert found["authority"].mark is Mark.WARN and "ca.pem" in found["authority"].advice
    assert found["progress"].mark is Mark.WARN and "followed over the scheduler" in found["progress"].advice
    assert "onnxruntime" in found["inference"].seen
    assert mesh.refreshes == 1 and store.load().access_token != before.access_token


async def test_no_profile_skips_what_needs_one(tmp_path: Path) -> None:
    found = await examined(ProfileStore(tmp_path / "none.json"), tmp_path)
    assert found["profile"].mark is Mark.FAIL and "loupe login --server" in found["profile"].seen
    assert {found[name].mark for name in ("authority", "server", "login", "storage", "progress")} == {Mark.SKIP}
    assert found["disk"].mark is Mark.OK
    assert worst_exit_code(list(found.values())) == 5


@pytest.mark.parametrize(
    ("changes", "name", "words", "code"),
    [
        ({"server": "127.0.0.1:1"}, "server", "connection was refused", 7),
        ({"ca": certificate()[0].decode()}, "server", "not signed by the CA", 7),
        ({"ca": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"}, "authority", "no certificate", 8),
        ({"ca": ""}, "authority", "no certificate", 8),
        ({"server": "no address"}, "server", "expected HOST:PORT", 7),
        ({"access_token": "x", "refresh_token": "stolen"}, "login", "has ended", 5),
        ({"access_token": "", "refresh_token": ""}, "login", "loupe login ACCOUNT", 5),
    ],
)
async def test_what_is_wrong_is_named(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, *, changes: dict[str, str], name: str, words: str, code: int
) -> None:
    mesh.access_tokens.clear()
    store.save(replace(store.load(), access_expires=0.0, **changes))
    found = await examined(store, tmp_path)
    assert found[name].mark is Mark.FAIL and words in found[name].seen, found
    assert worst_exit_code(list(found.values())) == code


async def test_an_expired_authority_and_one_of_tomorrow_are_told(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path
) -> None:
    late = await examined(store, tmp_path, clock=lambda: time.time() + 40 * 86_400)
    assert late["authority"].mark is Mark.FAIL and "ended on" in late["authority"].seen
    early = await examined(store, tmp_path, clock=lambda: time.time() - 40 * 86_400)
    assert early["authority"].mark is Mark.FAIL and "clock" in early["authority"].seen


def token(issued: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"iat": issued}).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize(
    ("ahead", "mark", "words"),
    [
        (0.0, Mark.OK, "as the mesh's"),
        (20.0, Mark.WARN, "ahead of the mesh's"),
        (-20.0, Mark.WARN, "behind the mesh's"),
        (3600.0, Mark.FAIL, "ahead of the mesh's"),
        (-3600.0, Mark.FAIL, "behind the mesh's"),
    ],
)
async def test_a_clock_that_is_off_is_told(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, *, ahead: float, mark: Mark, words: str
) -> None:
    mesh.make_token = lambda: token(int(time.time()) - ahead)
    found = await examined(store, tmp_path)
    assert found["clock"].mark is mark and words in found["clock"].seen, found["clock"]


def test_tokens_of_other_kinds_have_no_time() -> None:
    assert issued_at(token(12.0)) == 12.0
    assert [issued_at(each) for each in ("", "a", "a.b.c", "a.e30.c", "a.W10.c", token("x"))] == [None] * 6  # type: ignore[arg-type]


async def test_a_folder_that_cannot_be_written_and_a_full_disk(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    found = await examined(store, tmp_path / "file" / "models")
    assert found["disk"].mark is Mark.FAIL and "--to FOLDER" in found["disk"].seen
    for free, mark in ((10**8, Mark.FAIL), (10**9, Mark.WARN), (10**11, Mark.OK)):
        usage = type("usage", (), {"free": free})
        monkeypatch.setattr("loupe.terminal.doctor.shutil.disk_usage", lambda place, usage=usage: usage)
        assert (await examined(store, tmp_path))["disk"].mark is mark


def test_the_command_prints_a_line_for_each_and_json(loupe: Callable[..., Any], store: ProfileStore) -> None:  # noqa: F811
    result = loupe("doctor")
    assert result.exit_code == 0, result.output
    assert "ok    login: accounts/anna" in result.stdout
    store.save(replace(store.load(), server="127.0.0.1:1"))
    result = loupe("doctor", "--json")
    value = json.loads(result.stdout)
    assert result.exit_code == value["exit_code"] == 7
    assert {one["mark"] for one in value["checks"]} <= {"ok", "warn", "fail", "skip"}
