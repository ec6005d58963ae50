"""Small annotated data sets for the tests of formats: pictures on disk, and what is to be seen in them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from loupe.annotations import Annotation, BadAnnotation, Provenance, box, normalise, polygon
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION, DatasetItem
from loupe.terminal.annotation_messages import to_messages
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.sources import read_source
from loupe.terminal.formats.targets import WRITERS
from loupe.terminal.picture_source import LabelledPicture

TOOLS = Path(__file__).parent / "formats"
LABELS = ("dent", "Kratzer größer", "零件: no", "a,b;\"c\" 'd' #e")
MODEL = "projects/line-7/models/screws/versions/2"


def picture(width: int = 40, height: int = 30, form: str = "PNG", orientation: int = 1, shade: int = 90) -> bytes:
    """Make a plain picture; width and height are those of its pixels, before it is turned."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("L", (width, height), shade).save(buffer, form, exif=exif)
    return buffer.getvalue()


def coco(folder: Path, **changes: Any) -> Path:
    """Write a COCO data set of one picture with a box, members of the document changed, and return its file."""
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 7, "name": "dent"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [4, 3, 10, 12]}],
    }
    put(folder / "images" / "a.png")
    return put(folder / "annotations" / "instances.json", json.dumps(document | changes))


def put(path: Path, content: str | bytes = b"") -> Path:
    """Write a file; a plain picture where nothing is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content or picture())
    return path


def wholes(width: int, height: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Corners of boxes, whole pixels or any parts."""

    def side(extent: int) -> st.SearchStrategy[tuple[float, float]]:
        pixels = st.integers(0, extent).map(lambda value: value / extent)
        parts = st.one_of(pixels, st.integers(0, 10**6).map(lambda value: value / 10**6))
        return st.tuples(parts, parts).map(lambda two: (min(two), max(two))).filter(lambda two: two[0] < two[1])

    return st.tuples(side(width), side(height)).map(lambda two: (two[0][0], two[1][0], two[0][1], two[1][1]))


def _triangle(label: str, points: Sequence[tuple[int, int]]) -> Annotation | None:
    try:
        return polygon(label, [(x / 997, y / 997) for x, y in points])
    except BadAnnotation:
        return None


@st.composite
def items(draw: st.DrawFn, *, polygons: bool = True, classes: bool = True) -> tuple[DatasetItem, bytes]:
    """A picture of a version with its file; each one has another digest."""
    width, height = draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    label = st.sampled_from(LABELS)
    boxes = st.builds(box, label, wholes(width, height), st.sampled_from([Provenance()]))
    point = st.tuples(st.integers(0, 997), st.integers(0, 997))
    triangles = st.builds(_triangle, label, st.lists(point, min_size=3, max_size=5)).filter(
        lambda made: made is not None
    )
    found = normalise(draw(st.lists(st.one_of(boxes, triangles) if polygons else boxes, max_size=4)))
    whole = draw(st.one_of(st.just(""), label)) if classes else ""
    nothing = not found and draw(st.booleans())
    split = draw(st.sampled_from([SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST]))
    item = DatasetItem(
        label=whole,
        split=split if found or nothing or whole else SPLIT_UNSPECIFIED,
        filename=draw(st.sampled_from(["a.png", "deep/er/a.png", "A.png", "größe.png", "x.y.png", "picture"])),
        annotations=to_messages(found),
        nothing_there=nothing,
    )
    return item, picture(width, height)


def write(folder: Path, format: str, pictures: Sequence[tuple[DatasetItem, bytes]]) -> dict[str, int]:
    """Write items as an export does, and return what the format could not say."""
    from loupe.terminal.annotation_messages import annotations_of

    writer = WRITERS[format](folder, sorted(LABELS))
    for place, (item, data) in enumerate(pictures):
        item.digest = hashlib.sha256(str(place).encode()).hexdigest()
        path = folder / writer.place(item)
        put(path, data)
        made = LabelledPicture(path, item.label, item.split, item.filename, annotations_of(item), item.nothing_there)
        width, height = Image.open(io.BytesIO(data)).size
        writer.add(made, Canvas(width, height))
    writer.finish()
    return dict(writer.lost)


def said(pictures: Sequence[LabelledPicture]) -> list[tuple[object, ...]]:
    """What pictures say, but for their names, in an order that is the same for equal ones."""
    return sorted((repr((one.label, one.split, one.annotations, one.nothing_there)),) for one in pictures)


def read_back(folder: Path, format: str) -> list[LabelledPicture]:
    """Read an export as a push does that is told the format."""
    source = folder / "splits.csv" if format == "folders" else folder
    return read_source(source, "csv" if format == "folders" else format).pictures
