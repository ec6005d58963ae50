"""The tasks: the kinds of questions that models answer. A new one is a module here and a row of this table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.tasks.objective import split_metric
from loupe.tasks.task import LabelCount, Task, UnfitVersion

_ALL: tuple[Task, ...] = (Classification(), Detection())

TASKS: Mapping[str, Task] = {each.name: each for each in _ALL}
"""Every task by its name."""

DEFAULT = _ALL[0]
"""The task of what names none."""


def task_for(metric: str, version: str, labels: Sequence[LabelCount]) -> Task:
    """Return the first task that a data set version can be trained for and that has the metric, any when it is empty.

    Where there is none, the first one that has the metric, else DEFAULT: its own check says best what is missing.
    """
    name, _ = split_metric(metric)
    asked = [each for each in _ALL if not name or name in each.metrics]
    for task in asked:
        try:
            task.check_version(version, labels)
        except UnfitVersion:
            continue
        return task
    return asked[0] if asked else DEFAULT
