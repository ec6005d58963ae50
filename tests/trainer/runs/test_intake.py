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
    assert intake.escape("x" * 100_000).endswith("x … (96040 characters more)")
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


@pytest.mark.parametrize("character", ["x", "\t", "\x1b", "零", "\U0001f600", "\U000e0001", "\ud800"])
def test_a_line_is_bounded_in_bytes(character: str) -> None:
    """Also one of characters of which each becomes ten, or takes four bytes."""
    for length in (0, 1, 399, 400, 4000, 100_000):
        shown = intake.escape(character * length)
        assert len(shown.encode()) <= intake.MAX_LINE
        assert bool(shown) == bool(length)
        assert ("characters more" in shown) == (len(intake.escape(character).encode()) * length > intake.MAX_LINE - 40)


def report(**content: object) -> dict:
    """Return what a run that finishes with this report sends."""
    return {"outcome": "plateau", "artifacts": {}, "report": content}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": ["good", "x" * 129]}, "has 129 characters"),
        ({"labels": ["good", "x" * 600_000]}, "has 600000 characters"),
        ({"labels": ["a\x1b[2Jb"]}, "control"),
        ({"labels": ["a\nb"]}, "control"),
        ({"labels": ["a\u202eb"]}, "invisible"),
        ({"labels": ["ok", ""]}, "is empty"),
        ({"labels": [str(number) for number in range(10_001)]}, "at most 10000"),
        ({"test": {"worst_classes": ["a\x07"]}}, "control"),
        ({"test": {"per_class": [{"label": "\x1b]0;x\x07"}]}}, "control"),
        ({"label_errors": [{"suggested": "x" * 200}]}, "has 200 characters"),
        ({"k" * 129: 1}, "key of 129 characters"),
        ({"note": "x" * 4001}, "text of 4001 characters"),
        ({"note": ["\x1b" * 3999] * 70}, "longer than"),
        ({"training_pictures": {str(number): 1 for number in range(10_001)}}, "10001 keys"),
        ({"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_report_out_of_all_bounds_is_refused(content: dict, words: str) -> None:
    """What one run says about itself takes no more of the mesh than a report does, and moves no terminal's cursor."""
    with pytest.raises(ProtocolBroken, match=words) as caught:
        intake.result(report(**content))
    assert len(str(caught.value)) < 500


def test_a_usual_report_goes_through_as_it_is() -> None:
    """Names in any script, with the joiners that it needs, and every number that JSON has."""
    usual = {
        "labels": ["gut", "零件", "\u0645\u06cc\u200c\u062e"],
        "test": {
            "accuracy": 0.5,
            "per_class": [{"label": "零件", "pictures": 3}],
            "confusion_matrix": [[1, 0], [0, 2]],
        },
        "training_pictures": {"gut": 1, "\u0645\u06cc\u200c\u062e": 2},
        "stopped": False,
        "nothing": None,
        "temperature": -1.5e300,
    }
    assert intake.result(report(**usual)).report == usual
    assert intake.result(report(huge=10**300, over=10**400, inf=float("inf"))).report == {
        "huge": 1e300, "over": None, "inf": None,
    }  # fmt: skip
    assert intake.result(report(**{"a\x1b": "b\nc\u202e"})).report == {"a\\x1b": "b\\nc\\u202e"}


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
