"""The algorithm image `inference`: a model's ONNX file, run over pictures by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.anomaly.export import MAP, SCORE
from loupe.algorithm.detection.export import OUTPUTS, joined
from loupe.algorithm.inference import InferenceContext
from loupe.algorithm.onnx_model import OnnxModel
from loupe.algorithm.package import FORMAT
from loupe.job_kinds import JobKind
from loupe.letterbox import FILL, FITS, Fit
from loupe.tasks.anomaly import Anomaly
from loupe.tasks.average_precision import Regions
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection


@dataclass(frozen=True)
class Model:
    """A model that is ready to answer. document: all that its model.json says."""

    run: OnnxModel
    document: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, Fit]:
        """Height and width of the pictures that it takes, and how these fill them. Raises ValueError."""
        told = self.document["input"]
        fit, fill = told.get("fit", FITS[0]), told.get("fill", FILL)
        if fit not in FITS or fill != FILL:
            raise ValueError(
                f"the model wants pictures as {fit} on {fill}; {' or '.join(FITS)} on {FILL} is known here"
            )
        return int(told["height"]), int(told["width"]), fit


def answer(context: InferenceContext) -> None:
    """Answer all pictures with the model. Raises Stopped, and ValueError for a model that is another one."""
    document = read_document(context.files["model_json"])
    labels, known = document.get("labels"), list(context.labels)
    if document.get("task", Classification.name) != context.task.name or labels != known[: len(labels or ())]:
        raise ValueError("model.json has another task, or other classes, than the library says of the model")
    model = Model(OnnxModel(context.files["model_onnx"].read_bytes(), context.threads), document)
    _ANSWERS[context.task.name](context, model)


def read_document(path: Path) -> dict[str, Any]:
    """Read a model.json. Raises ValueError for one of another format."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"model.json is not of the format {FORMAT}: this model was made for another Loupe")
    return document


def classify(context: InferenceContext, model: Model) -> None:
    """Answer with the likeliest class of each picture."""
    classes, confidences = [], []
    for (probabilities,) in _outputs(context, model):
        classes.append(probabilities.argmax(axis=1))
        confidences.append(probabilities.max(axis=1).clip(0, 1))
    context.finish_classes(np.concatenate(classes), np.concatenate(confidences))


def detect(context: InferenceContext, model: Model) -> None:
    """Answer with all boxes, where these are to be used with those that the model tells of."""
    parts = [Regions(each[0], each[3], each[1].clip(0, 1), each[2]) for each in _outputs(context, model, OUTPUTS)]
    found = joined(parts, context.parameters["batch"])
    if context.kind is JobKind.PREDICT and found.scores is not None:
        found = found.where(found.scores >= float(model.document["min_confidence"]))
    context.finish_regions(found)


def inspect(context: InferenceContext, model: Model) -> None:
    """Answer with the score of each picture, and whether it is above the model's threshold."""
    scores = np.concatenate([each[0] for each in _outputs(context, model, (SCORE, MAP))])
    context.finish_scores(scores, scores > float(model.document["inspection"]["threshold"]))


def _outputs(context: InferenceContext, model: Model, names: Sequence[str] | None = None) -> Any:
    pictures = context.pictures(*model.shape)
    return (model.run.outputs(pictures[rows], names) for rows in context.batches(context.parameters["batch"]))


_ANSWERS: Mapping[str, Callable[[InferenceContext, Model], None]] = {
    Classification.name: classify,
    Detection.name: detect,
    Anomaly.name: inspect,
}
