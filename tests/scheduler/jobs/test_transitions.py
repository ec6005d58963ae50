"""The job's state machine, exhaustively, and the bounds on its attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from loupe.errors import FailedPrecondition
from loupe.scheduler.v1.training_job_pb2 import JobState
from services.scheduler.clients.trainers import FinishedAttempt
from services.scheduler.jobs.job import MAX_MESSAGE, Job, JobFailure, JobResult
from services.scheduler.jobs.states import FINAL, State, Trigger, next_state
from services.scheduler.jobs.transitions import (
    Bounds,
    Change,
    Loss,
    cancel,
    conclude,
    fail,
    finish,
    give_up_or_requeue,
    note,
    requeue,
    start,
)
from tests.scheduler.samples import NOW, events_of, in_state, make_job, placed, running

S, T = State, Trigger
EXPECTED = {
    S.QUEUED: {T.PLACE: S.DISPATCHING, T.CANCEL: S.CANCELLED},
    S.DISPATCHING: {T.START: S.RUNNING, T.REQUEUE: S.QUEUED, T.FAIL: S.FAILED, T.CANCEL: S.CANCELLED},
    S.RUNNING: {T.FINISH: S.PUBLISHING, T.REQUEUE: S.QUEUED, T.FAIL: S.FAILED, T.CANCEL: S.CANCELLED},
    S.PUBLISHING: {T.RELEASE: S.SUCCEEDED, T.MISS: S.TARGET_MISSED, T.FAIL: S.FAILED},
    S.SUCCEEDED: {},
    S.TARGET_MISSED: {},
    S.FAILED: {},
    S.CANCELLED: {},
}


def apply(job: Job, trigger: Trigger) -> Change:  # noqa: PLR0911
    """Do to a job what each trigger stands for."""
    match trigger:
        case Trigger.PLACE:
            return placed(job)
        case Trigger.START:
            return start(job, NOW)
        case Trigger.REQUEUE:
            return requeue(job, Loss.CRASH, "again", NOW)
        case Trigger.FINISH:
            return finish(job, FinishedAttempt(outcome="plateau"), NOW)
        case Trigger.RELEASE | Trigger.MISS:
            return conclude(job, JobResult(verdict="good"), trigger is Trigger.RELEASE, NOW)
        case Trigger.FAIL:
            return fail(job, "INTERNAL", "why", NOW)
        case Trigger.CANCEL:
            return cancel(job, "accounts/anna", NOW)


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", State)
def test_every_state_with_every_trigger(state: State, trigger: Trigger) -> None:
    """A trigger leads where the table says, or nowhere, and final states never change."""
    expected = EXPECTED[state].get(trigger)
    if expected is None:
        with pytest.raises(FailedPrecondition):
            next_state(state, trigger)
        with pytest.raises(FailedPrecondition):
            apply(in_state(state), trigger)
        return
    change = apply(in_state(state), trigger)
    assert change.after.state is expected
    assert events_of(change)[-1].state_change.state == int(expected)
    assert (change.after.end_time is not None) == (expected in FINAL)


def test_states_are_those_of_the_contract() -> None:
    """The numbers are the wire's."""
    assert {f"JOB_STATE_{state.name}": int(state) for state in State} == {
        name: number for name, number in JobState.items() if number
    }


def test_placing_counts_the_attempt_and_explains_it() -> None:
    """The event before the transition says why this trainer."""
    change = placed(make_job())
    assert change.after.attempt == 1 and change.after.trainer_sequence == 0
    assert [event.WhichOneof("event") for event in events_of(change)] == ["placement", "state_change"]


@pytest.mark.parametrize(("loss", "bound"), [(Loss.CRASH, 3), (Loss.TRAINER, 5)])
def test_attempts_are_bounded(loss: Loss, bound: int) -> None:
    """The third crash, or the fifth lost trainer, is the last one; its reason is the job's."""
    job = make_job()
    for number in range(1, bound + 1):
        why = JobFailure(reason="X", message=f"broken {number}")
        job = give_up_or_requeue(running(job), loss, why, NOW, Bounds(3, 5)).after
        assert job.state is (State.FAILED if number == bound else State.QUEUED)
    assert job.failure.reason == "X" and f"broken {bound}" in job.failure.message


def test_a_refusal_counts_against_nothing() -> None:
    """A busy trainer is nobody's fault."""
    job = requeue(placed(make_job()).after, Loss.NOTHING, "busy", NOW).after
    assert (job.failures, job.losses, job.attempt) == (0, 0, 1)


def test_a_change_writes_only_what_it_changed() -> None:
    """What others write meanwhile to other fields stays."""
    assert note(make_job(), "waits", NOW).written() == {"state_message": "waits"}
    job = running(make_job())
    assert "trainer_sequence" not in cancel(replace(job, trainer_sequence=7), "anna", NOW).written()


def test_the_final_event_leaves_the_report_out() -> None:
    """The report may be large; it is read with the job."""
    change = conclude(in_state(State.PUBLISHING), JobResult(verdict="v", report_json="{}"), True, NOW)
    told = events_of(change)
    assert told[0].state_change.result.verdict == "v"
    assert not told[0].state_change.result.report_json
    assert change.after.result.report_json == "{}"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: note(make_job(), text, NOW),
        lambda text: fail(in_state(State.RUNNING), "INTERNAL", text, NOW),
        lambda text: requeue(in_state(State.RUNNING), Loss.NOTHING, text, NOW),
        lambda text: conclude(in_state(State.PUBLISHING), JobResult(verdict=text), True, NOW),
    ],
)
def test_every_sentence_is_escaped_and_cut(change: Callable[[str], Change]) -> None:
    """Whoever it quotes: a trainer, an image, a service."""
    made = change("\x1b[2J" + "x" * 600_000)
    told = events_of(made)[-1].state_change
    for sentence in (made.after.state_message, told.message, told.failure.message):
        assert len(sentence) <= MAX_MESSAGE and "\x1b" not in sentence
    assert made.after.failure is None or made.after.failure.message == told.failure.message
