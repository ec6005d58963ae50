"""What a model said of pictures in a job: fetched, checked, and made into annotations of a data set version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loupe.annotations import Annotation, BadAnnotation, Provenance, box
from loupe.errors import DataLoss, FailedPrecondition
from loupe.labels import normalise_label
from loupe.names import project_of
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.annotation_messages import annotations_of
from loupe.terminal.datasets import Datasets
from loupe.terminal.export import fetch


@dataclass(frozen=True)
class Predicted:
    """What a model said of one picture.

    picture: sha256 of its file in hex. label, confidence: its class, and how sure that is, 0..1; empty where the model
    says none. found: boxes with their confidence. bad, score: an inspector's answer; None of other models.
    """

    picture: str
    label: str = ""
    confidence: float = 0.0
    found: Sequence[Annotation] | None = None
    bad: bool | None = None
    score: float | None = None


@dataclass
class TakenOver:
    """What predictions come to in a version, by the pictures' digests; only what nobody labelled is in it.

    labelled: how many pictures a person, or somebody who verified, has labelled already. unsure: how many have no
    answer that is sure enough. missing: how many the version does not have.
    """

    relabelled: dict[str, str] = field(default_factory=dict)
    annotated: dict[str, tuple[Annotation, ...]] = field(default_factory=dict)
    labelled: int = 0
    unsure: int = 0
    missing: int = 0


async def fetch_predictions(datasets: Datasets, job: TrainingJob) -> bytes:
    """Return a job's answers, JSON Lines (loupe.scheduler.v1.Predictions says of what).

    Raises FailedPrecondition for a job without answers, DataLoss for other bytes than the job's.
    """
    if not job.result.HasField("predictions"):
        raise FailedPrecondition(
            f"{job.name} has no answers; a job of `loupe predict` has some when it has ended", resource=job.name
        )
    async for _, data in fetch(datasets, str(project_of(job.name)), [job.result.predictions.digest]):
        return data
    raise DataLoss(f"storage does not send the answers of {job.name}", digest=job.result.predictions.digest)


def parse_predictions(job: TrainingJob, data: bytes) -> Iterator[Predicted]:
    """Yield what `fetch_predictions` returned, checked. Raises DataLoss for what is no answer."""
    for number, text in enumerate(data.splitlines(), start=1):
        try:
            yield _predicted(json.loads(text), job.base_model)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataLoss(f"line {number} of the answers of {job.name} is none: {error}") from error


def _predicted(said: dict[str, Any], model: str) -> Predicted:
    if "found" in said:
        found = [
            box(each["label"], each["box"], Provenance(model=model, confidence=_confidence(each)))
            for each in said["found"]
        ]
        return Predicted(said["picture"], found=found)
    if "label" in said:
        return Predicted(said["picture"], normalise_label(said["label"]), _confidence(said))
    return Predicted(said["picture"], bad=bool(said["bad"]), score=float(said["score"]))


def _confidence(said: dict[str, Any]) -> float:
    confidence = float(said["confidence"])
    if not 0 <= confidence <= 1:
        raise BadAnnotation(f"a confidence of {confidence}; 0 to 1 would be right")
    return confidence


def take_over(predicted: Iterator[Predicted], items: Sequence[DatasetItem], min_confidence: float) -> TakenOver:
    """Return what answers of at least this confidence make of a version's items.

    What a person labelled or annotated stays, and so does what a person found right. Boxes of an earlier model that
    nobody has verified make room for the new ones. Raises FailedPrecondition for the answers of an inspector, which say
    that something is wrong and not what.
    """
    there = {item.digest: item for item in items}
    made = TakenOver()
    for each in predicted:
        if each.bad is not None:
            raise FailedPrecondition(
                "an inspector says that a part is bad and not what is wrong with it: nothing can be labelled with that"
            )
        if (item := there.get(each.picture)) is None:
            made.missing += 1
        elif each.found is None:
            _take_label(made, each, item, min_confidence)
        else:
            _take_boxes(
                made, item, [one for one in each.found if one.provenance.confidence >= max(min_confidence, 1e-6)]
            )
    return made


def _take_label(made: TakenOver, each: Predicted, item: DatasetItem, min_confidence: float) -> None:
    if item.label:
        made.labelled += 1
    elif each.confidence < min_confidence:
        made.unsure += 1
    else:
        made.relabelled[each.picture] = each.label


def _take_boxes(made: TakenOver, item: DatasetItem, sure: Sequence[Annotation]) -> None:
    if item.nothing_there or not all(one.provenance.open for one in annotations_of(item)):
        made.labelled += 1
    elif not sure:
        made.unsure += 1
    else:
        made.annotated[item.digest] = tuple(sure)
