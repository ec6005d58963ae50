"""The end of a run: calibrate, export, compare, look at the test split once, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from loupe.algorithm.evaluation import OutOfSample, calibrate_temperature, evaluate, likely_label_errors, softmax
from loupe.algorithm.host import Host
from loupe.algorithm.package import (
    OnnxModel,
    Preprocessing,
    append_softmax,
    check_parity,
    export_onnx,
    golden_rows,
    predict_torch,
    write_package,
)

if TYPE_CHECKING:
    from loupe.algorithm.context import Context


def conclude(
    context: Context,
    host: Host,
    *,
    network: nn.Module,
    preprocessing: Preprocessing,
    architecture: str,
    out_of_sample: OutOfSample | None,
    onnx_logits: Any,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Turn a trained network into a package and a report; see Context.finish."""
    data = context.data
    pictures = data.images(preprocessing.height)
    context.report("export", message="exporting the model")
    model = export_onnx(network, preprocessing) if onnx_logits is None else onnx_logits
    validation_logits = OnnxModel(model, context.threads).predict(pictures, data.validation)
    temperature = calibrate_temperature(validation_logits, data.classes[data.validation])
    model = append_softmax(model, temperature)

    # The network and its export must agree on pictures that neither training nor calibration saw.
    checked, split = (data.test, "test") if len(data.test) else (data.validation, "validation")
    context.report("test", total_steps=len(checked), message=f"comparing both exports on the {split} pictures")
    packaged = OnnxModel(model, context.threads)
    answers = packaged.predict(pictures, checked)
    expected = predict_torch(network, preprocessing, pictures, checked, context.device)
    parity = check_parity(softmax(expected / temperature), answers)

    validation = softmax(validation_logits / temperature)
    golden = golden_rows(validation, data.classes[data.validation])
    golden_pictures = np.ascontiguousarray(pictures[data.validation[golden]])
    artifacts = write_package(
        host.work / "package",
        network,
        model,
        preprocessing,
        labels=data.labels,
        architecture=architecture,
        temperature=temperature,
        golden_pictures=golden_pictures,
        golden_probabilities=packaged(golden_pictures),
        extra={"seed": context.seed},
    )
    # Only now is the model final, and only now may the test labels be seen.
    revealed = host.reveal_test()
    test = evaluate(answers, revealed[data.test], data.labels) if len(data.test) else None
    sample = out_of_sample or OutOfSample(data.validation, validation)
    report = {
        "validation": evaluate(validation, data.classes[data.validation], data.labels),
        "test": test,
        "label_errors": likely_label_errors(sample, data.classes, data.labels, data.digests),
        "parity": {"split": split, **parity},
        "temperature": temperature,
        "architecture": architecture,
        "labels": list(data.labels),
        "splits": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "training_pictures": dict(zip(data.labels, data.class_counts().tolist(), strict=True)),
        "seed": context.seed,
        "history": context.history,
        "seconds": round(context.elapsed, 3),
    }
    if test:
        context.report("test", message=_sentence(test), test_accuracy=test["accuracy"])
    return artifacts, report


def _sentence(test: dict[str, Any]) -> str:
    low, high = test["accuracy_interval"]
    return f"{test['accuracy']:.2%} of {test['pictures']} test pictures (95 % interval {low:.2%} to {high:.2%})"
