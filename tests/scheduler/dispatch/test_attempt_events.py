"""What a trainer's events mean for a job."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import AlgorithmFailed, AttemptUnknown
from loupe.trainer.v1 import attempt_pb2
from loupe.trainer.v1.attempt_pb2 import AttemptCheckpointed, AttemptFailed, AttemptProgress, AttemptStarted
from services.scheduler.clients.trainers import AttemptEvent, unpack_event
from services.scheduler.dispatch.attempt_events import absorb, batches
from services.scheduler.dispatch.publication import prepare
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.rows import columns_of, row_of
from services.scheduler.jobs.states import State
from services.scheduler.jobs.transitions import Bounds
from tests.scheduler.fakes import finished
from tests.scheduler.samples import NOW, events_of, make_job, running

BOUNDS = Bounds(3, 5)


def event(sequence: int, **what: Any) -> AttemptEvent:
    return unpack_event(attempt_pb2.AttemptEvent(sequence=sequence, **what))


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
    told = events_of(change)
    kinds = [each.WhichOneof("event") for each in told]
    assert kinds == ["state_change", "progress", "log", "state_change"]
    assert "goes on from its last checkpoint" in told[0].state_change.message
    after = change.after
    assert (after.state, after.trainer_sequence, after.progress.step) == (State.PUBLISHING, 5, 4)
    assert after.start_time == NOW and after.finished.outcome == "target_reached"


def test_events_that_the_job_has_are_left_out() -> None:
    """A replay after a cut writes nothing twice."""
    job = replace(running(make_job()), trainer_sequence=2)
    change = absorb(job, [event(1, log="a"), event(2, log="b"), event(3, log="c")], NOW, BOUNDS)
    assert [each.log for each in events_of(change)] == ["c"] and change.after.trainer_sequence == 3


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


def lose_a_trainer(job: Job, *before: AttemptEvent) -> Job:
    """Give the job to a trainer that tells of so much and goes away."""
    gone = AttemptFailed(reason="UNAVAILABLE", message="it was shut down", retryable=True)
    told = [replace(each, sequence=number) for number, each in enumerate((*before, event(0, failed=gone)), start=1)]
    return absorb(running(job), told, NOW, BOUNDS).after


def test_losses_are_counted_since_the_last_checkpoint() -> None:
    """A job of days that loses a trainer a day and advances in between goes on; one that stands still is given up."""
    checkpoint = event(0, checkpointed=AttemptCheckpointed(size=3))
    step = event(0, progress=AttemptProgress(phase="head", step=1))
    job = make_job()
    for _ in range(20):
        job = lose_a_trainer(job, step, checkpoint, step)
        assert (job.state, job.losses) == (State.QUEUED, 1)
    for lost in range(2, BOUNDS.trainers + 1):
        assert job.state is State.QUEUED
        job = lose_a_trainer(job, step)  # from the beginning, or from the last checkpoint, and no further
        assert job.losses == lost
    assert job.state is State.FAILED and "5 trainers were lost" in job.failure.message


def test_crashes_are_counted_whatever_came_between() -> None:
    """A checkpoint says nothing about the algorithm."""
    crash = event(2, failed=AttemptFailed(reason="ALGORITHM_FAILED", message="m", retryable=True))
    job = make_job()
    for failures in range(1, BOUNDS.crashes + 1):
        told = [event(1, checkpointed=AttemptCheckpointed(size=3)), crash]
        job = absorb(running(job), told, NOW, BOUNDS).after
        assert job.failures == failures
    assert job.state is State.FAILED


def test_a_result_that_breaks_a_bound_fails_the_job_at_once() -> None:
    """Nothing of it becomes a column or an event."""
    result = finished()
    result.report_json = " " * (3 << 20)
    change = absorb(running(make_job()), [event(1, finished=result)], NOW, BOUNDS)
    assert change.after.state is State.FAILED and change.after.finished is None
    assert change.after.failure.reason == "ALGORITHM_FAILED"
    assert "report: 3145728 bytes of JSON; at most 2097152 are taken" in change.after.failure.message


def test_what_serves_people_is_cut_and_goes_on() -> None:
    """Lines, steps and figures of any size become events of a few kilobytes that steer no terminal."""
    evil = "\x1b]0;owned\x07\u202e" * 50_000
    metrics = {f"m{number}": 1.0 for number in range(10_000)} | {evil: 1.0, "nan": math.nan, "loss": 0.5}
    step = AttemptProgress(phase=evil, message=evil, metrics=metrics)
    change = absorb(running(make_job()), [event(1, log=evil), event(2, progress=step)], NOW, BOUNDS)
    line, progress = events_of(change)
    assert line.ByteSize() < 20_000 and progress.ByteSize() < 20_000
    for text in (line.log, progress.progress.phase, progress.progress.message):
        assert text.startswith(r"\x1b]0;owned\x07\u202e") and text.isprintable()
    assert change.after.progress.metrics["loss"] == 0.5 and "nan" not in change.after.progress.metrics


def test_times_that_there_are_not_become_the_schedulers_own() -> None:
    """Years 0, 1 and 9999, and nanoseconds of another planet."""
    strange = [(-62135596801, 0), (-62135596800, 0), (253402300799, 0), (2**63 - 1, 0), (-(2**63), 0), (0, 2**31 - 1)]
    job = running(make_job())
    told = [event(n, log="x", time=Timestamp(seconds=s, nanos=f)) for n, (s, f) in enumerate(strange, start=1)]
    events = absorb(job, told, NOW, BOUNDS).events
    assert [each.time for each in events] == [NOW] * len(strange)


TEXT = st.one_of(
    st.text(max_size=20), st.sampled_from(["x" * 600_000, "零" * 100_000, "\x1b]0;owned\x07\u202e" * 9_000])
)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
PROGRESS = st.builds(
    attempt_pb2.AttemptProgress,
    phase=TEXT,
    epoch=INT32,
    step=INT32,
    total_steps=INT32,
    metrics=st.dictionaries(st.text(max_size=80), st.floats(), max_size=100),
    message=TEXT,
)
REPORTS = st.one_of(
    TEXT,
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.fixed_dictionaries(
                {},
                optional={
                    "labels": st.lists(st.text(max_size=200), max_size=3),
                    "validation": inner,
                    "test": inner,
                    "accuracy": st.floats(0, 1),
                    "pictures": st.integers(),
                    "worst_classes": st.lists(st.text(), max_size=9),
                    "label_errors": st.lists(st.none(), max_size=3),
                },
            ),
        ),
    ).map(json.dumps),
)
CONTENT = st.one_of(
    st.builds(lambda: {"started": AttemptStarted()}),
    PROGRESS.map(lambda value: {"progress": value}),
    TEXT.map(lambda value: {"log": value}),
    st.just({}),
    st.just({"checkpointed": AttemptCheckpointed(size=-1)}),
    st.builds(
        lambda outcome, report, file, size: {
            "finished": attempt_pb2.AttemptFinished(
                outcome=outcome,
                report_json=report,
                artifacts=[attempt_pb2.Artifact(filename=file, digest="ab" * 32, size=size)],
            )
        },
        st.one_of(st.sampled_from(["target_reached", "plateau"]), TEXT),
        REPORTS,
        st.one_of(st.just("model.onnx"), TEXT),
        INT64,
    ),
    st.builds(
        lambda reason, message, retryable: {
            "failed": AttemptFailed(reason=reason, message=message, retryable=retryable)
        },
        TEXT,
        TEXT,
        st.booleans(),
    ),
)
EVENTS = st.builds(
    lambda sequence, seconds, nanos, content: attempt_pb2.AttemptEvent(
        sequence=sequence, time=Timestamp(seconds=seconds, nanos=nanos), **content
    ),
    st.one_of(st.integers(-3, 10), INT64),
    INT64,
    INT32,
    CONTENT,
)


@settings(deadline=None, max_examples=150)
@given(st.lists(EVENTS, max_size=6))
def test_whatever_a_trainer_tells_becomes_a_change_that_can_be_written(told: list[attempt_pb2.AttemptEvent]) -> None:
    """No event of a trainer is unexpected: each change packs, is small, and a result is published or refused."""
    job = running(make_job())
    change = absorb(job, [unpack_event(each) for each in told], NOW, BOUNDS)
    assert change.after.trainer_sequence >= job.trainer_sequence
    columns_of(change.written())
    row_of(change.after)
    for each in events_of(change):
        assert each.ByteSize() < 20_000
        assert abs(each.time.ToDatetime(UTC) - NOW) < timedelta(days=2)
        progress = each.progress
        assert all(map(math.isfinite, progress.metrics.values()))
        for text in (each.log, each.state_change.message, progress.phase, progress.message, *progress.metrics):
            assert "\x1b" not in text and "\u202e" not in text
    if change.after.finished is not None:
        try:
            result = prepare(change.after, change.after.finished).result
        except AlgorithmFailed as error:
            assert len(error.message) < 1_000
        else:
            assert len(result.verdict) <= 2_000 and result.verdict.isprintable()
            columns_of({"result": result})


async def test_a_hundred_thousand_events_pass_in_batches_without_piling_up() -> None:
    """The trainer is read as fast as its events are written, and no faster."""
    read = 0

    async def source() -> AsyncIterator[AttemptEvent]:
        nonlocal read
        for read in range(1, 100_001):
            yield AttemptEvent(read, NOW, None)

    job = running(make_job())
    async for batch in batches(source()):
        assert read - batch[-1].sequence <= 1_001
        job = absorb(job, batch, NOW, BOUNDS).after
    assert job.trainer_sequence == 100_000


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
