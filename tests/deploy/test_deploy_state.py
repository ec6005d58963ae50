"""The state directory, mesh.json and the ports."""

from __future__ import annotations

import errno
import json
import random
import socket
import stat
from pathlib import Path

import pytest

from deploy.local.errors import PortTakenError, StateError
from deploy.local.files import ensure_secret, write_private
from deploy.local.ports import is_free, settle
from deploy.local.processes import port_names, ports_of
from deploy.local.state import Shape, StateDirectory, TrainerName


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


def test_a_secret_is_made_once_and_an_empty_one_again(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert ensure_secret(file, lambda: "first") == "first"
    assert ensure_secret(file, lambda: "second") == "first"
    file.write_text("\n", encoding="utf-8")  # what a full disk can leave behind
    assert ensure_secret(file, lambda: "third") == "third"


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "mesh.json"
    write_private(file, "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.json"]
    assert file.read_text(encoding="utf-8") == "old"


def test_the_shape_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.load() is None
    state.prepare()
    shape = Shape((TrainerName("north", "a"), TrainerName("south", "b")), 2, {"nats": 12000})
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
        TrainerName.parse(text)


def test_trainers_that_would_be_one_process_are_refused() -> None:
    with pytest.raises(StateError, match="trainer-a-b-c"):
        Shape((TrainerName("a-b", "c"), TrainerName("a", "b-c")), 1)


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


def test_ports_stay_and_are_all_different() -> None:
    wanted = port_names(["consul", "nats", "auth", "trainer-north-a"])
    first = settle(wanted, {}, frozenset(), False, random.Random(1))
    assert list(first) == wanted
    assert len(set(first.values())) == len(wanted)
    assert settle([*wanted, "storage-public"], first, frozenset(), False, random.Random(2)).items() >= first.items()


def test_a_port_that_another_process_of_the_mesh_has_is_not_picked() -> None:
    class Repeating(random.Random):
        picks = iter([20_011, 20_011, 20_012, 20_012, 20_013])

        def randint(self, a: int, b: int) -> int:
            return next(self.picks)

    # 20012 is kept for a process that does not run now, and will want it back.
    ports = settle(["nats", "auth-public"], {"storage-public": 20_012}, frozenset(), False, Repeating())
    assert ports == {"nats": 20_011, "auth-public": 20_013}


def test_a_taken_port_is_replaced_unless_others_wrote_it_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert not is_free(taken)
        kept = {"auth-public": taken}
        assert settle(kept, kept, frozenset(), False, random.Random(1))["auth-public"] != taken
        with pytest.raises(PortTakenError, match=f"{taken}.*auth-public"):
            settle(kept, kept, frozenset(kept), False, random.Random(1))
        # While the mesh runs, it is the mesh itself that listens there.
        assert settle(kept, kept, frozenset(kept), True, random.Random(1)) == kept


def test_each_process_finds_its_own_ports_only() -> None:
    ports = {"trainer-a-b-internal": 1, "trainer-a-b-c-internal": 2, "nats": 3, "auth-public": 4, "auth-internal": 5}
    assert ports_of("trainer-a-b", ports) == {"internal": 1}
    assert ports_of("nats", ports) == {"client": 3}
    assert ports_of("auth", ports) == {"public": 4, "internal": 5}
