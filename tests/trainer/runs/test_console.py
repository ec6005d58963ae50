"""A run's output: lines, escaped and counted."""

from __future__ import annotations

from services.trainer.runs.console import LineSplitter, LogGate


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
