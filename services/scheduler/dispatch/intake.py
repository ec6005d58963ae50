"""What a trainer tells of an attempt, checked: bounded and escaped before it becomes an event or a column.

What only serves people is cut and goes on; what a result rests on is refused as a whole.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import datetime, timedelta

from loupe.errors import AlgorithmFailed, InvalidArgument, LoupeError
from loupe.escapes import escaped
from loupe.names import check_sha256
from services.scheduler.clients.trainers import Artifact, FailedAttempt, FinishedAttempt, LogLine, Progress
from services.scheduler.jobs.job import MAX_MESSAGE, JobFailure

MAX_LOG_CHARACTERS = 8_192
MAX_LOG_BYTES = 16_384
MAX_REPORT_BYTES = 2 << 20
MAX_METRICS = 64
MAX_ARTIFACTS = 64
OUTCOMES = frozenset({"target_reached", "plateau", "budget", "stopped", "done"})
_MAX_WORD = 64
_MAX_PHASE = 32
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,63}")
_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MOST_APART = timedelta(days=1)


def time_of(told: datetime | None, begun: datetime, now: datetime) -> datetime:
    """Return when an event happened; `now` where the trainer's clock is off by more than a day for certain.

    told: None where it is no time at all. begun: when the job was submitted.
    """
    if told is None or not begun - _MOST_APART <= told <= now + _MOST_APART:
        return now
    return told


def log_line(told: LogLine) -> LogLine:
    """Return a line of output, escaped and cut."""
    return LogLine(escaped(told.text, MAX_LOG_CHARACTERS, MAX_LOG_BYTES))


def progress(told: Progress) -> Progress:
    """Return progress as people can read it: metrics that are no named finite figures are left out."""
    metrics = {name: value for name, value in told.metrics.items() if _METRIC.fullmatch(name) and math.isfinite(value)}
    return Progress(
        phase=escaped(told.phase, _MAX_PHASE),
        epoch=max(told.epoch, 0),
        step=max(told.step, 0),
        total_steps=max(told.total_steps, 0),
        metrics=dict(sorted(metrics.items())[:MAX_METRICS]) if len(metrics) > MAX_METRICS else metrics,
        message=escaped(told.message, MAX_MESSAGE),
    )


def failure(told: FailedAttempt) -> JobFailure:
    """Return why an attempt broke off. A reason that there is not becomes ALGORITHM_FAILED."""
    known = {kind.reason_name() for kind in LoupeError.registry.values()}
    reason = told.reason if told.reason in known else AlgorithmFailed.reason_name()
    return JobFailure(reason, escaped(told.message, MAX_MESSAGE))


def result(told: FinishedAttempt) -> FinishedAttempt:
    """Return what an attempt has brought. Raises AlgorithmFailed, which names the part that cannot be taken."""
    if told.outcome not in OUTCOMES:
        shown = escaped(told.outcome, _MAX_WORD)
        raise _refused("outcome", f"{shown!r} is none of {', '.join(sorted(OUTCOMES))}")
    if len(told.artifacts) > MAX_ARTIFACTS:
        raise _refused("artifacts", f"{len(told.artifacts)} files; at most {MAX_ARTIFACTS} are taken")
    for number, artifact in enumerate(told.artifacts):
        _check_artifact(f"artifacts.{number}", artifact)
    size = len(told.report_json.encode())
    if size > MAX_REPORT_BYTES:
        raise _refused("report", f"{size} bytes of JSON; at most {MAX_REPORT_BYTES} are taken")
    return replace(told, code_version=escaped(told.code_version, _MAX_WORD))


def _check_artifact(part: str, artifact: Artifact) -> None:
    if not _FILENAME.fullmatch(artifact.filename):
        raise _refused(f"{part}.filename", f"{escaped(artifact.filename, _MAX_WORD)!r} is no plain file name")
    try:
        check_sha256("digest", artifact.digest)
    except InvalidArgument as error:
        raise _refused(f"{part}.digest", "it is no sha256 in hex") from error
    if artifact.size < 0:
        raise _refused(f"{part}.size", f"{artifact.size} bytes")


def _refused(part: str, why: str) -> AlgorithmFailed:
    return AlgorithmFailed(f"the algorithm's result cannot be used: {part}: {why}", error=part)
