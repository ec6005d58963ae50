"""What a run sends, checked: nothing that comes out of a sandbox is believed before it went through here."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from loupe.algorithm.host import Outcome, Progress
from loupe.algorithm.pipe import MAX_LOG, MAX_MESSAGE, MAX_TRACEBACK
from loupe.algorithm.region_file import RECORD, of_records
from loupe.labels import MAX_LENGTH, is_visible, normalise_label
from loupe.letterbox import FITS, Fit
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions
from services.trainer.clients.storage import FILENAME
from services.trainer.sandbox.channel import ProtocolBroken

MAX_LINE = 4000
"""Bytes of a line, in UTF-8 and as it is shown."""
MORE = 40
"""What is left of it for saying how much was cut off."""
MAX_METRICS = 64
MAX_ARTIFACTS = 64
MAX_SIDE = 1024
MAX_TRACEBACK_LINES = 100
MAX_REPORT_BYTES = MAX_MESSAGE
MAX_REPORT_DEPTH = 16
MAX_REPORT_KEYS = 10_000
MAX_REPORT_TEXT = 4000
MAX_CLASSES = 10_000
LABEL_FIELDS, LABEL_LISTS = ("label", "suggested"), ("labels", "worst_classes")
_HEADER_SLACK = 64
_PHASE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,63}")


@dataclass(frozen=True)
class Call:
    """A request of a run; `id` comes back with the answer."""

    id: int
    method: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ReportedResult:
    """What a run says that it made. artifacts: where each file lies below its work folder, by the file's name."""

    outcome: Outcome
    artifacts: Mapping[str, PurePosixPath]
    report: Mapping[str, Any]


def escape(text: str) -> str:
    """Return text as one line of at most MAX_LINE bytes without control characters: they, and what turns a terminal's
    direction, are written as Python would write them."""
    if text.isascii() and text.isprintable() and len(text) <= MAX_LINE - MORE:
        return text
    shown: list[str] = []
    left = MAX_LINE - MORE
    for character in text[:MAX_LINE]:
        word = character if character.isprintable() else " " if character == "\t" else repr(character)[1:-1]
        size = len(word.encode())
        if size > left:
            break
        left -= size
        shown.append(word)
    more = len(text) - len(shown)
    return "".join(shown) + (f" … ({more} characters more)" if more else "")


def lines(text: str) -> list[str]:
    """Return the text's lines, escaped, without empty ones."""
    return [escape(line) for line in text.splitlines() if line.strip()]


def progress(message: Mapping[str, Any]) -> Progress:
    """Read a report. Metrics that are not finite numbers are left out. Raises ProtocolBroken."""
    metrics = message.get("metrics")
    if not isinstance(metrics, dict) or len(metrics) > MAX_METRICS:
        raise ProtocolBroken(f"report: metrics must be an object of at most {MAX_METRICS} figures")
    for name, value in metrics.items():
        if not _METRIC.fullmatch(name) or isinstance(value, bool) or not isinstance(value, int | float):
            raise ProtocolBroken(f"report: the metric {escape(name[:80])!r} is not a named figure")
    phase = message.get("phase")
    if not isinstance(phase, str) or not _PHASE.fullmatch(phase):
        raise ProtocolBroken("report: phase must be a short word of lower-case letters, digits, '_' and '-'")
    return Progress(
        phase=phase,
        epoch=_count(message, "epoch"),
        step=_count(message, "step"),
        total_steps=_count(message, "total_steps"),
        metrics={name: float(value) for name, value in metrics.items() if _is_finite(value)},
        message=escape(_text(message, "message")),
    )


def call(message: Mapping[str, Any]) -> Call:
    """Read a request. Raises ProtocolBroken."""
    arguments = message.get("arguments")
    if not isinstance(arguments, dict):
        raise ProtocolBroken("call: arguments must be an object")
    return Call(_count(message, "id"), _text(message, "method"), arguments)


def log(message: Mapping[str, Any]) -> list[str]:
    """Read a log message: its lines, escaped. Raises ProtocolBroken."""
    text = _text(message, "text")
    more = [f"… {len(text) - MAX_LOG} characters of one message were left out"] if len(text) > MAX_LOG else []
    return lines(text[:MAX_LOG]) + more


def failure(message: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Read what the algorithm raised: one sentence, and the lines of the traceback. Raises ProtocolBroken."""
    sentence = f"{_text(message, 'error')}: {_text(message, 'text')}"
    trace = lines(_text(message, "traceback")[-MAX_TRACEBACK:])
    return escape(" ".join(sentence[:MAX_LOG].split())[:1000]), trace[-MAX_TRACEBACK_LINES:]


def size(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Read height and width of pictures, in pixels. Raises ProtocolBroken."""
    return _side(arguments.get("height")), _side(arguments.get("width"))


def answers(arguments: Mapping[str, Any], pictures: int, classes: int) -> np.ndarray:
    """Read what a model says of the test pictures: int64 [pictures], each below `classes`. Raises ProtocolBroken."""
    text = arguments.get("answers")
    try:
        packed = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError as error:
        raise ProtocolBroken("reveal_test: the answers must be base64") from error
    if len(packed) != 2 * pictures:
        raise ProtocolBroken(f"reveal_test: {len(packed) // 2} answers for {pictures} test pictures")
    said = np.frombuffer(packed, "<u2").astype(np.int64)
    if pictures and said.max() >= classes:
        raise ProtocolBroken(f"reveal_test: an answer is class {said.max()} of {classes}, counted from 0")
    return said


def fit(arguments: Mapping[str, Any]) -> Fit:
    """Read how pictures fill their height and width. Raises ProtocolBroken."""
    given = arguments.get("fit", FITS[0])
    for known in FITS:
        if known == given:
            return known
    raise ProtocolBroken(f"pictures: fit must be one of {', '.join(FITS)}")


def detections_bytes(pictures: int) -> int:
    """Return the most bytes that a file with detections in so many pictures has."""
    return len(_header(0)) + _HEADER_SLACK + pictures * MAX_DETECTIONS * RECORD.itemsize


def detections(path: Path, pictures: int, classes: int, *, method: str = "reveal_test") -> Regions:
    """Read what a model finds in pictures, as loupe.algorithm.region_file writes it, from a copy of the file.

    method: the call that it came with. Raises ProtocolBroken for a file that is anything but the bytes of such records,
    which nothing here interprets; for boxes in other pictures, of other classes or outside of 0..1; and for more than
    MAX_DETECTIONS of a picture.
    """
    records = _records(path, method)
    _check_places(records, pictures, classes, method)
    score = records["score"]
    if not ((score >= 0) & (score <= 1)).all():  # also catches NaN
        raise ProtocolBroken(f"{method}: scores must be numbers from 0 to 1")
    if np.bincount(records["picture"]).max(initial=0) > MAX_DETECTIONS:
        raise ProtocolBroken(f"{method}: a picture has more than {MAX_DETECTIONS} detections")
    return of_records(records, scored=True)


def whole_answers(path: Path, pictures: int, classes: int, *, bounded: bool = True) -> Regions:
    """Read what a model says of pictures as a whole, in the same form, ordered by picture: one answer for each.

    bounded: a score is how sure the answer is, 0..1; else any finite number. Raises ProtocolBroken.
    """
    records = _records(path, "answers")
    _check_places(records, pictures, classes, "answers")
    if len(records) != pictures or len(np.unique(records["picture"])) != pictures:
        raise ProtocolBroken(f"answers: {len(records)} answers for {pictures} pictures, of which each must have one")
    score = records["score"]
    if not np.isfinite(score).all() or (bounded and not ((score >= 0) & (score <= 1)).all()):
        expected = "a number from 0 to 1" if bounded else "a finite number"
        raise ProtocolBroken(f"answers: the score of an answer must be {expected}")
    return of_records(records, scored=True)


def _records(path: Path, method: str) -> np.ndarray:
    """Return a file's records. Raises ProtocolBroken for a file that is anything else."""
    content = path.read_bytes()
    count = max(0, len(content) - len(_header(0))) // RECORD.itemsize
    header = _header(count)
    if not content.startswith(header) or len(content) != len(header) + count * RECORD.itemsize:
        raise ProtocolBroken(f"{method}: the answers must be a .npy file of records {RECORD.descr}, and no more")
    return np.frombuffer(content, RECORD, offset=len(header))


def _check_places(records: np.ndarray, pictures: int, classes: int, method: str) -> None:
    """Raise ProtocolBroken unless each record has a picture, a class and a box that there can be."""
    inside = {"picture": pictures, "class": classes}
    for name, count in inside.items():
        if len(records) and not (records[name].min() >= 0 and records[name].max() < count):
            raise ProtocolBroken(f"{method}: an answer has a {name} that is none of {count}, counted from 0")
    box = records["box"]
    if not ((box[:, :2] <= box[:, 2:]).all() and ((box >= 0) & (box <= 1)).all()):  # also catches NaN
        raise ProtocolBroken(f"{method}: boxes must have numbers from 0 to 1, and their corners in order")


def _header(count: int) -> bytes:
    """Return how a .npy file of so many records begins."""
    written = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(RECORD), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(written, shape)
    return written.getvalue()


def result(arguments: Mapping[str, Any]) -> ReportedResult:
    """Read a result. Raises ProtocolBroken."""
    try:
        outcome = Outcome(str(arguments.get("outcome")))
    except ValueError as error:
        expected = ", ".join(Outcome)
        raise ProtocolBroken(f"finish: the outcome must be one of {expected}") from error
    artifacts, report = arguments.get("artifacts"), arguments.get("report")
    if not isinstance(artifacts, dict) or len(artifacts) > MAX_ARTIFACTS:
        raise ProtocolBroken(f"finish: artifacts must be an object of at most {MAX_ARTIFACTS} files")
    if not isinstance(report, dict):
        raise ProtocolBroken("finish: the report must be an object")
    for name in artifacts:
        if not FILENAME.fullmatch(name):
            raise ProtocolBroken(f"finish: {escape(name[:80])!r} cannot be an artifact's name")
    cleaned: dict[str, Any] = _clean(report)
    if len(json.dumps(cleaned, ensure_ascii=False).encode()) > MAX_REPORT_BYTES:
        raise ProtocolBroken(f"finish: the report is longer than {MAX_REPORT_BYTES} bytes")
    return ReportedResult(outcome, {name: relative(path) for name, path in artifacts.items()}, cleaned)


def relative(path: object) -> PurePosixPath:
    """Read a path below the work folder. Raises ProtocolBroken for any other."""
    parsed = PurePosixPath(path) if isinstance(path, str) and "\0" not in path and len(path) <= 1000 else None
    if parsed is None or parsed.is_absolute() or ".." in parsed.parts or not parsed.parts:
        shown = escape(str(path)[:200])
        raise ProtocolBroken(f"{shown!r} is not a path inside the work folder")
    return parsed


def _side(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
        raise ProtocolBroken(f"pictures: height and width must be whole numbers from 1 to {MAX_SIDE}")
    return value


def _is_finite(value: float) -> bool:
    return abs(value) <= sys.float_info.max


def _clean(value: Any, depth: int = 0) -> Any:
    """Return what a report holds as it may be sent on and shown. Raises ProtocolBroken for what is out of all bounds.

    What JSON has no number for becomes null, and what a person does not see is written out.
    """
    if depth > MAX_REPORT_DEPTH:
        raise ProtocolBroken(f"finish: the report is nested too deeply, more than {MAX_REPORT_DEPTH} levels")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return _visible(value)
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    return _object(value, depth)


def _object(value: dict[str, Any], depth: int) -> dict[str, Any]:
    if len(value) > MAX_REPORT_KEYS:
        raise ProtocolBroken(f"finish: an object of the report has {len(value)} keys; at most {MAX_REPORT_KEYS}")
    return {_key(key): _labels(key, item) or _clean(item, depth + 1) for key, item in value.items()}


def _number(value: float) -> float | None:
    """Return a number that every reader of JSON has; whole ones beyond 2**53 are rounded as they would be there."""
    if not _is_finite(value):
        return None
    return float(value) if abs(value) > 1 << 53 else value


def _labels(key: str, value: Any) -> Any:
    """Check what stands where the names of classes stand; return None where none do. Raises ProtocolBroken."""
    if key in LABEL_LISTS and isinstance(value, list):
        if len(value) > MAX_CLASSES:
            raise ProtocolBroken(f"finish: {key} has {len(value)} classes; at most {MAX_CLASSES}")
        return [_label(each) if isinstance(each, str) else _clean(each, MAX_REPORT_DEPTH) for each in value]
    return _label(value) if key in LABEL_FIELDS and isinstance(value, str) else None


def _label(value: str) -> str:
    try:
        return normalise_label(value)
    except ValueError as error:
        raise ProtocolBroken(f"finish: {escape(value[:80])!r} cannot be a label: it {error}") from error


def _key(key: str) -> str:
    """Return a key of an object; the name of a class may be one."""
    if len(key) > MAX_LENGTH:
        raise ProtocolBroken(f"finish: a key of {len(key)} characters in the report; at most {MAX_LENGTH}")
    return _visible(key)


def _visible(text: str) -> str:
    """Return text with what is hidden or moves a cursor written out; joiners, which some scripts need, are left."""
    if len(text) > MAX_REPORT_TEXT:
        raise ProtocolBroken(f"finish: a text of {len(text)} characters in the report; at most {MAX_REPORT_TEXT}")
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if is_visible(character) else repr(character)[1:-1] for character in text)


def _count(message: Mapping[str, Any], field: str) -> int:
    value = message.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ProtocolBroken(f"{field} must be a whole number from 0 to 2147483647")
    return value


def _text(message: Mapping[str, Any], field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str):
        raise ProtocolBroken(f"{field} must be text")
    return value
