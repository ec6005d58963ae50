"""Between annotations and the contract's messages."""

from __future__ import annotations

from collections.abc import Iterable

from loupe.annotations import Annotation, BadAnnotation, Provenance, box, polygon
from loupe.errors import DataLoss
from loupe.storage.v1 import dataset_pb2


def to_messages(annotations: Iterable[Annotation]) -> list[dataset_pb2.Annotation]:
    """Return annotations as they are sent: who put them in and who verified them, storage notes itself."""
    return [_to_message(each) for each in annotations]


def _to_message(annotation: Annotation) -> dataset_pb2.Annotation:
    made = annotation.provenance
    message = dataset_pb2.Annotation(
        label=annotation.label,
        model=made.model,
        confidence=made.confidence,
        verified=bool(made.model and made.verifier),
    )
    if annotation.is_box:
        x_min, y_min, x_max, y_max = annotation.bounds
        message.box.CopyFrom(dataset_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))
    else:
        message.polygon.coordinates.extend(value for point in annotation.points for value in point)
    return message


def annotations_of(item: dataset_pb2.DatasetItem) -> tuple[Annotation, ...]:
    """Return what a picture of a version is annotated with. Raises DataLoss for what cannot be an annotation."""
    try:
        return tuple(_from_message(each) for each in item.annotations)
    except BadAnnotation as error:
        raise DataLoss(f"the mesh says of the picture {item.digest}: {error}", digest=item.digest) from error


def _from_message(message: dataset_pb2.Annotation) -> Annotation:
    made = Provenance(
        author=message.author, model=message.model, confidence=message.confidence, verifier=message.verifier
    )
    if message.WhichOneof("region") == "box":
        region = message.box
        return box(message.label, (region.x_min, region.y_min, region.x_max, region.y_max), made)
    numbers = message.polygon.coordinates
    return polygon(message.label, list(zip(numbers[::2], numbers[1::2], strict=False)), made)
