"""The end of an inspector's run: export, compare, set the threshold, look at the test split once, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.anomaly.export import InspectedBy, answers_of_torch, export_inspector, map_side
from loupe.algorithm.anomaly.package import check_parity, golden_rows
from loupe.algorithm.anomaly.rules import good_class
from loupe.algorithm.dataset import Dataset
from loupe.algorithm.export import Preprocessing
from loupe.algorithm.host import Host, Progress, RunSpec
from loupe.algorithm.package import write_package
from loupe.tasks.anomaly import Anomaly
from loupe.tasks.anomaly_scores import CALIBRATION_SCORES, as_answers, count_answers, evaluate, threshold_for
from loupe.tasks.objective import shown_share

TASK = Anomaly()
PARITY_PICTURES = 128
"""The network and its export are compared on about so many pictures, spread over all; torch takes long for each."""


def conclude(
    host: Host,
    spec: RunSpec,
    data: Dataset,
    *,
    network: nn.Module,
    preprocessing: Preprocessing,
    architecture: str,
    false_alarms: float,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the model package of an inspector, its files by name, and what is measured of it, JSON-able.

    The arguments are those of Context.finish_inspector. The test labels are revealed after the package is written, so
    that nothing in it can depend on them. Raises UnusableData without good validation pictures, ExportMismatch, and
    ValueError for a network that is no inspector.
    """
    good = good_class(data, str(spec.parameters.get("good", "")))
    pictures, known = data.images(preprocessing.height), data.classes[data.validation]
    side = map_side(network, preprocessing)
    host.report(Progress("export", message="exporting the model"))
    model = export_inspector(network, preprocessing, side)
    inspected = InspectedBy(model, spec.threads)
    scores = inspected.scores(pictures, data.validation)
    calibration = np.sort(scores[known == good])[::-1]
    threshold = threshold_for(calibration.tolist(), len(calibration), false_alarms)
    if threshold.lacking:
        host.log(
            f"{len(calibration)} good validation pictures cannot vouch for {shown_share(false_alarms)} false alarms "
            f"but for {shown_share(threshold.false_alarms)}: {threshold.lacking} more would"
        )

    # The network and its export must agree on pictures that nothing was learned from.
    compared, split = (data.test, "test") if len(data.test) else (data.validation, "validation")
    host.report(Progress("test", total_steps=len(compared), message=f"comparing both exports on the {split} pictures"))
    some = np.ascontiguousarray(pictures[compared[:: -(-len(compared) // PARITY_PICTURES)]])
    parity = check_parity(answers_of_torch(network, preprocessing, some, torch.device(spec.device)), inspected(some))
    answers = inspected.scores(pictures, data.test)
    golden = np.ascontiguousarray(pictures[data.validation[golden_rows(known == good)]])
    artifacts = write_package(
        host.work / "package",
        network,
        model,
        preprocessing,
        task=TASK,
        labels=data.labels,
        architecture=architecture,
        seed=spec.seed,
        golden=dict(zip(("pictures", "scores", "maps"), (golden, *inspected(golden)), strict=True)),
        members={
            "inspection": {
                "good": data.labels[good],
                "false_alarms": false_alarms,
                "threshold": threshold.value,
                "calibration": {
                    "split": "validation",
                    "pictures": len(calibration),
                    "scores": calibration[:CALIBRATION_SCORES].tolist(),
                },
            }
        },
    )
    # Only now is the model final, and only now may the test labels be seen.
    revealed = host.reveal_test(as_answers(answers, threshold.value))
    test = _test(answers, revealed[data.test], data, good, threshold.value)
    report = {
        "validation": evaluate(scores, known, data.labels, good, threshold.value),
        "test": test,
        "parity": {"split": split, **parity},
        "threshold": threshold._asdict(),
        "architecture": architecture,
        "labels": list(data.labels),
        "splits": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "training_pictures": dict(zip(data.labels, data.class_counts().tolist(), strict=True)),
    }
    if test:
        counted = count_answers(as_answers(answers, threshold.value), revealed[data.test], data.labels, good)
        checked = TASK.checked(
            counted["labels"], counted["right"], counted["pictures"], counted["figures"], counted["test_pictures"]
        )
        figures = {f"test_{metric}": value for metric, value in checked.figures.items()}
        host.report(Progress("test", metrics=figures, message=TASK.test_sentence(checked)))
    return artifacts, report


def _test(scores: np.ndarray, classes: np.ndarray, data: Dataset, good: int, threshold: float) -> dict[str, Any] | None:
    """Return the figures of the test pictures; None without any."""
    return evaluate(scores, classes, data.labels, good, threshold) if len(classes) else None
