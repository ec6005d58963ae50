"""What came out of a job, for a person: accuracy with interval, worst classes, labels to check, confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loupe.terminal.tables import facts, percent, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.scheduler.v1.training_job_pb2 import JobResult
    from loupe.storage.v1.model_pb2 import ModelMetrics

SHOWN_CLASSES = 16
SHOWN_LABEL_ERRORS = 15
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
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def metric_rows(metrics: ModelMetrics) -> list[tuple[str, str]]:
    """Return the figures of a model, with the 95 % interval of the test accuracy.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> metric_rows(ModelMetrics(target_accuracy=0.97, validation_accuracy=0.985))
    [('target', '97.00 %'), ('validation accuracy', '98.50 %')]
    """
    rows = [
        ("target", percent(metrics.target_accuracy)),
        ("validation accuracy", percent(metrics.validation_accuracy)),
    ]
    if metrics.test_pictures:
        interval = f"{percent(metrics.test_accuracy_low)} to {percent(metrics.test_accuracy_high)}"
        accuracy = f"{percent(metrics.test_accuracy)} of {metrics.test_pictures} pictures (95 % interval {interval})"
        rows += [("test accuracy", accuracy), ("balanced", percent(metrics.test_balanced_accuracy))]
    return rows


def render_result(result: JobResult, filenames: Mapping[str, str] | None = None) -> RenderableType:
    """Show a job's result; filenames: digest -> file, to name the likely label errors."""
    from rich.console import Group
    from rich.text import Text

    pairs = [("outcome", OUTCOMES.get(result.outcome, result.outcome)), ("model", result.model_version)]
    parts: list[RenderableType] = [facts([*pairs, *metric_rows(result.metrics)])]
    if result.verdict:
        parts.append(Text(f"\n{result.verdict}"))
    parts += report_parts(read_report(result.report_json), filenames or {})
    return Group(*parts)


def report_parts(report: Mapping[str, Any], filenames: Mapping[str, str]) -> list[RenderableType]:
    """Return the tables of a report: worst classes, confusion matrix, likely label errors."""
    split = "test" if report.get("test") else "validation"
    figures = report.get(split) or {}
    parts: list[RenderableType] = []
    if worst := _worst_classes(figures):
        parts.append(worst)
    if matrix := figures.get("confusion_matrix"):
        parts.append(confusion(report.get("labels") or [], matrix, split))
    if doubted := report.get("label_errors"):
        parts.append(_label_errors(doubted, filenames))
    return parts


def doubted_digests(report: Mapping[str, Any]) -> set[str]:
    """Return the pictures whose label looks wrong, as many as are shown."""
    return {one["digest"] for one in report.get("label_errors", [])[:SHOWN_LABEL_ERRORS]}


def _worst_classes(figures: Mapping[str, Any]) -> RenderableType | None:
    by_label = {row["label"]: row for row in figures.get("per_class", [])}
    worst = [by_label[label] for label in figures.get("worst_classes", []) if label in by_label]
    rows = [(row["label"], percent(row["recall"]), percent(row["precision"]), row["pictures"]) for row in worst]
    if not rows:
        return None
    columns = ("class", "found of it", "right when said", "pictures")
    return table(columns, rows, title="worst classes", right=(1, 2, 3))


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]], split: str = "test") -> RenderableType:
    """Return a small coloured table: rows are the true classes, columns what the model said.

    Above SHOWN_CLASSES classes only those with the most mistakes are shown.
    """
    from rich.text import Text

    mistakes = [
        sum(row) - row[index] + sum(other[index] for other in matrix) - row[index] for index, row in enumerate(matrix)
    ]
    shown = sorted(sorted(range(len(matrix)), key=lambda index: -mistakes[index])[:SHOWN_CLASSES])
    rows = []
    for truth in shown:
        total = max(1, sum(matrix[truth]))
        cells: list[Text] = [Text(f"{truth + 1} {labels[truth]}")]
        for said in shown:
            count = matrix[truth][said]
            share = count / total
            good = truth == said
            strength = share if good else min(1.0, 3 * share)
            colour = f"rgb({_channel(not good, strength)},{_channel(good, strength)},40)"
            cells.append(Text(str(count) if count else "·", style=f"white on {colour}" if count else "dim"))
        rows.append(cells)
    title = f"{split} pictures: the true class (rows) and what the model said (columns)"
    if len(shown) < len(matrix):
        title += f"; {len(shown)} of {len(matrix)} classes, those with the most mistakes"
    return table(["", *(str(index + 1) for index in shown)], rows, title=title, right=range(1, len(shown) + 1))


def _channel(lit: bool, strength: float) -> int:
    return int(40 + 130 * strength) if lit else 40


def _label_errors(doubted: Sequence[Mapping[str, Any]], filenames: Mapping[str, str]) -> RenderableType:
    rows = [
        (filenames.get(one["digest"], one["digest"][:12]), one["label"], one["suggested"], percent(one["score"]))
        for one in doubted[:SHOWN_LABEL_ERRORS]
    ]
    more = f" ({len(doubted)} in all)" if len(doubted) > len(rows) else ""
    return table(
        ("file", "label", "looks like", "label's probability"), rows, title=f"labels to check{more}", right=(3,)
    )
