"""What an algorithm image is written against: data in, progress and a model out.

An image is a folder with `algorithm.toml` (loupe.algorithm.manifest) and a function that takes a `Context`:

    >>> from torch import nn
    >>> from loupe.algorithm import Context, TrainingPlan, fit
    >>> def train(context: Context) -> None:
    ...     parts = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    ...     network = nn.Sequential(*parts, nn.Linear(8, len(context.data.labels)))
    ...     fitted = fit(context, network, TrainingPlan(size=64, epochs=context.parameters["epochs"]))
    ...     context.finish(network, size=64, architecture="small", outcome=fitted.outcome)

Where the manifest's task is detection, pictures are letterboxed and have regions (`context.data.regions`), boxes
are measured by `context.score`, and the end is `context.finish_detector`.

An image that trains nothing says so, `kinds = ["evaluate", "predict"]`: it gets an `InferenceContext` with a model's
files and the pictures to answer, and ends with `finish_classes`, `finish_regions` or `finish_scores`.

`python -m loupe.algorithm run FOLDER --data PICTURES --target 0.97` runs it on this machine, without a mesh.

Importing this package costs nothing: torch is loaded when a name that needs it is first used, so services may
import `loupe.algorithm.manifest` and `loupe.algorithm.image` without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loupe.algorithm.dataset import Dataset, UnusableData
from loupe.algorithm.host import Outcome, Split, Stopped
from loupe.algorithm.inference import InferenceContext

if TYPE_CHECKING:
    from loupe.algorithm.context import Context
    from loupe.algorithm.plan import TrainingPlan
    from loupe.algorithm.training import Fitted, fit

__all__ = [
    "Context",
    "Dataset",
    "Fitted",
    "InferenceContext",
    "Outcome",
    "Split",
    "Stopped",
    "TrainingPlan",
    "UnusableData",
    "fit",
]

_NEED_TORCH = {
    "Context": "context",
    "TrainingPlan": "plan",
    "Fitted": "training",
    "fit": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
