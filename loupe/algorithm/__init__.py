"""What an algorithm image is written against: data in, progress and a model out.

An image is a folder with `algorithm.toml` (loupe.algorithm.manifest) and a function that takes a `Context`:

    from loupe.algorithm import Context, Outcome, TrainingPlan, fit

    def train(context: Context) -> None:
        network = my_network(classes=len(context.data.labels))
        fitted = fit(context, network, TrainingPlan(size=64, epochs=context.parameters["epochs"]))
        context.finish(network, size=64, architecture="my_network", outcome=fitted.outcome)

`python -m loupe.algorithm run FOLDER --data PICTURES --target 0.97` runs it on this machine, without a mesh.

Importing this package costs nothing: torch is loaded when a name that needs it is first used, so services may
import `loupe.algorithm.manifest` and `loupe.algorithm.image` without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loupe.algorithm.host import Outcome, Split

if TYPE_CHECKING:
    from loupe.algorithm.context import Context, Dataset, Stopped, UnusableData
    from loupe.algorithm.training import Fitted, TrainingPlan, fit

__all__ = [
    "Context",
    "Dataset",
    "Fitted",
    "Outcome",
    "Split",
    "Stopped",
    "TrainingPlan",
    "UnusableData",
    "fit",
]

_LATE = {
    "Context": "context",
    "Dataset": "context",
    "Stopped": "context",
    "UnusableData": "context",
    "Fitted": "training",
    "TrainingPlan": "training",
    "fit": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
