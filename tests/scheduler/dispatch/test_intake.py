"""What a trainer tells is bounded and escaped, whoever the trainer is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loupe.errors import AlgorithmFailed
from services.scheduler.clients.trainers import Artifact, FailedAttempt, LogLine, Progress, unpack_finished
from services.scheduler.dispatch import intake
from services.scheduler.jobs.job import MAX_MESSAGE
from tests.scheduler.fakes import DIGEST, finished
from tests.scheduler.samples import NOW

GOOD = unpack_finished(finished())


@pytest.mark.parametrize("character", ["x", "零", "\U000e0001", "\x1b", "𝄞"])
def test_a_log_line_is_bounded_by_characters_and_by_bytes(character: str) -> None:
    """However its characters are written."""
    line = intake.log_line(LogLine(character * 1_000_000)).text
    assert len(line) <= intake.MAX_LOG_CHARACTERS and len(line.encode()) <= intake.MAX_LOG_BYTES
    assert line.isprintable()


def test_metrics_are_named_finite_figures_and_not_too_many() -> None:
    """What is none is left out; the rest of the progress stays."""
    odd = {"loss": 0.5, "nan": float("nan"), "inf": float("inf"), "a\x1bb": 1.0, "x" * 65: 1.0, "": 1.0}
    told = Progress("he\nad", -1, 3, -2, odd, "m" * 10_000)
    taken = intake.progress(told)
    assert taken.metrics == {"loss": 0.5}
    assert (taken.phase, taken.epoch, taken.step, taken.total_steps) == (r"he\nad", 0, 3, 0)
    assert len(taken.message) == MAX_MESSAGE
    many = intake.progress(Progress(metrics={f"m{number}": 1.0 for number in range(10_000)}))
    assert len(many.metrics) == intake.MAX_METRICS


def test_a_failure_has_a_reason_that_there_is_and_a_sentence() -> None:
    """A made-up reason becomes ALGORITHM_FAILED."""
    taken = intake.failure(FailedAttempt("x" * 600_000, "\x1b[2J" + "y" * 600_000, False))
    assert taken.reason == "ALGORITHM_FAILED" and len(taken.message) == MAX_MESSAGE and "\x1b" not in taken.message
    assert intake.failure(FailedAttempt("UNAVAILABLE", "m", True)).reason == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"outcome": "x" * 600_000}, "outcome"),
        ({"outcome": ""}, "outcome"),
        ({"report_json": '"' + "x" * intake.MAX_REPORT_BYTES + '"'}, "report"),
        ({"report_json": '"' + "零" * (intake.MAX_REPORT_BYTES // 3 + 1) + '"'}, "report"),
        ({"artifacts": GOOD.artifacts * 65}, "artifacts"),
        ({"artifacts": (Artifact("../x", DIGEST, 1),)}, "artifacts.0.filename"),
        ({"artifacts": (*GOOD.artifacts, Artifact("m" * 600_000, DIGEST, 1))}, "artifacts.1.filename"),
        ({"artifacts": (Artifact("m", "AB" * 32, 1),)}, "artifacts.0.digest"),
        ({"artifacts": (Artifact("m", DIGEST, -1),)}, "artifacts.0.size"),
    ],
)
def test_a_result_that_breaks_a_bound_is_refused_by_the_name_of_the_part(changes: dict[str, Any], part: str) -> None:
    """One clear sentence, short whatever came."""
    with pytest.raises(AlgorithmFailed) as caught:
        intake.result(replace(GOOD, **changes))
    assert caught.value.error == part and f": {part}: " in caught.value.message
    assert len(caught.value.message) < 300


def test_a_result_as_it_should_be_is_taken_as_it_is() -> None:
    """Nothing of it is changed."""
    assert intake.result(GOOD) == GOOD


def test_a_clock_that_is_off_is_not_believed() -> None:
    """Years 1 and 9999, and no time at all: the scheduler's own; a trainer that is a little ahead is believed."""
    begun = NOW - timedelta(days=3)
    for told in (None, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert intake.time_of(told, begun, NOW) == NOW
    for told in (begun, NOW - timedelta(days=2), NOW + timedelta(minutes=5)):
        assert intake.time_of(told, begun, NOW) == told
