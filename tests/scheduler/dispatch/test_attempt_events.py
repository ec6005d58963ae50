"""What a trainer's events mean for a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from loupe.errors import AttemptUnknown
from loupe.trainer.v1 import attempt_pb2
from loupe.trainer.v1.attempt_pb2 import AttemptCheckpointed, AttemptFailed, AttemptProgress, AttemptStarted
from services.scheduler.clients.trainers import AttemptEvent, unpack_event
from services.scheduler.dispatch.attempt_events import absorb, batches
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
