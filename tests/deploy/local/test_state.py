"""The state directory, and what mesh.json remembers."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from deploy.local.errors import StateError
from deploy.local.files import ensure_secret
from deploy.local.state import Shape, StateDirectory, TrainerId


def test_directories_and_files_are_private(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "deep" / "mesh")
    state.prepare()
    state.of("storage")
    state.save(Shape((), 1, {"nats": 1234}), {})
    ensure_secret(state.secret("x"), lambda: "hidden")
    with state.locked():
        pass
    wrong = [
        path
        for path in (state.root.parent, state.root, *state.root.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert wrong == []


def test_the_shape_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.load() is None
    state.prepare()
    shape = Shape((TrainerId("north", "a"), TrainerId("south", "b")), 2, {"nats": 12000})
    state.save(shape, {"nats": "tls://127.0.0.1:12000"})
    assert StateDirectory(tmp_path).load() == shape
    assert json.loads(state.mesh_file.read_text())["endpoints"] == {"nats": "tls://127.0.0.1:12000"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"trainers": ["north"], "slots": 1, "ports": {}}'])
def test_a_damaged_mesh_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "mesh.json").write_text(content, encoding="utf-8")
    with pytest.raises(StateError, match=r"mesh\.json|no trainer"):
        StateDirectory(tmp_path).load()


@pytest.mark.parametrize("text", ["north", "north/", "/a", "North/a", "north/a/b", "north/a-", "../a/b", "no rth/a"])
def test_what_is_no_trainer_is_refused(text: str) -> None:
    with pytest.raises(StateError):
        TrainerId.parse(text)


def test_trainers_that_would_be_one_process_are_refused() -> None:
    with pytest.raises(StateError, match="trainer-a-b-c"):
        Shape((TrainerId("a-b", "c"), TrainerId("a", "b-c")), 1)


def test_two_commands_cannot_change_one_mesh_at_once(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.prepare()
    with state.locked(), pytest.raises(StateError, match="Another command"), StateDirectory(tmp_path).locked():
        pass
    with state.locked():
        pass


def test_the_supervisors_socket_fits_in_a_socket_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = StateDirectory(tmp_path / ("d" * 60) / ("e" * 60))
    deep.prepare()
    assert len(str(deep.socket)) < 107
    assert deep.socket != StateDirectory(tmp_path / ("d" * 60) / ("f" * 60)).socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(deep.socket))
