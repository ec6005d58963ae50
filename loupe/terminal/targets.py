"""What was asked of a model, and whether it came to that, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loupe.metrics import ACCURACY, reaches, spoken
from loupe.terminal.escapes import escaped
from loupe.terminal.tables import percent

if TYPE_CHECKING:
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.storage.v1.model_pb2 import ModelMetrics


def target_text(asked: TrainingJob | ModelMetrics) -> str:
    """Return the target of a job or a model.

    >>> from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    >>> target_text(TrainingJob(target_accuracy=0.97))
    '97.00 %'
    >>> target_text(TrainingJob(target_accuracy=0.9, target_metric="lowest_recall"))
    'lowest recall 90.00 %'
    """
    metric, value = escaped(spoken(asked.target_metric)), percent(asked.target_accuracy)
    return value if metric == ACCURACY else f"{metric} {value}"


def score_of(metrics: ModelMetrics) -> float:
    """Return what the target metric was on the validation pictures; of models from before there were others too."""
    return metrics.validation_score if metrics.target_metric else metrics.validation_accuracy


def why_unreleased(metrics: ModelMetrics) -> str:
    """Return why a model was not released, to follow its name.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> why_unreleased(ModelMetrics(validation_accuracy=0.9, target_accuracy=0.97))
    'did not reach its target (90.00 % of validation pictures, 97.00 % was asked for)'
    >>> why_unreleased(ModelMetrics(validation_accuracy=1, target_accuracy=0.97))
    'reached its target (97.00 %), but was not released; the verdict of its job says why'
    """
    metric, score = escaped(spoken(metrics.target_metric)), score_of(metrics)
    if reaches(score, metrics.target_accuracy):
        return f"reached its target ({target_text(metrics)}), but was not released; the verdict of its job says why"
    measured = f"{percent(score)} of" if metric == ACCURACY else f"{metric} {percent(score)} on"
    return (
        f"did not reach its target ({measured} validation pictures, {percent(metrics.target_accuracy)} was asked for)"
    )
