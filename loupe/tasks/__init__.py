"""The tasks: the kinds of questions that models answer. A new one is a module here and a row of this table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loupe.tasks.anomaly import Anomaly
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.tasks.objective import split_metric
from loupe.tasks.task import LabelCount, Task, UnfitVersion

_IMPLIED: tuple[Task, ...] = (Classification(), Detection())
"""Those that follow from what is labelled; others are taken where they are asked for."""
_ALL: tuple[Task, ...] = (*_IMPLIED, Anomaly())

TASKS: Mapping[str, Task] = {each.name: each for each in _ALL}
"""Every task by its name."""

DEFAULT = _ALL[0]
"""The task of what names none."""


def task_for(metric: str, version: str, labels: Sequence[LabelCount], *, by_class: bool = False) -> Task:
    """Return the first task that a data set version can be trained for and that has the metric.

    An empty metric is any of a task that follows from what is labelled. Where there is none, the first one that has the
    metric, else DEFAULT: its own check says best what is missing. by_class: see Task.check_version.
    """
    name, label = split_metric(metric)
    having = [each for each in _ALL if name in each.metrics and each.metrics[name].of_label is bool(label)]
    asked = having if name else _IMPLIED
    for task in asked:
        try:
            task.check_version(version, labels, by_class=by_class)
        except UnfitVersion:
            continue
        return task
    return asked[0] if asked else DEFAULT
