"""What a run sends and hands over, refused where it must be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from pathlib import Path, PurePosixPath

import pytest

from loupe.algorithm.pipe import MAX_MESSAGE, HostGone, HostRefused, PipeError, PipeHost
from services.trainer.attempts.events import Failed
from services.trainer.runs import intake
from services.trainer.runs.channel import Channel, ProtocolBroken
from services.trainer.runs.console import LineSplitter, LogGate
from services.trainer.runs.rate import TokenBucket
from services.trainer.runs.work_folder import BadFile, WorkFolder
from tests.trainer.fakes import Rig

REPORT = {"phase": "train", "epoch": 1, "step": 2, "total_steps": 3, "metrics": {"loss": 1}, "message": "ok"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    return work


def folder(work: Path) -> WorkFolder:
    return WorkFolder(work, os.geteuid())


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "Train"},
        {"phase": ""},
        {"phase": 1},
        {"phase": "x" * 40},
        {"phase": "a\nb"},
        {"epoch": -1},
        {"epoch": 1 << 40},
        {"epoch": True},
        {"step": 1.5},
        {"total_steps": None},
        {"metrics": []},
        {"metrics": {"loss": "1"}},
        {"metrics": {"loss": True}},
        {"metrics": {"a b": 1}},
        {"metrics": {f"m{n}": 1 for n in range(100)}},
        {"message": 5},
        {"message": None},
    ],
)
def test_a_malformed_report_is_refused(changes: dict) -> None:
    assert intake.progress(REPORT).metrics == {"loss": 1.0}
    with pytest.raises(ProtocolBroken):
        intake.progress(REPORT | changes)


def test_what_is_shown_is_escaped() -> None:
    """Control characters, line breaks and what turns the direction are written out; other scripts are left alone."""
    assert intake.escape("零件 ok\x1b[31m\r\n\x07\u202e\u2028\ud800") == (
        "零件 ok\\x1b[31m\\r\\n\\x07\\u202e\\u2028\\ud800"
    )
    assert intake.lines("a\nb\r\n\n c\x00") == ["a", "b", " c\\x00"]
    assert len(intake.escape("x" * 100_000)) < 4100
    assert intake.progress(REPORT | {"message": "\x1b[2J"}).message == "\\x1b[2J"


@pytest.mark.parametrize("path", ["/etc/shadow", "../x", "a/../../x", "", ".", "a\0b", 5, None, "x" * 2000])
def test_a_path_outside_the_work_folder_is_refused(path: object) -> None:
    assert intake.relative("a/b.onnx") == PurePosixPath("a/b.onnx")
    with pytest.raises(ProtocolBroken):
        intake.relative(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"outcome": "great", "artifacts": {}, "report": {}},
        {"outcome": "plateau", "artifacts": [], "report": {}},
        {"outcome": "plateau", "artifacts": {"../x": "x"}, "report": {}},
        {"outcome": "plateau", "artifacts": {".hidden": "x"}, "report": {}},
        {"outcome": "plateau", "artifacts": {"x": "/etc/passwd"}, "report": {}},
        {"outcome": "plateau", "artifacts": {}, "report": []},
        {"outcome": "plateau", "artifacts": {f"f{n}": "x" for n in range(100)}, "report": {}},
    ],
)
def test_a_malformed_result_is_refused(arguments: dict) -> None:
    with pytest.raises(ProtocolBroken):
        intake.claim(arguments)


def test_a_report_has_only_numbers_that_json_has() -> None:
    claim = intake.claim({"outcome": "plateau", "artifacts": {}, "report": {"a": [float("nan"), 1.5]}})
    assert claim.report == {"a": [None, 1.5]}


def test_a_report_can_always_be_sent_on() -> None:
    """Half characters become escapes, and what is nested too deeply is refused."""
    claim = intake.claim({"outcome": "plateau", "artifacts": {}, "report": {"\ud800": ["\udfff", "零件"]}})
    assert claim.report == {"\\ud800": ["\\udfff", "零件"]}
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ProtocolBroken, match="nested too deeply"):
        intake.claim({"outcome": "plateau", "artifacts": {}, "report": {"deep": deep}})


def test_figures_that_are_no_figures_are_left_out() -> None:
    """NaN, infinity and whole numbers beyond every float end nothing."""
    metrics = {"a": float("nan"), "b": float("-inf"), "c": 10**400, "d": -2}
    assert intake.progress(REPORT | {"metrics": metrics}).metrics == {"d": -2.0}


def test_a_long_traceback_is_cut() -> None:
    sentence, trace = intake.failure({"error": "E", "text": "x\ny", "traceback": "line\n" * 100_000})
    assert (sentence, len(trace)) == ("E: x y", 100)


@pytest.mark.parametrize("height", [0, -1, 100_000, "64", 1.5, True, None])
def test_a_size_that_makes_no_sense_is_refused(height: object) -> None:
    with pytest.raises(ProtocolBroken):
        intake.size({"height": height, "width": 64})


def test_a_regular_file_is_copied_with_its_digest(work: Path, tmp_path: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "model.onnx").write_bytes(b"model")
    file = folder(work).collect(PurePosixPath("out/model.onnx"), "model.onnx", tmp_path / "staged", 100)
    assert (file.size, file.path.read_bytes()) == (5, b"model")
    assert file.digest == "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"


def _link(work: Path) -> None:
    (work / "x").symlink_to("/etc/hostname")


def _linked_folder(work: Path) -> None:
    (work / "a").symlink_to("/etc")


def _fifo(work: Path) -> None:
    os.mkfifo(work / "x")


def _folder(work: Path) -> None:
    (work / "x").mkdir()


def _large(work: Path) -> None:
    (work / "x").write_bytes(b"x" * 2000)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (_link, "x"),
        (_linked_folder, "a/hostname"),
        (_fifo, "x"),
        (_folder, "x"),
        (_large, "x"),
        (lambda work: None, "missing"),
    ],
)
def test_what_is_no_regular_file_of_its_own_is_refused(work: Path, tmp_path: Path, make, path: str) -> None:
    """Links at any step, pipes, folders, too large or missing files: none is followed, opened for ever, or copied."""
    make(work)
    with pytest.raises(BadFile):
        folder(work).collect(PurePosixPath(path), "x", tmp_path / "staged", 1000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else's")
def test_a_file_of_somebody_else_is_refused(work: Path, tmp_path: Path) -> None:
    (work / "x").write_text("x")
    with pytest.raises(BadFile, match="not a regular file of this run"):
        WorkFolder(work, 12345).collect(PurePosixPath("x"), "x", tmp_path / "staged", 1000)


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        (["state.json", "evil.pkl"], 1000),
        (["x.pt"], 1000),
        (["a.json", "b.json", "c.json"], 25),
        ([], 1000),
        ([f"{n}.json" for n in range(9)], 1000),
        (["bad\nname.json"], 1000),
    ],
)
def test_a_checkpoint_that_is_not_flat_safetensors_and_json_is_refused(
    work: Path, tmp_path: Path, names: list[str], limit: int
) -> None:
    (work / "c").mkdir()
    for name in names:
        (work / "c" / name).write_bytes(b"x" * 10)
    with pytest.raises(BadFile):
        folder(work).collect_folder(PurePosixPath("c"), tmp_path / "s", (".safetensors", ".json"), 8, limit)


def test_a_folder_in_a_checkpoint_is_refused(work: Path, tmp_path: Path) -> None:
    (work / "c" / "deep.json").mkdir(parents=True)
    with pytest.raises(BadFile):
        folder(work).collect_folder(PurePosixPath("c"), tmp_path / "s", (".json",), 8, 1000)


RAW = """
import json, os, struct, time
def send(host, body):
    host._pipe.sendall(struct.pack(">I", len(body)) + body)
def train(host):
    {action}
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("send(host, b'no json')", "not JSON"),
        ("send(host, b'[]')", "not a JSON object"),
        ("send(host, b'[' * 200_000)", "not JSON"),
        ("host._pipe.sendall(struct.pack('>I', 1 << 30))", "at most 1048576"),
        ("send(host, json.dumps({'type': 'root'}).encode())", "unknown type 'root'"),
        ("host._call('shell', command='id')", "unknown method 'shell'"),
        ("host._call('finish', outcome='plateau', artifacts={'x': '../../etc/shadow'}, report={})", "inside the work"),
        ("os.symlink('/etc/hostname', host.work / 'x'); host._call('finish', outcome='plateau', "
         "artifacts={'x': 'x'}, report={})", "is a link"),
        ("host.reveal_test(); host.reveal_test()", "asked for twice"),
        ("(host.work / 'c').mkdir(); (host.work / 'c' / 'x.json').touch(); host.reveal_test(); "
         "host.save_checkpoint(host.work / 'c')", "after the test labels"),
        ("(host.work / 'c').mkdir(); (host.work / 'c' / 'x.pkl').touch(); host.save_checkpoint(host.work / 'c')",
         "only .safetensors, .json"),
        ("host.pictures(100_000, 4)", "from 1 to 1024"),
    ],
)  # fmt: skip
async def test_a_run_that_breaks_the_rules_ends_with_the_reason(plain_rig: Rig, action: str, words: str) -> None:
    """Each breach ends that one attempt with a clear message, and another attempt would not help."""
    last = (await plain_rig.run(RAW.format(action=action)))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("ALGORITHM_FAILED", False), last
    assert words in last.message


async def test_a_message_cut_off_in_the_middle_is_refused() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, time.monotonic)
    theirs.sendall(struct.pack(">I", 100) + b"{")
    theirs.close()
    with pytest.raises(ProtocolBroken, match="in the middle"):
        await channel.receive()
    channel.close()
    ours.close()


async def test_a_fast_sender_is_read_no_faster_than_the_bound() -> None:
    """After the burst, the reader waits; the sender's own pipe fills, and nothing else happens."""
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, lambda: 0.0)
    channel._bucket = TokenBucket(rate=20, burst=5)
    body = json.dumps({"type": "log", "text": "x"}).encode()
    theirs.sendall((struct.pack(">I", len(body)) + body) * 10)
    received = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.18):
            while True:
                await channel.receive()
                received += 1
    assert 5 <= received <= 9
    channel.close()
    ours.close()
    theirs.close()


def test_a_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait == pytest.approx(0.5)
    assert [bucket.take(11.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_output_becomes_lines() -> None:
    """Characters may be cut anywhere, lines without end are cut, and the rest counts at the end."""
    splitter = LineSplitter()
    assert splitter.feed("零件\nab".encode()[:4]) == []
    assert splitter.feed("零件\nab".encode()[4:]) == ["零件"]
    assert splitter.feed(b"c\r\n\xff\x1b") == ["abc"]
    assert splitter.feed(b"", end=True) == ["\ufffd\\x1b"]
    assert len(LineSplitter().feed(b"x" * 100_000)) == 1


def test_left_out_lines_are_counted() -> None:
    gate = LogGate()
    admitted = gate.admit(["x"] * 1000, 0.0)
    assert len(admitted) == 200
    assert gate.admit(["y"], 1.0) == ["… 800 lines of output were left out", "y"]
    assert gate.rest() == []


class Trainer:
    """Trainer is the other end of a PipeHost, by hand."""

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
