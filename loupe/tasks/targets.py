"""What is asked of a model, as it comes from people and over the wire."""

from __future__ import annotations

import math
from dataclasses import replace

from loupe.errors import invalid
from loupe.labels import normalise_label
from loupe.tasks import DEFAULT, TASKS
from loupe.tasks.objective import Objective, split_metric
from loupe.tasks.task import Metric, Task


def check_objective(field: str, objective: Objective, task: Task = DEFAULT) -> Objective:
    """Return an objective that a model of the task can reach, its class's name normalised.

    An empty metric is the task's first one. Raises InvalidArgument, which names the metrics and the range.
    """
    metric = _metric(f"{field}.metric", objective.metric, task)
    name, label = split_metric(objective.metric)
    if objective.at_most is metric.greater_is_better:
        wanted = ("at_least", "greater") if objective.at_most else ("at_most", "smaller")
        raise invalid(field, objective.metric, f"{wanted[0]}, since {wanted[1]} values are better")
    if not metric.low < objective.bound <= metric.high:  # also catches NaN
        expected = f"a number above {metric.low:g} and at most {metric.high:g} (0.97 means 97 %)"
        raise invalid(f"{field}.{'at_most' if objective.at_most else 'at_least'}", objective.bound, expected)
    whole = f"{name}[{_label(field, label)}]" if metric.of_label else metric.name
    return Objective(whole, objective.bound, objective.at_most)


def parse_objective(text: str, task: Task | None = None) -> Objective:
    """Read an objective as people write it. Raises InvalidArgument.

    task: whose metrics are meant; of every task when that is not known, and a number alone is the first metric of
    whatever task it will be: its name stays empty.

    >>> parse_objective("0.97", DEFAULT)
    Objective(metric='accuracy', bound=0.97, at_most=False)
    >>> parse_objective("0.97").metric, parse_objective("recall[deep crack]=0.9").metric
    ('', 'recall[deep crack]')
    """
    metric, equals, number = text.rpartition("=")
    tasks = [task] if task else list(TASKS.values())
    expected = f"a number above 0 and at most 1, or METRIC=NUMBER with the metric {_forms(*tasks)}"
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if math.isnan(bound) or (equals and not metric):
        raise invalid("target", text, expected)
    for each in tasks:
        known = _find(metric, each)
        if known is not None and known.low < bound <= known.high:
            objective = check_objective("target", Objective(metric, bound, not known.greater_is_better), each)
            return objective if metric or task else replace(objective, metric="")
    raise invalid("target", text, expected)


def _metric(field: str, text: str, task: Task) -> Metric:
    if (metric := _find(text, task)) is None:
        raise invalid(field, text, f"{_forms(task)}; empty means {next(iter(task.metrics))}")
    return metric


def _find(text: str, task: Task) -> Metric | None:
    name, label = split_metric(text or next(iter(task.metrics)))
    metric = task.metrics.get(name)
    return metric if metric is not None and metric.of_label is bool(label) else None


def _label(field: str, label: str) -> str:
    try:
        return normalise_label(label)
    except ValueError as error:
        raise invalid(f"{field}.metric", label, f"the name of a class, but it {error}") from error


def _forms(*tasks: Task) -> str:
    *forms, last = (each.form for task in tasks for each in task.metrics.values())
    return f"{', '.join(forms)} or {last}" if forms else last
