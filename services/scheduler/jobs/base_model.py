"""Training on from a model that there is: what of it goes into the new job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loupe.algorithm.manifest import Manifest
from loupe.errors import BadParameter, FailedPrecondition, invalid, not_found
from loupe.names import AlgorithmVersionName, ModelVersionName, ProjectName
from services.scheduler.clients.storage import BaseModel

FIELD = "training_job.base_model"
WEIGHTS = "weights"
"""The parameter of an algorithm that takes the file which training starts from."""


def base_model_name(project: ProjectName, text: str) -> ModelVersionName | None:
    """Return the model version that is named, of the order's own project. Raises InvalidArgument, NotFound."""
    if not text:
        return None
    name = ModelVersionName.parse(text, FIELD)
    if name.project != project.project:
        # The very words for what does not exist: nobody learns from this what other projects have.
        raise not_found(name)
    return name


def started_from(base: BaseModel, manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job that starts from a model's weights.

    given: those that are named; where the same algorithm made the model, its own come before the defaults. Raises
    FailedPrecondition for a model of another task or without weights, BadParameter where the algorithm takes none,
    InvalidArgument where other weights are given too.
    """
    if base.task != manifest.task:
        raise FailedPrecondition(
            f"{base.name} is a model for {base.task}, and {manifest.name} makes those for {manifest.task}; choose a "
            f"model or an algorithm of the same task",
            resource=base.name,
        )
    if not base.weights:
        raise FailedPrecondition(f"{base.name} has no weights to start from", resource=base.name)
    parameter = manifest.parameters.get(WEIGHTS)
    if parameter is None or parameter.type != "file":
        raise BadParameter(
            f"{manifest.name} takes no weights to start from, so that {base.name} cannot be its base model",
            parameter=WEIGHTS,
            value=str(base.name),
        )
    if given.get(WEIGHTS):
        raise invalid(f"training_job.parameters.{WEIGHTS}", given[WEIGHTS], "nothing, where a base model is named")
    return {**_own(base, manifest), **given, WEIGHTS: base.weights}


def _own(base: BaseModel, manifest: Manifest) -> dict[str, Any]:
    """Return what the model was made with, as far as this version of its algorithm takes it; files stay behind."""
    if AlgorithmVersionName.parse(base.algorithm).algorithm != manifest.name:
        return {}
    known = {name for name, each in manifest.parameters.items() if each.type != "file"}
    return {name: value for name, value in base.parameters.items() if name in known and value is not None}
