"""The states of a training job, and which transitions there are."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from loupe.errors import FailedPrecondition


class State(enum.IntEnum):
    """Where a job stands; the numbers are those of JobState."""

    QUEUED = 1
    DISPATCHING = 2
    RUNNING = 3
    PUBLISHING = 4
    SUCCEEDED = 5
    TARGET_MISSED = 6
    FAILED = 7
    CANCELLED = 8


class Trigger(enum.Enum):
    """What moves a job from one state to another."""

    PLACE = "place"
    START = "start"
    REQUEUE = "requeue"
    FINISH = "finish"
    RELEASE = "release"
    MISS = "miss"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Mapping[tuple[State, Trigger], State] = {
    (State.QUEUED, Trigger.PLACE): State.DISPATCHING,
    (State.QUEUED, Trigger.CANCEL): State.CANCELLED,
    (State.DISPATCHING, Trigger.START): State.RUNNING,
    (State.DISPATCHING, Trigger.REQUEUE): State.QUEUED,
    (State.DISPATCHING, Trigger.FAIL): State.FAILED,
    (State.DISPATCHING, Trigger.CANCEL): State.CANCELLED,
    (State.RUNNING, Trigger.REQUEUE): State.QUEUED,
    (State.RUNNING, Trigger.FINISH): State.PUBLISHING,
    (State.RUNNING, Trigger.FAIL): State.FAILED,
    (State.RUNNING, Trigger.CANCEL): State.CANCELLED,
    (State.PUBLISHING, Trigger.RELEASE): State.SUCCEEDED,
    (State.PUBLISHING, Trigger.MISS): State.TARGET_MISSED,
    (State.PUBLISHING, Trigger.FAIL): State.FAILED,
}
"""Every transition there is; what is not here cannot happen."""

FINAL = frozenset({State.SUCCEEDED, State.TARGET_MISSED, State.FAILED, State.CANCELLED})
"""States that never change again."""

ACTIVE = frozenset({State.DISPATCHING, State.RUNNING, State.PUBLISHING})
"""States in which somebody drives the job."""

CANCELLABLE = frozenset(state for state, trigger in TRANSITIONS if trigger is Trigger.CANCEL)


def next_state(state: State, trigger: Trigger) -> State:
    """Return where a trigger leads. Raises FailedPrecondition where it leads nowhere."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise FailedPrecondition(f"a job that is {state.name} cannot {trigger.value}", state=state.name) from None
