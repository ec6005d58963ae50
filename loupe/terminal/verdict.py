"""What came out of a job, for a person: accuracy with interval, worst classes, confusions, labels to check.

Reports are written by algorithm images that anybody may have uploaded: what in one has not the form that is expected
is not shown, and what is shown is escaped by the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loupe.forecast import forecast_of
from loupe.tasks import TASKS
from loupe.tasks.classification import ACCURACY
from loupe.tasks.objective import spoken
from loupe.terminal.confusion import ConfusionView, confusion_of, figures_of
from loupe.terminal.escapes import LONGEST_TEXT, escaped
from loupe.terminal.tables import facts, line, percent, size, table
from loupe.terminal.targets import objective_of, score_of, target_text, task_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.scheduler.v1.training_job_pb2 import Evaluation, JobResult
    from loupe.storage.v1.model_pb2 import ModelMetrics
    from loupe.tasks.task import Task

SHOWN_CLASSES = 16
SHOWN_LABEL_ERRORS = 15
_CLASS_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "recall": {"recall": "found of it", "precision": "right when said", "pictures": "pictures"},
    "ap50": {"ap50": "AP50", "ap": "AP", "regions": "boxes"},
}
"""What a report says of each class, by the first figure of it, and how the columns are called."""

OUTCOMES = {
    "target_reached": "the target was reached",
    "plateau": "the target was not reached: more training brought nothing more",
    "budget": "the target was not reached within the budget",
    "stopped": "it was stopped",
}


def read_report(text: str) -> dict[str, Any]:
    """Parse a report; what is no JSON object counts as no report."""
    try:
        report = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def metric_rows(metrics: ModelMetrics) -> list[tuple[str, str]]:
    """Return the figures of a model, with the 95 % interval of the test accuracy.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> metric_rows(ModelMetrics(target_accuracy=0.97, validation_accuracy=0.985))
    [('target', '97.00 %'), ('validation accuracy', '98.50 %')]
    >>> from loupe.common.v1.objective_pb2 import Objective
    >>> asked = Objective(metric="map50", at_least=0.7)
    >>> metric_rows(ModelMetrics(task="detection", objective=asked, validation={"map50": 0.71, "map": 0.4}))
    [('target', 'mAP50 70.00 %'), ('validation mAP50', '71.00 %'), ('validation mAP', '40.00 %')]
    """
    task = task_of(metrics)
    if task is None or ACCURACY not in task.metrics:
        return _rows_of_maps(metrics, task)
    rows = [
        ("target", target_text(metrics)),
        ("validation accuracy", percent(metrics.validation_accuracy)),
    ]
    if (metric := spoken(objective_of(metrics).metric)) != ACCURACY:
        rows.insert(1, (f"validation {metric}", percent(metrics.validation_score)))
    if metrics.test_pictures:
        interval = f"{percent(metrics.test_accuracy_low)} to {percent(metrics.test_accuracy_high)}"
        accuracy = f"{percent(metrics.test_accuracy)} of {metrics.test_pictures} pictures (95 % interval {interval})"
        rows += [("test accuracy", accuracy), ("balanced", percent(metrics.test_balanced_accuracy))]
        # A model from before there was this figure has none, and no class of it need be hopeless.
        if metrics.HasField("objective"):
            rows.append(("lowest recall", percent(metrics.test_lowest_recall)))
    return rows


def _rows_of_maps(metrics: ModelMetrics, task: Task | None) -> list[tuple[str, str]]:
    """Return the figures that a model's maps have: in the order of its task, by name where that is not known."""
    rows = [("target", target_text(metrics))]
    if (asked := objective_of(metrics).metric) not in metrics.validation:
        rows.append((f"validation {escaped(spoken(asked))}", percent(score_of(metrics))))
    for split, figures in (("validation", metrics.validation), ("test", metrics.test)):
        for name in [each for each in (task.metrics if task else sorted(figures)) if each in figures]:
            rows.append((f"{split} {escaped(spoken(name))}", percent(figures[name])))
    if metrics.test:
        rows.append(("test pictures", str(metrics.test_pictures)))
    return rows


def forecast_text(report: Mapping[str, Any], metrics: ModelMetrics) -> str:
    """Return what the target would have needed by the report's learning curve; empty where it was reached.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> report = {"labels": ["dent"], "notes": {"forecast": {"low": 90, "high": 150, "classes": ["dent"]}}}
    >>> forecast_text(report, ModelMetrics(target_accuracy=0.97, validation_accuracy=0.9))
    'about 90 to 150 more training pictures, of dent first, for 97.00 %'
    >>> forecast_text(report, ModelMetrics(target_accuracy=0.97, validation_accuracy=0.98))
    ''
    """
    if objective_of(metrics).reached_by(score_of(metrics)) or not isinstance(labels := report.get("labels"), list):
        return ""
    return forecast_of(report.get("notes"), labels, target_text(metrics))


def render_result(
    result: JobResult, filenames: Mapping[str, str] | None = None, *, verdict: bool = True, whole: bool = False
) -> RenderableType:
    """Show a job's result.

    filenames: digest -> file, to name the likely label errors. verdict: whether its sentence is still to be said.
    whole: the confusion matrix at any width.
    """
    from rich.console import Group

    parts: list[RenderableType] = [facts(_result_rows(result))]
    if result.verdict and verdict:
        parts.append(line(f"\n{escaped(result.verdict, LONGEST_TEXT)}"))
    parts += report_parts(read_report(result.report_json), filenames or {}, whole=whole)
    return Group(*parts)


def _result_rows(result: JobResult) -> list[tuple[str, str]]:
    """Return what a job brought, in short."""
    if result.HasField("evaluation"):
        told = result.evaluation
        rows = [(escaped(spoken(name)), percent(told.figures[name])) for name in _in_order(told)]
        return [*rows, ("pictures", str(told.picture_count)), ("unknown classes", ", ".join(told.unknown_labels))]
    if result.HasField("predictions"):
        made = result.predictions
        return [("pictures", str(made.picture_count)), ("answers", f"{made.digest} ({size(made.size)})")]
    pairs = [("outcome", OUTCOMES.get(result.outcome, result.outcome)), ("model", result.model_version)]
    return [*pairs, *metric_rows(result.metrics)]


def _in_order(evaluation: Evaluation) -> list[str]:
    """Return the figures' names in the order of their task, by name where that is not known."""
    task = TASKS.get(evaluation.task)
    known = [name for name in (task.metrics if task else ()) if name in evaluation.figures]
    return known or sorted(evaluation.figures)


def report_parts(
    report: Mapping[str, Any], filenames: Mapping[str, str], *, whole: bool = False
) -> list[RenderableType]:
    """Return the tables of a report: worst classes, confusions, likely label errors; whole: the matrix at any width."""
    figures, _ = figures_of(report)
    parts: list[RenderableType] = []
    shown = _every_class if "evaluation" in report else _worst_classes
    if isinstance(figures, dict) and (classes := shown(figures)):
        parts.append(classes)
    if confusion := confusion_of(report):
        parts.append(ConfusionView(confusion, whole=whole))
    if doubted := _doubted(report):
        parts.append(_label_errors(doubted, filenames))
    return parts


def doubted_digests(report: Mapping[str, Any]) -> set[str]:
    """Return the pictures whose label looks wrong, as many as are shown."""
    return {str(one.get("digest")) for one in _doubted(report)[:SHOWN_LABEL_ERRORS]}


def _doubted(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _rows(report.get("label_errors"))


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _share(value: object) -> str:
    """Show a fraction as per cent; nothing for what is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        return ""
    return percent(value)


def _worst_classes(figures: Mapping[str, Any]) -> RenderableType | None:
    named, by_label = figures.get("worst_classes"), _by_label(figures)
    labels = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    worst = [by_label[label] for label in labels if label in by_label][:SHOWN_CLASSES]
    return _class_table(worst, "worst classes") if worst else None


def _every_class(figures: Mapping[str, Any]) -> RenderableType | None:
    """Return a table of all classes that there was something of."""
    counted = [row for row in _by_label(figures).values() if row.get("pictures") or row.get("regions")]
    return _class_table(counted, "by class") if counted else None


def _by_label(figures: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {row["label"]: row for row in _rows(figures.get("per_class")) if isinstance(row.get("label"), str)}


def _class_table(classes: Sequence[Mapping[str, Any]], title: str) -> RenderableType:
    told = next((columns for key, columns in _CLASS_COLUMNS.items() if key in classes[0]), {})
    told = {key: column for key, column in told.items() if any(key in row for row in classes)}
    rows = [(row["label"], *(_cell(row.get(key)) for key in told)) for row in classes]
    right = tuple(range(1, len(told) + 1))
    return table(("class", *told.values()), rows, title=title, right=right, middle=(0,))


def _cell(value: object) -> str:
    return str(value) if isinstance(value, int) else _share(value)


def _label_errors(doubted: Sequence[Mapping[str, Any]], filenames: Mapping[str, str]) -> RenderableType:
    rows = [
        (filenames.get(digest := str(one.get("digest", "")), digest[:12]), one.get("label", ""),
         one.get("suggested", ""), _share(one.get("score")))
        for one in doubted[:SHOWN_LABEL_ERRORS]
    ]  # fmt: skip
    more = f" ({len(doubted)} in all)" if len(doubted) > len(rows) else ""
    columns = ("file", "label", "looks like", "label's probability")
    return table(columns, rows, title=f"labels to check{more}", right=(3,), middle=(0, 1, 2))
