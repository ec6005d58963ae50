"""Formats of other tools: what tools wrote is read, what is written is read again, nothing is dropped in silence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loupe.annotations import Provenance, box, polygon
from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION, DatasetItem
from loupe.terminal.annotation_messages import annotations_of, to_messages
from loupe.terminal.formats import coco
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.sources import detect, read_source
from loupe.terminal.formats.writing import NO_CLASS, NO_DRAFT, NO_POLYGON
from tests.terminal import annotated
from tests.terminal.annotated import MODEL, TOOLS, items, picture, put, read_back, said, write

SOME = settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
DENT, SCRATCH = (8, 10, 24, 20), (40, 30, 60, 40)


def pixels(folder: Path) -> dict[str, tuple[object, ...]]:
    """What a source says of each picture: split, regions in rounded pixels with their classes, nothing there."""
    return {
        one.path.stem: (
            one.split,
            sorted(
                (
                    each.label,
                    tuple(
                        round(value)
                        for value in (Canvas(48, 64) if one.path.stem == "plate-2" else Canvas(64, 48)).bounds(each)
                    ),
                )
                for each in one.annotations
            ),
            one.nothing_there,
        )
        for one in read_source(folder).pictures
    }


@pytest.mark.parametrize(
    ("tool", "format", "splits", "missing"),
    [
        ("coco-datumaro", "coco", (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TRAIN), ()),
        ("coco-supervision", "coco", (SPLIT_TRAIN,) * 3, ()),
        ("voc-supervision", "voc", (SPLIT_UNSPECIFIED,) * 3, ()),
        ("voc-datumaro", "voc", (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_UNSPECIFIED), ("scratch", "xml")),
        ("yolo-supervision", "yolo", (SPLIT_TRAIN,) * 3, ()),
        ("yolo-datumaro", "yolo", (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TRAIN), ("scratch",)),
        ("datumaro", "datumaro", (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TRAIN), ()),
    ],
)  # fmt: skip
def test_what_other_tools_wrote_is_found_out_and_read(
    tool: str, format: str, splits: tuple[int, int, int], missing: tuple[str, ...]
) -> None:
    """The same three pictures by seven exporters of two tools; missing: what the exporter itself left out."""
    found = read_source(TOOLS / tool)
    assert found.format == format
    left = 0 if "xml" in missing else 10
    expected = {
        "plate-1": (splits[0], [("dent", DENT), *([] if "scratch" in missing else [("scratch", SCRATCH)])], False),
        "plate-2": (splits[1], [("dent", (left, 20, 30, 50))], False),
        "plate-3": (splits[2], [], "xml" not in missing),
    }
    assert pixels(TOOLS / tool) == expected


def test_a_class_of_the_whole_picture_is_read_of_datumaro() -> None:
    labels = {one.path.stem: one.label for one in read_source(TOOLS / "datumaro").pictures}
    assert labels == {"plate-1": "dent", "plate-2": "", "plate-3": ""}


@SOME
@given(st.sampled_from(["csv", "datumaro", "folders"]), st.lists(items(), min_size=1, max_size=6))
def test_what_is_written_is_read_again(format: str, pictures: list[tuple[DatasetItem, bytes]]) -> None:
    """These formats say everything: class, split, boxes, polygons, nothing there, unlabelled."""
    with tempfile.TemporaryDirectory() as folder:
        lost = write(Path(folder), format, pictures)
        assert format == "folders" or not lost
        wanted = [(repr((one.label, one.split, annotations_of(one), one.nothing_there)),) for one, _ in pictures]
        assert said(read_back(Path(folder), format)) == sorted(wanted)


@SOME
@given(st.sampled_from(["coco", "yolo"]), st.lists(items(classes=False), min_size=1, max_size=6))
def test_regions_come_back_as_they_were(format: str, pictures: list[tuple[DatasetItem, bytes]]) -> None:
    """Of pictures without a class as a whole COCO and YOLO say everything."""
    with tempfile.TemporaryDirectory() as folder:
        assert not write(Path(folder), format, pictures)
        wanted = [(repr((one.label, one.split, annotations_of(one), one.nothing_there)),) for one, _ in pictures]
        assert said(read_back(Path(folder), format)) == sorted(wanted)


@SOME
@given(st.lists(items(classes=False, polygons=False), min_size=1, max_size=6))
def test_boxes_come_back_from_voc(pictures: list[tuple[DatasetItem, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not any(one.annotations or one.nothing_there for one, _ in pictures):
            return  # there is nothing that an XML file would be about
        assert not write(Path(folder), "voc", pictures)
        wanted = [(repr((one.label, one.split, annotations_of(one), one.nothing_there)),) for one, _ in pictures]
        assert said(read_back(Path(folder), "voc")) == sorted(wanted)


@given(st.integers(1, 60_000), st.integers(1, 60_000), st.data())
def test_whole_pixels_stay_whole_numbers(width: int, height: int, data: st.DataObject) -> None:
    """Up to the size of any camera: parts of six digits give the whole pixel back, and the pixels give the parts."""
    canvas = Canvas(width, height)
    x = sorted(data.draw(st.sets(st.integers(0, width), min_size=2, max_size=2)))
    y = sorted(data.draw(st.sets(st.integers(0, height), min_size=2, max_size=2)))
    made = canvas.box("dent", (x[0], y[0], x[1], y[1]))
    assert canvas.bounds(made) == (x[0], y[0], x[1], y[1])
    assert all(isinstance(value, int) for value in canvas.numbers(made))
    assert canvas.box("dent", canvas.bounds(made)) == made


def test_what_a_format_cannot_say_is_counted(tmp_path: Path) -> None:
    """A class as a whole in COCO, VOC and YOLO, polygons in VOC, a model's drafts in VOC and YOLO."""
    draft = Provenance(model=MODEL, confidence=0.5)
    regions = [box("dent", (0, 0, 0.5, 0.5), draft), polygon("dent", [(0, 0), (1, 0), (1, 1)])]
    item = DatasetItem(label="dent", split=SPLIT_TRAIN, filename="a.png", annotations=to_messages(regions))
    lost = {format: write(tmp_path / format, format, [(item, picture())]) for format in ("coco", "voc", "yolo", "csv")}
    assert lost == {
        "coco": {NO_CLASS: 1},
        "voc": {NO_CLASS: 1, NO_POLYGON: 1, NO_DRAFT: 1},
        "yolo": {NO_CLASS: 1, NO_DRAFT: 1},
        "csv": {},
    }
    for format in ("coco", "csv"):
        (again,) = read_back(tmp_path / format, format)
        assert [each.provenance for each in again.annotations if each.is_box] == [draft]
    (again,) = read_back(tmp_path / "voc", "voc")
    assert [each.points for each in again.annotations] == [((0.0, 0.0), (0.5, 0.5)), ((0.0, 0.0), (1.0, 1.0))]


@pytest.mark.parametrize("format", ["csv", "coco", "voc", "yolo", "datumaro"])
def test_an_export_is_found_out_by_what_is_in_it(tmp_path: Path, format: str) -> None:
    regions = to_messages([box("dent", (0, 0, 0.5, 0.5))])
    item = DatasetItem(split=SPLIT_TEST, filename="a.png", annotations=regions)
    write(tmp_path, format, [(item, picture())])
    assert detect(tmp_path)[0] == format
    assert read_source(tmp_path).pictures[0].split == SPLIT_TEST


def test_two_formats_in_one_folder_are_a_question(tmp_path: Path) -> None:
    annotated.coco(tmp_path)
    put(tmp_path / "data.yaml", "names: [dent]\n")
    with pytest.raises(BadDataset, match=r"may be COCO, since .*json.*YOLO.*--format coco or --format yolo"):
        read_source(tmp_path)
    assert read_source(tmp_path, "coco").pictures[0].annotations


def test_folders_stay_folders_whatever_lies_beside_them(tmp_path: Path) -> None:
    """A table without boxes, JSON of something else, and texts do not make a folder per class something else."""
    for label in ("ok", "bad"):
        put(tmp_path / label / "1.png")
    put(tmp_path / "splits.csv", "path,label\nok/1.png,ok\n")
    put(tmp_path / "settings.json", '{"images": 3}')
    put(tmp_path / "names.txt", "ok\nbad\n")
    assert detect(tmp_path)[0] == "folders"


def test_pictures_without_annotation_are_unlabelled_or_empty_by_the_custom_of_the_format(tmp_path: Path) -> None:
    """COCO: named without annotation is nothing there, not named is unlabelled; YOLO: an empty text, and no text."""
    annotated.coco(tmp_path / "coco", annotations=[])
    put(tmp_path / "coco" / "images" / "b.png")
    put(tmp_path / "yolo" / "data.yaml", "names: [dent]\ntrain: images\n")
    for name in ("a", "b"):
        put(tmp_path / "yolo" / "images" / f"{name}.png")
    put(tmp_path / "yolo" / "labels" / "a.txt", "\n")
    for format in ("coco", "yolo"):
        states = {one.path.stem: (one.nothing_there, one.unlabelled) for one in read_source(tmp_path / format).pictures}
        assert states == {"a": (True, False), "b": (False, True)}


def test_masks_and_crowds_are_left_out_and_counted(tmp_path: Path) -> None:
    """A picture that had nothing else is not said to have nothing."""
    mask = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": {"counts": [3], "size": [30, 40]}, "iscrowd": 1}
    annotated.coco(tmp_path, annotations=[mask, mask | {"segmentation": [], "bbox": [0, 0, 5, 5]}])
    found = read_source(tmp_path)
    assert found.pictures[0].unlabelled
    assert found.warnings == ["2 annotations are run-length masks or crowds, which are not read: they are left out"]


def test_the_size_is_that_of_the_picture_as_it_is_held(tmp_path: Path) -> None:
    """A file that swaps width and height was made without EXIF, and is refused: its boxes would be elsewhere."""
    lying = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    annotated.coco(tmp_path, images=[lying])
    put(tmp_path / "images" / "a.jpg", picture(40, 30, "JPEG", orientation=6))
    with pytest.raises(BadDataset, match=r"image 1 \(a.jpg\): the size is 40x30, but the picture has 30x40.*EXIF"):
        read_source(tmp_path)
    annotated.coco(tmp_path, images=[lying | {"width": 30, "height": 40}])
    (one,) = (one for one in read_source(tmp_path).pictures if one.annotations)
    assert one.annotations[0].bounds == (0.133333, 0.075, 0.466667, 0.375)


def test_coco_of_several_files_gives_the_split(tmp_path: Path) -> None:
    """Files without a word for a split are passed over where others have one, which is told."""
    image = {"width": 40, "height": 30}
    for number, split in enumerate(("train2017", "val2017", "test", "all")):
        document = {"images": [{"id": 1, "file_name": f"{number}.png", **image}], "categories": [], "annotations": []}
        put(tmp_path / "annotations" / f"instances_{split}.json", json.dumps(document))
        put(tmp_path / split / f"{number}.png")
    found = read_source(tmp_path)
    assert [one.split for one in found.pictures if not one.unlabelled] == [SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION]
    assert found.warnings == ["of 4 files 3 are read, which name a split; not: instances_all.json"]
    assert coco.split_of_file(Path("train-and-test.json")) is None


def test_yolo_finds_its_pictures_as_tools_write_their_paths(tmp_path: Path) -> None:
    """With `path`, with ../ before it, in a list, and names as a dictionary, of which none is read as a truth value."""
    put(tmp_path / "data.yaml", "path: /home/x/data\ntrain: ../train/images\nval: val.txt\nnames:\n  0: no\n  1: '1'\n")
    put(tmp_path / "train" / "images" / "a.png")
    put(tmp_path / "train" / "labels" / "a.txt", "0 0.5 0.5 1 1\n1 0 0 1 0 1 1\n")
    put(tmp_path / "other" / "b.png")
    put(tmp_path / "other" / "b.txt")
    put(tmp_path / "val.txt", "./other/b.png\n")
    put(tmp_path / "other" / "b.txt", "\n")
    found = {one.path.stem: one for one in read_source(tmp_path).pictures}
    assert [(each.label, each.is_box) for each in found["a"].annotations] == [("1", False), ("no", True)]
    assert (found["a"].split, found["b"].split, found["b"].nothing_there) == (SPLIT_TRAIN, SPLIT_VALIDATION, True)


def test_csv_with_boxes_as_detectors_take_it(tmp_path: Path) -> None:
    """A row a box; a row with nothing but its path says that nothing is there; a class without box is the picture's."""
    for name in ("a", "b", "c", "d"):
        put(tmp_path / f"{name}.png")
    put(
        tmp_path / "list.csv",
        "path;x_min;y_min;x_max;y_max;label;state\na.png;4;3;14;15;dent;\na.png;0;0;40;30;dent;\nb.png;;;;;;\n"
        "c.png;;;;;ok;\nd.png;;;;;;unlabelled\na.png;;;;;bad;\n",
    )
    found = {one.path.stem: one for one in read_source(tmp_path).pictures}
    assert [each.bounds for each in found["a"].annotations] == [(0.0, 0.0, 1.0, 1.0), (0.1, 0.1, 0.35, 0.5)]
    assert (found["a"].label, found["b"].nothing_there, found["c"].label) == ("bad", True, "ok")
    assert not found["c"].annotated and found["d"].unlabelled


def test_names_are_found_in_any_spelling(tmp_path: Path) -> None:
    """Composed or decomposed letters, backslashes of Windows, ./ before it."""
    for name in ("ru\u0308ckseite.png", "r\u00fcckseite.png", ".\\images\\r\u00fcckseite.png"):
        annotated.coco(tmp_path, images=[{"id": 1, "file_name": name}])
        put(tmp_path / "images" / "ru\u0308ckseite.png")
        assert [one.annotated for one in read_source(tmp_path).pictures] == [False, True]
