"""What a run sends, refused where it must be."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from services.trainer.runs import intake
from services.trainer.sandbox.channel import ProtocolBroken

REPORT = {"phase": "train", "epoch": 1, "step": 2, "total_steps": 3, "metrics": {"loss": 1}, "message": "ok"}


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
        intake.result(arguments)


def test_a_report_has_only_numbers_that_json_has() -> None:
    result = intake.result({"outcome": "plateau", "artifacts": {}, "report": {"a": [float("nan"), 1.5]}})
    assert result.report == {"a": [None, 1.5]}


def test_a_report_can_always_be_sent_on() -> None:
    """Half characters become escapes, and what is nested too deeply is refused."""
    result = intake.result({"outcome": "plateau", "artifacts": {}, "report": {"\ud800": ["\udfff", "零件"]}})
    assert result.report == {"\\ud800": ["\\udfff", "零件"]}
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ProtocolBroken, match="nested too deeply"):
        intake.result({"outcome": "plateau", "artifacts": {}, "report": {"deep": deep}})


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
