"""What a trainer's events and reports mean for a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from loupe.errors import AlgorithmFailed, AttemptUnknown
from loupe.trainer.v1.attempt_pb2 import (
    AttemptCheckpointed,
    AttemptEvent,
    AttemptFailed,
    AttemptFinished,
    AttemptProgress,
    AttemptStarted,
)
from services.scheduler.dispatch.attempt_events import absorb, batches
from services.scheduler.dispatch.publication import prepare
from services.scheduler.jobs.job import Bounds, State
from tests.scheduler.fakes import finished, report_json
from tests.scheduler.samples import NOW, make_job, running

BOUNDS = Bounds(3, 5)


def event(sequence: int, **what: object) -> AttemptEvent:
    return AttemptEvent(sequence=sequence, **what)


def test_events_become_one_change_with_the_move_at_the_end() -> None:
    """Started, progress, log and the result, in their order; a checkpoint is only counted."""
    job = running(make_job())
    change = absorb(
        job,
        [
            event(1, started=AttemptStarted(resumed=True)),
            event(2, progress=AttemptProgress(phase="head", step=4, metrics={"loss": 0.5})),
            event(3, log="hello"),
            event(4, checkpointed=AttemptCheckpointed(size=3)),
            event(5, finished=finished()),
        ],
        NOW,
        BOUNDS,
    )
    kinds = [each.WhichOneof("event") for each in change.events]
    assert kinds == ["state_change", "progress", "log", "state_change"]
    assert "goes on from its last checkpoint" in change.events[0].state_change.message
    after = change.after
    assert (after.state, after.trainer_sequence, after.progress.step) == (State.PUBLISHING, 5, 4)
    assert after.start_time == NOW and after.finished.outcome == "target_reached"


def test_events_that_the_job_has_are_left_out() -> None:
    """A replay after a cut writes nothing twice."""
    job = replace(running(make_job()), trainer_sequence=2)
    change = absorb(job, [event(1, log="a"), event(2, log="b"), event(3, log="c")], NOW, BOUNDS)
    assert [each.log for each in change.events] == ["c"] and change.after.trainer_sequence == 3


@pytest.mark.parametrize(
    ("reason", "retryable", "state", "counts"),
    [
        ("ALGORITHM_FAILED", True, State.QUEUED, (1, 0)),
        ("UNAVAILABLE", True, State.QUEUED, (0, 1)),
        ("BAD_DATASET", False, State.FAILED, (0, 0)),
    ],
)
def test_a_failure_is_a_crash_a_loss_or_final(
    reason: str, retryable: bool, state: State, counts: tuple[int, int]
) -> None:
    """A trainer that went away says nothing about the job."""
    failed = event(1, failed=AttemptFailed(reason=reason, message="m", retryable=retryable))
    after = absorb(running(make_job()), [failed], NOW, BOUNDS).after
    assert (after.state, (after.failures, after.losses)) == (state, counts)


async def test_batches_are_what_came_meanwhile_and_then_the_error() -> None:
    """Nothing that came before an error is lost."""

    async def source() -> AsyncIterator[AttemptEvent]:
        for sequence in range(1, 1201):
            yield event(sequence)
        raise AttemptUnknown("gone")

    received: list[int] = []
    sizes: list[int] = []
    with pytest.raises(AttemptUnknown):
        async for batch in batches(source()):
            received += [each.sequence for each in batch]
            sizes.append(len(batch))
            await asyncio.sleep(0)
    assert received == list(range(1, 1201)) and len(sizes) < 1200


def job_with(attempt_finished: AttemptFinished):
    return replace(running(make_job()), state=State.PUBLISHING, finished=attempt_finished)


def test_a_reached_target_is_released_with_its_figures() -> None:
    """Metrics, labels and lineage come from the report and the job."""
    result = finished()
    publication = prepare(job_with(result), result)
    assert publication.released and publication.model.labels == ["good", "scratch"]
    assert publication.model.metrics.test_accuracy_low == 0.9
    assert publication.model.lineage.parameters_json == json.dumps({"epochs": 30, "label": "零件"})
    assert publication.result.verdict.startswith("98.00 % of 40 validation pictures are right: the target of 95.00 %")


@pytest.mark.parametrize(("outcome", "accuracy"), [("plateau", 0.99), ("target_reached", 0.9499), ("budget", 0.5)])
def test_only_a_reached_target_is_released(outcome: str, accuracy: float) -> None:
    """Both the outcome and the figure must say so."""
    result = finished(outcome, accuracy)
    assert not prepare(job_with(result), result).released


def test_a_verdict_names_what_holds_it_back() -> None:
    """The hardest classes and the doubtful labels."""
    scores = {"accuracy": 0.8, "pictures": 10, "worst_classes": ["dent", "零件"]}
    result = finished("plateau")
    result.report_json = report_json(0.8, validation=scores, test=None, label_errors=[{"digest": "x"}])
    verdict = prepare(job_with(result), result).result.verdict
    assert "did not get better" in verdict and "Hardest to tell: dent, 零件." in verdict
    assert "1 label looks wrong" in verdict


def test_a_run_that_was_stopped_without_a_model_publishes_nothing() -> None:
    """There is a verdict, and no model."""
    publication = prepare(make_job(), AttemptFinished(outcome="stopped", report_json="{}"))
    assert publication.model is None and not publication.released and publication.result.verdict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        report_json(2.0),
        report_json(0.9, labels=[]),
        report_json(0.9, labels="good"),
        report_json(0.9).replace("0.9", "NaN", 1),
        report_json(0.9, validation=None),
    ],
)
def test_a_report_that_is_not_one_is_refused(text: str) -> None:
    """The report comes out of untrusted code: a clear error, nothing published."""
    result = finished()
    result.report_json = text
    with pytest.raises(AlgorithmFailed, match="report cannot be used"):
        prepare(job_with(result), result)
