"""The end of a detector's run: export, compare, look at the test split once, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.dataset import Dataset
from loupe.algorithm.detection.export import OUTPUTS, FoundBy, anchors_of, append_selection, export_flat
from loupe.algorithm.detection.measures import operating_points, right_ones, threshold
from loupe.algorithm.detection.package import golden_arrays, golden_rows
from loupe.algorithm.detection.parity import check_parity
from loupe.algorithm.export import Preprocessing
from loupe.algorithm.host import Host, Progress, RunSpec
from loupe.algorithm.onnx_model import OnnxModel
from loupe.algorithm.package import write_package
from loupe.letterbox import FILL
from loupe.tasks.average_precision import Regions, checked, evaluate
from loupe.tasks.detection import OVERALL, Detection

TASK = Detection()
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
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the model package of a trained detector, its files by name, and what is measured of it, JSON-able.

    The arguments are those of Context.finish_detector. The test regions are revealed after the package is written, so
    that nothing in it can depend on them. Raises ExportMismatch, and ValueError for a network that is no detector.
    """
    if not len(data.regions):
        raise ValueError("the pictures of this run have no regions; Context.finish_detector is for images of detection")
    pictures, classes = data.letterboxed(preprocessing.height), len(data.labels)
    anchors = anchors_of(network, preprocessing, classes)
    host.report(Progress("export", message="exporting the model"))
    flat = export_flat(network, preprocessing)
    model = append_selection(flat, anchors, classes)
    found_by = FoundBy(model, spec.threads)
    known, found = data.regions.of(data.validation), found_by.predict(pictures, data.validation)

    # The network and its export must agree on pictures that training did not see.
    compared, split = (data.test, "test") if len(data.test) else (data.validation, "validation")
    host.report(Progress("test", total_steps=len(compared), message=f"comparing both exports on the {split} pictures"))
    parity = check_parity(
        network,
        OnnxModel(flat, spec.threads),
        found_by,
        preprocessing,
        pictures=pictures,
        indices=compared[:: -(-len(compared) // PARITY_PICTURES)],
        device=torch.device(spec.device),
        anchors=anchors,
        classes=classes,
    )
    answers = found_by.predict(pictures, data.test)
    right = right_ones(known, found)
    min_confidence = threshold(known, found, right, classes)
    golden = np.ascontiguousarray(pictures[data.validation[golden_rows(found, len(data.validation), classes)]])
    artifacts = write_package(
        host.work / "package",
        network,
        model,
        preprocessing,
        task=TASK,
        labels=data.labels,
        architecture=architecture,
        seed=spec.seed,
        golden=golden_arrays(golden, found_by(golden)),
        members={
            "temperature": 1.0,
            "min_confidence": min_confidence,
            "outputs": list(OUTPUTS),
            "operating_points": {"split": "validation", "rows": operating_points(found, right)},
        },
        fit={"fit": "letterbox", "fill": FILL},
    )
    # Only now is the model final, and only now may the test regions be seen.
    revealed = host.reveal_test_regions(answers)
    test = _test(revealed.of(data.test), answers, data)
    report = {
        "validation": evaluate(known, found, len(data.validation), data.labels),
        "test": test,
        "parity": {"split": split, **parity},
        "min_confidence": min_confidence,
        "architecture": architecture,
        "labels": list(data.labels),
        "splits": {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "unlabelled": len(data.unlabelled),
        },
        "training_regions": dict(zip(data.labels, data.region_counts().tolist(), strict=True)),
    }
    if test:
        figures = {f"test_{metric}": test[metric] for metric in OVERALL}
        host.report(Progress("test", metrics=figures, message=TASK.test_sentence(checked(test))))
    return artifacts, report


def _test(truth: Regions, found: Regions, data: Dataset) -> dict[str, Any] | None:
    """Return the figures of the test pictures; None where nothing in them is annotated."""
    return evaluate(truth, found, len(data.test), data.labels) if len(truth) else None
