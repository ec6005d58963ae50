"""What a run sends, checked: nothing that comes out of a sandbox is believed before it went through here."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from loupe.algorithm.host import Outcome, Progress
from services.trainer.clients.storage import FILENAME
from services.trainer.sandbox.channel import ProtocolBroken

MAX_LINE = 4000
MAX_METRICS = 64
MAX_ARTIFACTS = 64
MAX_SIDE = 1024
MAX_TRACEBACK_LINES = 100
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
    """Return text as one line without control characters: they, and what turns a terminal's direction, are
    written as Python would write them."""
    shown = "".join(
        character if character.isprintable() else " " if character == "\t" else repr(character)[1:-1]
        for character in text[:MAX_LINE]
    )
    return shown if len(text) <= MAX_LINE else f"{shown} … ({len(text) - MAX_LINE} characters more)"


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
    return lines(_text(message, "text"))


def failure(message: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Read what the algorithm raised: one sentence, and the lines of the traceback. Raises ProtocolBroken."""
    sentence = f"{_text(message, 'error')}: {_text(message, 'text')}"
    return escape(" ".join(sentence.split())[:1000]), lines(_text(message, "traceback"))[-MAX_TRACEBACK_LINES:]


def size(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Read height and width of pictures, in pixels. Raises ProtocolBroken."""
    return _side(arguments.get("height")), _side(arguments.get("width"))


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
    try:
        cleaned = _clean(report)
    except RecursionError as error:
        raise ProtocolBroken("finish: the report is nested too deeply") from error
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


def _clean(value: Any) -> Any:
    """Write what JSON has no number for as null, and what UTF-8 has no bytes for as an escape."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


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
