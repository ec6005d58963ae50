"""The end of a classifier's run: calibrate, export, compare, look at the test split once, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.classification.package import add_int8, check_parity, golden_rows
from loupe.algorithm.dataset import Dataset
from loupe.algorithm.evaluation import (
    OutOfSample,
    calibrate_temperature,
    evaluate,
    likely_label_errors,
    operating_points,
    softmax,
)
from loupe.algorithm.export import Preprocessing, export_onnx, predict_torch
from loupe.algorithm.host import Host, Progress, RunSpec
from loupe.algorithm.onnx_model import OnnxModel, append_softmax
from loupe.algorithm.package import write_package
from loupe.algorithm.quantization import Int8Model, NotQuantized, Slack, agreement, make_int8
from loupe.tasks.classification import ACCURACY, OVERALL, Classification
from loupe.tasks.objective import spoken

TASK = Classification()
PARITY_PICTURES = 256
"""The network and its export are compared on about so many pictures, spread over all; torch takes long for each."""


def conclude(
    host: Host,
    spec: RunSpec,
    data: Dataset,
    *,
    network: nn.Module,
    preprocessing: Preprocessing,
    architecture: str,
    out_of_sample: OutOfSample | None,
    onnx_logits: Any,
    slack: Slack,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the model package of a trained network, its files by name, and what is measured of it, JSON-able.

    The arguments are those of Context.finish; slack: the time there is to make an INT8 model too. The test labels are
    revealed after the package is written, so no model in it can depend on them; they only decide whether the INT8 model
    goes along. Raises ExportMismatch.
    """
    pictures, known = data.images(preprocessing.height), data.classes[data.validation]
    if known.min() < 0:
        raise ValueError("the pictures of this run have no classes; Context.finish is for images of classification")
    host.report(Progress("export", message="exporting the model"))
    model = export_onnx(network, preprocessing) if onnx_logits is None else onnx_logits
    logits = OnnxModel(model, spec.threads).predict(pictures, data.validation)
    temperature = calibrate_temperature(logits, known)
    validation = softmax(logits / temperature)
    model = append_softmax(model, temperature)
    packaged = OnnxModel(model, spec.threads)

    # The network and its export must agree on pictures that neither training nor calibration saw.
    checked, split = (data.test, "test") if len(data.test) else (data.validation, "validation")
    host.report(Progress("test", total_steps=len(checked), message=f"comparing both exports on the {split} pictures"))
    answers = packaged.predict(pictures, checked)
    some = np.arange(0, len(checked), -(-len(checked) // PARITY_PICTURES))
    expected = predict_torch(network, preprocessing, pictures, checked[some], torch.device(spec.device))
    parity = check_parity(softmax(expected / temperature), answers[some])

    golden_pictures = np.ascontiguousarray(pictures[data.validation[golden_rows(validation, known)]])
    golden_probabilities = packaged(golden_pictures)
    int8: Int8Model | NotQuantized
    try:
        int8 = make_int8(host, spec, data, model, pictures, compared=checked, golden=golden_pictures, slack=slack)
    except NotQuantized as reason:
        int8 = reason
    artifacts = write_package(
        host.work / "package",
        network,
        model,
        preprocessing,
        task=TASK,
        labels=data.labels,
        architecture=architecture,
        seed=spec.seed,
        golden={"pictures": golden_pictures, "probabilities": golden_probabilities},
        members={
            "temperature": temperature,
            "operating_points": {"split": "validation", "rows": operating_points(validation, known)},
        },
    )
    # Only now are the models final, and only now may the test labels be seen.
    revealed = host.reveal_test(answers.argmax(axis=1) if len(data.test) else data.test)
    test = evaluate(answers, revealed[data.test], data.labels) if len(data.test) else None
    artifacts, comparison = _with_int8(artifacts, int8, answers, revealed[checked])
    sample = out_of_sample or OutOfSample(data.validation, validation)
    report = {
        "validation": evaluate(validation, known, data.labels),
        "test": test,
        "label_errors": likely_label_errors(sample, data.classes, data.labels, data.digests),
        "parity": {"split": split, **parity},
        "int8": {"split": split, **comparison},
        "temperature": temperature,
        "architecture": architecture,
        "labels": list(data.labels),
        "splits": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "training_pictures": dict(zip(data.labels, data.class_counts().tolist(), strict=True)),
    }
    if test:
        figures = {f"test_{metric}": test[metric] for metric in OVERALL}
        host.report(Progress("test", metrics=figures, message=_sentence(test, spec.objective.metric)))
    return artifacts, report


def _with_int8(
    artifacts: dict[str, Path], int8: Int8Model | NotQuantized, answers: np.ndarray, classes: np.ndarray
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Add an INT8 model to the package if it agrees with FP32; return all files, and the comparison, JSON-able.

    answers: float32 [M, C] of FP32 for the compared pictures, whose true classes are int [M].
    """
    if isinstance(int8, NotQuantized):
        return artifacts, {"delivered": False, "reason": str(int8)}
    comparison = agreement(answers, int8.answers, classes)
    delivered = not comparison["reason"]
    if delivered:
        artifacts = add_int8(artifacts, int8.model, int8.golden)
    sizes = {"fp32": artifacts["model.onnx"].stat().st_size, "int8": int8.model.ByteSize()}
    return artifacts, {"delivered": delivered, **comparison, "bytes": sizes, "seconds": round(int8.seconds, 2)}


def _sentence(test: dict[str, Any], metric: str) -> str:
    low, high = test["accuracy_interval"]
    score = TASK.score_of_report(metric, test)
    asked = "" if metric == ACCURACY or score is None else f", {spoken(metric)} {score:.2%}"
    return f"{test['accuracy']:.2%} of {test['pictures']} test pictures (95 % interval {low:.2%} to {high:.2%}){asked}"
