"""What a job is for, and which pictures of a data set version it is about."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class JobKind(enum.StrEnum):
    """What a job is for; the values are those of a manifest's `kinds`."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    PREDICT = "predict"

    @property
    def noun(self) -> str:
        """What the job is, within a sentence for people."""
        return _NOUNS[self]


_NOUNS: Mapping[JobKind, str] = {
    JobKind.TRAIN: "training",
    JobKind.EVALUATE: "evaluation",
    JobKind.PREDICT: "prediction",
}


class PictureSelection(enum.StrEnum):
    """Which pictures a model answers. LABELLED, UNLABELLED: for the model's task."""

    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"
    LABELLED = "labelled"
    UNLABELLED = "unlabelled"
    ALL = "all"


SELECTIONS: Mapping[JobKind, tuple[PictureSelection, ...]] = {
    JobKind.TRAIN: (),
    JobKind.EVALUATE: (
        PictureSelection.TEST,
        PictureSelection.VALIDATION,
        PictureSelection.TRAIN,
        PictureSelection.LABELLED,
    ),
    JobKind.PREDICT: (
        PictureSelection.UNLABELLED,
        PictureSelection.TEST,
        PictureSelection.VALIDATION,
        PictureSelection.TRAIN,
        PictureSelection.LABELLED,
        PictureSelection.ALL,
    ),
}
"""What a job of a kind may be about; the first one is meant where nothing is said."""

MODEL_FILES: Mapping[str, str] = {
    "model_onnx": "model.onnx",
    "model_int8_onnx": "model.int8.onnx",
    "model_json": "model.json",
    "model_safetensors": "model.safetensors",
    "golden_npz": "golden.npz",
}
"""The parameters in which an image that answers with a model gets that model's files."""
