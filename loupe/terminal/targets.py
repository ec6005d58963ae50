"""What was asked of a model, and whether it came to that, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loupe.tasks import DEFAULT, TASKS
from loupe.tasks.classification import ACCURACY
from loupe.tasks.objective import Objective, spoken
from loupe.tasks.task import Task
from loupe.terminal.escapes import escaped
from loupe.terminal.tables import percent

if TYPE_CHECKING:
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.storage.v1.model_pb2 import ModelMetrics


def objective_of(asked: TrainingJob | ModelMetrics) -> Objective:
    """Return what was asked of a job or a model; of models from before there were objectives an accuracy.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> objective_of(ModelMetrics(target_accuracy=0.97))
    Objective(metric='accuracy', bound=0.97, at_most=False)
    """
    message = asked.objective
    if message.WhichOneof("bound") is None:
        return Objective(ACCURACY, getattr(asked, "target_accuracy", 0.0))
    at_most = message.HasField("at_most")
    return Objective(message.metric or ACCURACY, message.at_most if at_most else message.at_least, at_most)


def target_text(asked: TrainingJob | ModelMetrics) -> str:
    """Return the target of a job or a model; empty for a job that trains nothing.

    >>> from loupe.common.v1.objective_pb2 import Objective
    >>> from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    >>> target_text(TrainingJob(objective=Objective(at_least=0.97)))
    '97.00 %'
    >>> target_text(TrainingJob(objective=Objective(metric="recall[crack]", at_least=0.9)))
    'recall of crack 90.00 %'
    """
    if getattr(asked, "pictures", 0):  # a job that trains nothing
        return ""
    objective = objective_of(asked)
    metric, value = escaped(spoken(objective.metric)), percent(objective.bound)
    return value if metric == ACCURACY else f"{metric} {value}"


def task_of(metrics: ModelMetrics) -> Task | None:
    """Return a model's task; None for one of a newer mesh that is not known here."""
    return TASKS.get(metrics.task or DEFAULT.name)


def score_of(metrics: ModelMetrics) -> float:
    """Return the objective's metric on the validation pictures; of models without an objective the accuracy."""
    return metrics.validation_score if metrics.HasField("objective") else metrics.validation_accuracy


def why_unreleased(metrics: ModelMetrics) -> str:
    """Return why a model was not released, to follow its name.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> why_unreleased(ModelMetrics(validation_accuracy=0.9, target_accuracy=0.97))
    'did not reach its target (90.00 % of validation pictures, 97.00 % was asked for)'
    >>> why_unreleased(ModelMetrics(validation_accuracy=1, target_accuracy=0.97))
    'reached its target (97.00 %), but was not released; the verdict of its job says why'
    """
    objective, score = objective_of(metrics), score_of(metrics)
    if objective.reached_by(score):
        return f"reached its target ({target_text(metrics)}), but was not released; the verdict of its job says why"
    metric = escaped(spoken(objective.metric))
    measured = f"{percent(score)} of" if metric == ACCURACY else f"{metric} {percent(score)} on"
    return f"did not reach its target ({measured} validation pictures, {percent(objective.bound)} was asked for)"
