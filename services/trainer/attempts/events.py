"""What can happen in an attempt, and how it can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from loupe.algorithm.host import Outcome, Progress
from loupe.errors import DataLoss, LoupeError, Throttled, Unavailable
from services.trainer.clients.storage import StoredFile


@dataclass(frozen=True)
class Started:
    """The algorithm image runs. warm: a sandbox was waiting. resumed: it has a checkpoint to go on from."""

    warm: bool
    resumed: bool


@dataclass(frozen=True)
class Progressed:
    """One step of the run."""

    progress: Progress


@dataclass(frozen=True)
class Logged:
    """One line of output, escaped."""

    text: str


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint of so many bytes is durable."""

    size: int


@dataclass(frozen=True)
class Finished:
    """Ends an attempt with a result, which storage holds."""

    outcome: Outcome
    artifacts: tuple[StoredFile, ...]
    report: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Ends an attempt without a result. retryable: another attempt may succeed."""

    reason: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: LoupeError, *, retryable: bool) -> Failed:
        """Make it of a domain error."""
        return cls(error.reason_name(), error.message, retryable)


class RunFailed(Exception):
    """Ends an attempt without a result. retryable: where not given, the kind of error decides."""

    def __init__(self, error: LoupeError, *, retryable: bool | None = None) -> None:
        super().__init__(error.message)
        if retryable is None:
            retryable = isinstance(error, Unavailable | DataLoss | Throttled)
        self.failed = Failed.of(error, retryable=retryable)


Happening = Started | Progressed | Logged | Checkpointed | Finished | Failed


@dataclass(frozen=True)
class Event:
    """A happening with its place in the attempt: `sequence` counts from 1 without gaps."""

    sequence: int
    time: datetime
    what: Happening

    @property
    def characters(self) -> int:
        """How many characters of the run's it holds, about."""
        match self.what:
            case Logged(text):
                return len(text)
            case Progressed(progress):
                return len(progress.message) + sum(map(len, progress.metrics))
        return 0
