"""What somebody asks for when they submit a job, and what can be told to be wrong with it at first sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loupe.errors import invalid
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import check_id
from loupe.tasks.objective import Objective
from services.scheduler.jobs.annotations import Annotation
from services.scheduler.jobs.job import Job

MAX_SECONDS = 30 * 86400.0
_MAX_PRIORITY = 100


@dataclass(frozen=True)
class Origin:
    """The job that an order repeats. given: the parameters that the order gives itself.

    resumes: whether it goes on from the job's checkpoint, and does not begin anew.
    """

    job: Job
    given: frozenset[str] = frozenset()
    resumes: bool = False


@dataclass(frozen=True)
class Order:
    """What somebody asks for, as it came: empty text and None mean the default. origin: what it repeats."""

    parent: str
    dataset_version: str
    objective: Objective
    job_id: str = ""
    algorithm_version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    allow_small_validation: bool = False
    model: str = ""
    seed: int = 0
    priority: int = 0
    max_seconds: float | None = None
    max_epochs: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    base_model: str = ""
    origin: Origin | None = None
    kind: JobKind = JobKind.TRAIN
    pictures: PictureSelection | None = None

    @property
    def annotation(self) -> Annotation:
        """What is said of the job from its beginning."""
        return Annotation(self.labels, self.note)


def check_order(order: Order, parameter: int) -> None:
    """Raise InvalidArgument for the first figure or id that cannot be.

    parameter: the permission parameter with which the order was let in; nobody comes before others by more than that.
    """
    if order.job_id:
        check_id("job_id", order.job_id)
    if not 0 <= order.priority <= _MAX_PRIORITY:
        raise invalid("training_job.priority", order.priority, f"0 to {_MAX_PRIORITY}")
    if order.priority > parameter:
        bound = f"0 to {parameter}, the permission parameter of your group in this project"
        raise invalid("training_job.priority", order.priority, bound)
    if order.max_seconds is not None and not 0 < order.max_seconds <= MAX_SECONDS:
        raise invalid("training_job.max_duration", order.max_seconds, f"above 0 and at most {MAX_SECONDS:.0f} seconds")
    if order.max_epochs < 0:
        raise invalid("training_job.max_epochs", order.max_epochs, "0 for no bound, or a number from 1")
