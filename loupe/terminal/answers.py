r"""Answers as lines for programs: tab-separated on stdout, or a CSV file that spreadsheets open.

File names and labels are whatever people called them, so a field can forge nothing: in a line of tabs a tab, a newline,
a backslash and what steers a terminal are written as `\t`, `\n`, `\\`, `\x1b`, `\u202e`.

    >>> tsv_field("good\t1.0000\nforged.png"), tsv_field("C:\\new")
    ('good\\t1.0000\\nforged.png', 'C:\\\\new')
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from loupe.errors import AlreadyExists
from loupe.terminal.classifier import Prediction
from loupe.terminal.detector import Box, Detections
from loupe.terminal.escapes import escaped

LONGEST_FIELD = 1 << 20
"""No file name or label is longer."""
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""
COLUMNS = ("path", "label", "confidence", "likeliest", "problem", "true label", "explanation")


def tsv_field(value: object) -> str:
    """Return a text as one field of a line whose fields are separated by tabs; it can be read back."""
    return escaped(_text(value).replace("\\", "\\\\"), LONGEST_FIELD)


def tsv_line(prediction: Prediction, explanation: Path | None = None) -> str:
    """Return an answer as a line: path, label, confidence, and where its explanation is; or path and "error: …"."""
    fields = (prediction.label, f"{prediction.confidence:.4f}")
    return _line(prediction.path, prediction.problem, fields, explanation)


def detections_line(detections: Detections, drawing: Path | None = None) -> str:
    r"""Return an answer as a line: path, a field for each thing that was found, or "nothing", and where it is drawn.

    Such a field is the label, the confidence and the left, upper, right and lower edge in pixels of the upright
    picture. With a problem the line is path and "error: …".

        >>> from loupe.terminal.detector import Found
        >>> box = Box(12.2, 40.0, 87.9, 96.5)
        >>> detections_line(Detections(Path("a.png"), [Found("deep scratch", 0.93, box, box)]))
        'a.png\tdeep scratch 0.9300 12,40,88,96'
    """
    fields = [f"{one.label} {one.confidence:.4f} {_edges(one.pixels)}" for one in detections.found]
    return _line(detections.path, detections.problem, fields or ["nothing"], drawing)


def _edges(box: Box) -> str:
    return ",".join(f"{edge:.0f}" for edge in box)


def _line(path: Path, problem: str, answer: Sequence[str], more: Path | None) -> str:
    fields: list[object] = [path, *([f"error: {problem}"] if problem else answer)]
    if more is not None:
        fields.append(more)
    return "\t".join(map(tsv_field, fields))


class AnswerFile:
    """A CSV file of answers, which is complete after each batch.

    A new file replaces an old one; more: the answers are added to what an earlier run wrote. Raises OSError, and
    AlreadyExists for a file to add to that is no such list of answers.
    """

    def __init__(self, path: Path, *, more: bool = False) -> None:
        begun = more and path.exists() and path.stat().st_size > 0
        if begun:
            _check_header(path)
        self._file: TextIO = path.open("a" if more else "w", encoding="utf-8", newline="", errors="backslashreplace")
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not begun:
            self._rows.writerow(COLUMNS)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, answers: Sequence[tuple[Prediction, str, Path | None]]) -> None:
        """Write answers, each with its true label ("": not known) and its explanation, and let readers see them."""
        for one, true_label, explanation in answers:
            confidence = "" if one.problem else f"{one.confidence:.4f}"
            likeliest = _cell(one.likeliest)
            where = "" if explanation is None else _path_cell(explanation)
            row = (_path_cell(one.path), _cell(one.label), confidence, likeliest, _cell(one.problem), _cell(true_label))
            self._rows.writerow((*row, where))
        self._file.flush()


def _check_header(path: Path) -> None:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    if tuple(header) != COLUMNS:
        raise AlreadyExists(f"{path} is no list of answers of `loupe classify`; name another file", resource=path)


def _cell(text: str) -> str:
    """Return a text as a cell; an apostrophe keeps a spreadsheet from taking it for a formula."""
    shown = escaped(_text(text), LONGEST_FIELD)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def _path_cell(path: Path) -> str:
    shown = escaped(_text(path), LONGEST_FIELD)
    return f"./{shown}" if shown.startswith(FORMULA) else shown


def _text(value: object) -> str:
    """Return a text whose bytes of UTF-8 are letters, whatever the locale made of them."""
    text = str(value)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text
