"""The inside end of the pipe between a run and its trainer."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from loupe.algorithm import pipe
from loupe.algorithm.pipe import MAX_MESSAGE, HostGone, HostRefused, PipeError, PipeHost


class Trainer:
    """The other end of a PipeHost, by hand."""

    def __init__(self, tmp_path: Path) -> None:
        self.ours, theirs = socket.socketpair()
        self.host = PipeHost(theirs, tmp_path / "data", tmp_path / "work")

    def send(self, message: dict) -> None:
        body = json.dumps(message).encode()
        self.ours.sendall(struct.pack(">I", len(body)) + body)


def test_the_host_hears_a_stop_without_waiting(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    assert not trainer.host.stop_requested()
    trainer.send({"type": "stop"})
    assert trainer.host.stop_requested() and trainer.host.stop_requested()


def test_a_stop_between_question_and_answer_is_not_lost(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.send({"type": "stop"})
    trainer.send({"type": "answer", "id": 1, "value": {"file": "p.npy"}})
    assert trainer.host.pictures(4, 4) == tmp_path / "data" / "p.npy"
    assert trainer.host.stop_requested()


def test_a_refusal_is_raised_where_it_was_asked_for(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.send({"type": "answer", "id": 1, "error": "no"})
    with pytest.raises(HostRefused, match="pictures: no"):
        trainer.host.pictures(4, 4)


def test_the_end_of_the_trainer_is_the_end_of_the_host(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.ours.close()
    with pytest.raises(HostGone):
        trainer.host.pictures(4, 4)
    with pytest.raises(HostGone):
        trainer.host.stop_requested()


def test_the_host_refuses_what_could_not_go_through(tmp_path: Path) -> None:
    """Paths outside and messages that are too large are refused at the algorithm's own line."""
    host = Trainer(tmp_path).host
    with pytest.raises(ValueError, match="outside the run's work folder"):
        host.save_checkpoint(Path("/etc"))
    with pytest.raises(ValueError, match="outside"):
        host.save_checkpoint(Path("../x"))
    with pytest.raises(PipeError, match="at most 1048576"):
        host._call("finish", report={"x": "y" * MAX_MESSAGE})


def test_what_is_imported_while_idle_ends_with_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that comes meanwhile waits for one module, not for all of them."""
    trainer = Trainer(tmp_path)
    imported: list[str] = []

    def import_module(name: str) -> None:
        imported.append(name)
        if name == "second":
            trainer.send({"type": "job"})

    monkeypatch.setattr(pipe.importlib, "import_module", import_module)
    pipe._import_while_idle(trainer.host, ["first", "", "second", "third"])
    assert imported == ["first", "second"]
    trainer.host.wait_for_job()
