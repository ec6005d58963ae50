"""Answers as lines: whatever a label or a file is called, it is one line, one row, and can be read back."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from loupe import errors
from loupe.terminal.answers import AnswerFile, tsv_field, tsv_line
from loupe.terminal.classifier import Prediction

FORGED = "good\t1.0000\n/line-7/part-0815.png\tgood\t1.0000\x1b[1A"


def read_back(field: str) -> str:
    return field.encode("latin-1", "backslashreplace").decode("unicode_escape")


@pytest.mark.parametrize(
    "text",
    [
        FORGED,
        "a\\tb",
        "C:\\new\\x.png",
        "\r",
        "\u2028",
        "\x85",
        "\u202egnp.exe",
        "\x9b2J",
        "\x7f",
        "零件 ok",
        "prüf",
        "",
    ],
)
def test_a_field_stays_one_field_and_can_be_read_back(text: str) -> None:
    field = tsv_field(text)
    assert len(field.splitlines()) <= 1 and "\t" not in field and "\x1b" not in field and "\u202e" not in field
    assert read_back(field) == text


def test_an_answer_is_one_line_with_its_own_fields() -> None:
    line = tsv_line(Prediction(Path("a\tb\n.png"), FORGED, 0.5))
    assert line.split("\t")[0] == "a\\tb\\n.png" and line.split("\t")[2] == "0.5000"
    assert len(line.split("\t")) == 3 and len(line.splitlines()) == 1
    broken = tsv_line(Prediction(Path("a.png"), problem="cut\toff"), None)
    assert broken == "a.png\terror: cut\\toff"


def test_bytes_that_are_no_text_are_shown_and_kept() -> None:
    name = os.fsdecode(b"pr\xfcf.png")
    assert tsv_field(Path(name)) == "pr\\udcfcf.png"
    assert tsv_field(Path("pr\udcc3\udcbcf.png")) == "prüf.png"  # UTF-8 under a locale that does not know it


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_csv_file_has_a_row_an_answer_and_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    file = AnswerFile(path)
    file.add([(Prediction(Path("=1+1.png"), "=cmd()", 0.25, likeliest="=cmd()"), "-2", None)])
    file.add([(Prediction(Path('a,"b\n.png'), problem="cut off"), "", Path("why/a.png"))])
    header, first, second = rows(path)  # before it is closed: readers see every batch
    file.close()
    assert header[:3] == ["path", "label", "confidence"]
    assert first == ["./=1+1.png", "'=cmd()", "0.2500", "'=cmd()", "", "'-2", ""]
    assert second == ['a,"b\\n.png', "", "", "", "cut off", "", "why/a.png"]


def test_a_watch_adds_to_its_file_and_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    for name in ("1.png", "2.png"):
        file = AnswerFile(path, more=True)
        file.add([(Prediction(Path(name), "ok", 1.0), "", None)])
        file.close()
    assert [row[0] for row in rows(path)] == ["path", "1.png", "2.png"]
    other = tmp_path / "thesis.csv"
    other.write_text("chapter,title\n")
    with pytest.raises(errors.AlreadyExists, match="no list of answers"):
        AnswerFile(other, more=True)
    assert other.read_text() == "chapter,title\n"
