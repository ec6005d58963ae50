"""Jobs that train nothing, in which a model answers pictures: what of it goes into the job, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loupe.algorithm.manifest import Manifest
from loupe.algorithm.reserved import INFERENCE, is_reserved
from loupe.errors import BadParameter, FailedPrecondition, invalid
from loupe.escapes import escaped
from loupe.job_kinds import MODEL_FILES, SELECTIONS, JobKind, PictureSelection
from loupe.labels import MAX_LENGTH
from loupe.names import AlgorithmVersionName
from loupe.tasks import TASKS
from loupe.tasks.task import LabelCount
from services.scheduler.clients.storage import AlgorithmVersion, BaseModel, DatasetVersion
from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs.order import Order

BUILT_IN = AlgorithmVersionName(INFERENCE, "latest")
"""The image that answers where none is named."""
_SHOWN_LABELS = 5


def check_kind(order: Order) -> PictureSelection | None:
    """Return which pictures an order is about; None where it is to train.

    Raises InvalidArgument for what an order of its kind cannot ask for.
    """
    kind, allowed = order.kind, SELECTIONS[order.kind]
    if kind is JobKind.TRAIN:
        if order.pictures is not None:
            raise invalid("training_job.pictures", order.pictures, "nothing, where the job is to train")
        return None
    asked = {"objective.metric": order.objective.metric, "objective": order.objective.bound, "model": order.model}
    for field, value in {**asked, "max_epochs": order.max_epochs}.items():
        if value:
            raise invalid(f"training_job.{field}", value, f"nothing, where the job is to {kind}")
    if not order.base_model:
        raise invalid("training_job.base_model", "", f"the model version that is to {kind}")
    chosen = order.pictures or allowed[0]
    if chosen not in allowed:
        raise invalid("training_job.pictures", chosen, f"one of {', '.join(allowed)}, where the job is to {kind}")
    return chosen


def check_runs(kind: JobKind, algorithm: AlgorithmVersion, manifest: Manifest) -> None:
    """Raise InvalidArgument where an image does not run jobs of a kind."""
    if kind not in manifest.kinds:
        can = " and ".join(manifest.kinds)
        raise invalid("training_job.algorithm_version", algorithm.name, f"an image that can {kind}; this one can {can}")


def files_of(model: BaseModel, manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job in which a model answers: the given ones, and the files that the image takes.

    Raises FailedPrecondition for a model of another task, or without a file that the image cannot do without;
    InvalidArgument where such a file is given.
    """
    if manifest.task not in ("", model.task):
        raise FailedPrecondition(
            f"{model.name} is a model for {model.task}, and {manifest.name} answers with those for {manifest.task}",
            resource=model.name,
        )
    files: dict[str, Any] = {}
    for name, filename in MODEL_FILES.items():
        if given.get(name):
            raise invalid(f"training_job.parameters.{name}", given[name], "nothing: it is the model's own file")
        declared = manifest.parameters.get(name)
        if declared is None:
            continue
        if declared.type != "file":
            raise BadParameter(f"{manifest.name} wants {name} as {declared.type}; it is a file", parameter=name)
        if declared.required and filename not in model.files:
            raise FailedPrecondition(
                f"{model.name} has no {filename}, which {manifest.name} needs", resource=model.name
            )
        files[name] = model.files.get(filename)
    return {**given, **{name: digest for name, digest in files.items() if digest}}


def requirements_of(model: BaseModel, algorithm: AlgorithmVersion, manifest: Manifest) -> Requirements:
    """Return what a trainer must have. A model that a stranger's image made takes a sandbox, as that image does."""
    trusted = is_reserved(AlgorithmVersionName.parse(model.algorithm).algorithm)
    needs = manifest.resources
    return Requirements(algorithm.built_in and trusted, needs.min_memory_mb, needs.gpu)


def check_fit(kind: JobKind, pictures: PictureSelection, model: BaseModel, dataset: DatasetVersion) -> None:
    """Raise FailedPrecondition where a version has no such picture, or none that says anything of the model.

    What a version does not count, how many pictures were looked at for boxes, is left to the trainer.
    """
    counts = {each.label: _count(each, pictures, regions=TASKS[model.task].regions) for each in dataset.labels}
    if kind is JobKind.EVALUATE:
        if not sum(counts.values()):
            raise _lacking(f"has no {pictures} pictures that are labelled for {model.task}", dataset)
        labelled_with = [label for label, there in counts.items() if there]
        if not set(labelled_with) & set(model.labels):
            known, there = _shown(model.labels), _shown(labelled_with)
            raise _lacking(
                f"has no picture of a class that {model.name} knows: it has {there}; known are {known}", dataset
            )
        return
    labelled = sum(_count(each, PictureSelection.LABELLED, regions=False) for each in dataset.labels)
    counted = pictures is PictureSelection.UNLABELLED and not TASKS[model.task].regions
    if counted and labelled >= dataset.pictures:
        raise _lacking("has no unlabelled pictures; ask for all to have labelled ones answered, too", dataset)


def _count(label: LabelCount, pictures: PictureSelection, *, regions: bool) -> int:
    """Return how many pictures of a class are selected; regions: how many boxes, as far as they are labelled."""
    by_split = {
        PictureSelection.TRAIN: label.train_regions if regions else label.train_count,
        PictureSelection.VALIDATION: label.validation_regions if regions else label.validation_count,
        PictureSelection.TEST: label.test_regions if regions else label.test_count,
    }
    return by_split.get(pictures, sum(by_split.values()))


def _lacking(why: str, dataset: DatasetVersion) -> FailedPrecondition:
    return FailedPrecondition(f"{dataset.name} {why}", resource=dataset.name)


def _shown(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
    return ", ".join(escaped(each, MAX_LENGTH) for each in labels[:_SHOWN_LABELS]) + more
