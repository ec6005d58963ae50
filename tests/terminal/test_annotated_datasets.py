"""Data sets with boxes and polygons on their way: push, annotate, export, the sheet, and what commands show of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe.annotations import box, polygon
from loupe.errors import AlreadyExists, BadDataset
from loupe.names import DatasetName, DatasetVersionName
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION, DatasetItem
from loupe.terminal import datasets
from loupe.terminal.annotating import VersionIndex, find_annotations
from loupe.terminal.annotation_messages import annotations_of, to_messages
from loupe.terminal.client import Terminal
from loupe.terminal.export import MARKER, export_version
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.sources import FORMATS
from loupe.terminal.formats.targets import WRITERS
from loupe.terminal.profile import ProfileStore
from tests.terminal.annotated import TOOLS, coco, picture, put
from tests.terminal.fake_mesh import FakeMesh

SCREWS = "projects/line-7/datasets/screws"
LATEST = DatasetVersionName("line-7", "screws", "latest")


def hold(mesh: FakeMesh, items: Sequence[DatasetItem]) -> list[DatasetItem]:
    """Make the items, each with a picture of its own, the data set's one version."""
    for place, item in enumerate(items):
        data = picture(40, 30, shade=place * 10)
        item.digest = hashlib.sha256(data).hexdigest()
        mesh.blobs[item.digest] = data
    mesh.datasets[SCREWS] = [list(items)]
    return list(items)


@pytest.fixture
def annotated(mesh: FakeMesh) -> list[DatasetItem]:
    """A version with a box, a polygon, a picture without anything, an unlabelled one, and one with a class."""
    dent = to_messages([box("dent", (0.1, 0.1, 0.5, 0.5)), polygon("rust", [(0.5, 0.5), (0.9, 0.5), (0.9, 0.9)])])
    return hold(
        mesh,
        [
            DatasetItem(filename="bad/1.png", split=SPLIT_TRAIN, annotations=dent),
            DatasetItem(filename="bad/2.png", split=SPLIT_TEST, annotations=dent[:1], label="bad"),
            DatasetItem(filename="ok/1.png", split=SPLIT_VALIDATION, nothing_there=True),
            DatasetItem(filename="new/1.png"),
        ],
    )


def test_push_sends_annotations_and_tells_the_format(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    """What the format is, and why, in one line; the version with its boxes; each picture in its split."""
    told = command_line("dataset", "push", "screws", str(TOOLS / "datumaro"))
    assert told.exit_code == 0, told.output
    assert "is read as Datumaro: annotations/train.json has items and categories" in " ".join(told.stderr.split())
    (items,) = mesh.datasets[SCREWS]
    assert [(item.filename[-11:], item.label, len(item.annotations), item.nothing_there) for item in items] == [
        ("plate-1.png", "dent", 2, False), ("plate-3.png", "", 0, True), ("plate-2.png", "", 1, False),
    ]  # fmt: skip
    assert "boxes and polygons  3" in told.stdout and "nothing there" in told.stdout and "boxes: train" in told.stdout
    value = json.loads(command_line("dataset", "push", "screws", str(TOOLS / "datumaro"), "--json").stdout)
    assert value["format"] == {"name": "datumaro", "explanation": "annotations/train.json has items and categories"}


def test_one_file_of_a_split_is_divided_by_the_mesh(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    """That all pictures lie in a folder train says nothing of what validates."""
    told = command_line("dataset", "push", "screws", str(TOOLS / "coco-supervision"))
    assert told.exit_code == 0, told.output
    assert {item.split for item in mesh.datasets[SCREWS][0]} == {SPLIT_UNSPECIFIED}
    assert "all pictures are for train by the names of the files" in " ".join(told.stdout.split())


def test_a_format_can_be_asked_for(command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path) -> None:
    """A folder that is COCO is a folder per class as well; a format that there is not is a wrong command line."""
    coco(tmp_path)
    put(tmp_path / "other" / "b.png", picture(shade=1))
    assert command_line("dataset", "push", "screws", str(tmp_path), "--format", "folders").exit_code == 0
    assert {item.label for item in mesh.datasets[SCREWS][0]} == {"images", "other"}
    wrong = command_line("dataset", "push", "screws", str(tmp_path), "--format", "labelme")
    assert wrong.exit_code == 2 and "not one of auto, folders, csv, coco, voc, yolo, datumaro" in " ".join(
        wrong.stderr.replace("│", "").split()
    )


def test_mistakes_stop_a_push_before_anything_is_sent(
    command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path
) -> None:
    coco(tmp_path, annotations=[{"id": 5, "image_id": 1, "category_id": 7, "bbox": [0, 0, 99, 1]}])
    told = command_line("dataset", "push", "screws", str(tmp_path))
    assert told.exit_code == 6 and "annotation 5 (a.png)" in told.stderr
    assert not mesh.received and not mesh.datasets


async def test_an_equal_file_without_label_is_a_duplicate(mesh: FakeMesh, store: ProfileStore, tmp_path: Path) -> None:
    """Also when it comes first; a file that is annotated in two ways is left out and named."""
    coco(tmp_path)
    put(tmp_path / "copies" / "a.png")
    put(tmp_path / "images" / "b.png", picture(shade=3))
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(DatasetName("line-7", "screws"), tmp_path)
    assert [one.reason for one in report.duplicates] == ["the same file as images/a.png, which is labelled"]
    image = {"width": 40, "height": 30}
    images = [{"id": 1, "file_name": "a.png", **image}, {"id": 2, "file_name": "c.png", **image}]
    coco(tmp_path / "two", images=images)
    put(tmp_path / "two" / "images" / "c.png")
    async with Terminal.connect(store) as loupe:
        with pytest.raises(BadDataset, match=r"no class is left when 2 pictures"):
            await loupe.datasets.push(DatasetName("line-7", "screws"), tmp_path / "two")


async def test_batches_are_bounded_in_bytes(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many boxes as of many pictures; each item is sent once."""
    boxes = [
        {"id": n, "image_id": image, "category_id": 7, "bbox": [n % 35, n % 28, 1 + n % 5, 1]}
        for image in range(1, 9)
        for n in range(100)
    ]
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(1, 9)]
    coco(tmp_path, images=images, annotations=boxes)
    for n in range(1, 9):
        put(tmp_path / "images" / f"{n}.png", picture(shade=n))
    monkeypatch.setattr(datasets, "BYTES_IN_BATCH", 12_000)
    async with Terminal.connect(store) as loupe:
        await loupe.datasets.push(DatasetName("line-7", "screws"), tmp_path)
    assert 4_000 < mesh.largest_batch < 13_000
    assert len(mesh.datasets[SCREWS][0]) == 9
    assert sum(len(item.annotations) for item in mesh.datasets[SCREWS][0]) == 800


@pytest.mark.parametrize("format", FORMATS)
async def test_an_export_is_pushed_as_the_same_version(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, annotated: list[DatasetItem], format: str
) -> None:
    """But for what is told to be lost."""
    out = tmp_path / "out"
    async with Terminal.connect(store) as loupe:
        made = await export_version(loupe.datasets, LATEST, out, lambda progress: None, format)
        await loupe.datasets.push(DatasetName("line-7", "nuts"), made.listing if format == "folders" else out)
    again = {item.digest: item for item in mesh.datasets["projects/line-7/datasets/nuts"][0]}
    for item in annotated:
        back = again[item.digest]
        assert (back.split, back.nothing_there) == (item.split, item.nothing_there)
        if format == "voc":
            assert [each.bounds for each in annotations_of(back)] == [each.bounds for each in annotations_of(item)]
        else:
            assert annotations_of(back) == annotations_of(item)
        assert back.label == ("" if format in ("coco", "voc", "yolo") else item.label)
    lost = {"coco": 1, "voc": 2, "yolo": 1, "folders": 1}.get(format, 0)
    assert len(made.warnings) == lost and made.pictures == 4
    assert not (out / MARKER).exists()


async def test_an_export_of_another_format_is_not_gone_on_with(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, annotated: list[DatasetItem]
) -> None:
    """One that was cut goes on where it was, and only as what it was."""
    out = tmp_path / "out"
    put(out / MARKER, "coco")
    async with Terminal.connect(store) as loupe:
        with pytest.raises(AlreadyExists, match=r"not empty .an export as coco was begun there"):
            await export_version(loupe.datasets, LATEST, out, lambda progress: None, "yolo")
        assert (await export_version(loupe.datasets, LATEST, out, lambda progress: None, "coco")).pictures == 4


def test_export_tells_what_is_lost(
    command_line: Callable[..., Any], tmp_path: Path, annotated: list[DatasetItem]
) -> None:
    told = command_line("dataset", "export", "screws", str(tmp_path / "out"), "--format", "voc")
    assert told.exit_code == 0, told.output
    assert "note: 1 polygons cannot be said in this format: the box around each was written" in told.stderr
    assert set(FORMATS) == set(WRITERS)


def test_annotate_knows_pictures_by_their_digests(
    command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path, annotated: list[DatasetItem]
) -> None:
    """Where the files lie beside the annotations, whatever they are called there; others stay as they are."""
    coco(tmp_path)
    put(tmp_path / "images" / "a.png", mesh.blobs[annotated[3].digest])
    put(tmp_path / "images" / "b.png", picture(7, 7))
    told = command_line("dataset", "annotate", "screws", str(tmp_path), "--force")
    assert told.exit_code == 0, told.output
    (one,) = mesh.changes[-1].annotated
    assert one.digest == annotated[3].digest and one.annotations[0].label == "dent" and not one.nothing_there
    assert (mesh.headers[-1].base, mesh.headers[-1].force) == (f"{SCREWS}/versions/latest", True)
    put(tmp_path / "images" / "a.png", picture(shade=200))
    strange = command_line("dataset", "annotate", "screws", str(tmp_path))
    assert strange.exit_code == 6 and "1 pictures of" in strange.stderr and "images/a.png" in strange.stderr


@pytest.mark.parametrize("format", ["coco", "yolo", "voc", "datumaro"])
async def test_annotate_knows_pictures_by_their_names(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, annotated: list[DatasetItem], format: str
) -> None:
    """Where no picture lies beside the annotations; the size is then the one that the file says."""
    async with Terminal.connect(store) as loupe:
        out = tmp_path / format
        # Two pictures are called 1.png; where all of a split lie in one folder, the second gets another name.
        stem = "1-" + annotated[2].digest[:16] if format == "voc" else "3"
        annotated[2].filename = annotated[2].filename if format == "voc" else "ok/3.png"
        await export_version(loupe.datasets, LATEST, out, lambda progress: None, format)
        for path in out.rglob("*.png"):
            path.unlink()
        for item, name in zip(annotated, ("1", "2", stem, "x"), strict=True):
            item.filename = f"camera/{name}.png"
        found = await find_annotations(loupe.datasets, LATEST, out, format)
    assert {digest: each and len(each) for digest, each in found.annotated.items()} == {
        annotated[0].digest: 2, annotated[1].digest: 1, annotated[2].digest: (),
    }  # fmt: skip


def test_annotate_says_nothing_there_and_clears(
    command_line: Callable[..., Any], mesh: FakeMesh, annotated: list[DatasetItem]
) -> None:
    """By name or digest; the same picture twice is refused, and so is nothing at all."""
    twice = command_line("dataset", "annotate", "screws", "--nothing-there", "new/1.png", "--clear", "new/1.png")
    assert twice.exit_code == 6 and "annotated twice" in twice.stderr
    nothing = command_line("dataset", "annotate", "screws")
    assert nothing.exit_code == 6 and "nothing is to be changed" in nothing.stderr
    words = ("dataset", "annotate", "screws", "--nothing-there", "new/1.png", "--clear", annotated[0].digest[:10])
    assert command_line(*words).exit_code == 0
    said = {one.digest: (one.nothing_there, len(one.annotations)) for one in mesh.changes[-1].annotated}
    assert said == {annotated[3].digest: (True, 0), annotated[0].digest: (False, 0)}


def test_names_of_a_version_are_found_by_their_ends() -> None:
    """As long as one picture has that end."""
    items = [DatasetItem(filename=name, width=4, height=4) for name in ("a/1.png", "b/1.png", "b/2.png")]
    index = VersionIndex(items)
    assert index.find("2.png") == "b/2.png" and index.find("data/a/1.png") == "a/1.png"
    assert index.with_stem("2", [""]) == "b/2.png"
    assert index.size("b/2.png", Canvas(9, 9)) == (4, 4)
    with pytest.raises(ValueError, match="several pictures of the version"):
        index.find("1.png")
    with pytest.raises(ValueError, match=r'the version has no picture "3.png"'):
        index.find("3.png")


def test_lists_show_how_many_regions_there_are(
    command_line: Callable[..., Any], mesh: FakeMesh, annotated: list[DatasetItem]
) -> None:
    shown = command_line("dataset", "show", "screws").stdout
    assert "boxes and polygons  3" in shown and "unlabelled          1" in shown
    listed = command_line("dataset", "list").stdout
    assert [line.split()[:4] for line in listed.splitlines() if "screws" in line] == [
        ["screws", "screws/versions/1", "4", "3"]
    ]
    command_line("dataset", "annotate", "screws", "--nothing-there", "new/1.png")
    assert "▭1" in command_line("dataset", "log", "screws").stdout
    assert "2 annotated otherwise" in " ".join(command_line("dataset", "diff", "screws", "screws").stdout.split())


def test_a_sheet_shows_pictures_with_their_boxes(
    command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path, annotated: list[DatasetItem]
) -> None:
    """The same ones for a seed, only those of a class or split that is asked for, in colours of their classes."""
    sheets = [tmp_path / f"{number}.png" for number in range(3)]
    told = command_line("dataset", "sheet", "screws", str(sheets[0]))
    assert told.exit_code == 0 and "drew 4 of 4 pictures" in told.stdout, told.output
    assert command_line("dataset", "sheet", "screws", str(sheets[1])).exit_code == 0
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    pixels = np.asarray(Image.open(sheets[0])).reshape(-1, 3).astype(int)
    assert ((pixels.max(1) - pixels.min(1)) > 150).sum() > 500
    one = command_line("dataset", "sheet", "screws", str(sheets[2]), "--class", "dent", "--split", "test", "--json")
    assert json.loads(one.stdout)["pictures"] == 1
    none = command_line("dataset", "sheet", "screws", str(sheets[2]), "--class", "rest")
    assert none.exit_code == 6 and "has no class 'rest'; it has bad, dent, rust" in none.stderr


def test_a_sheet_keeps_strange_names_in_their_tiles(
    command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path
) -> None:
    """Long ones, ones in other scripts, and a file that is no picture."""
    label = "零件\u200d" + "w" * 120
    items = hold(mesh, [DatasetItem(filename="\x1b[2J\u202e" * 50, label=label), DatasetItem(label="ok")])
    broken = b"BAD"
    items[1].digest = hashlib.sha256(broken).hexdigest()
    mesh.blobs[items[1].digest] = broken
    told = command_line("dataset", "sheet", "screws", str(tmp_path / "sheet.png"))
    assert told.exit_code == 0, told.output
    assert Image.open(tmp_path / "sheet.png").width == 3 * 8 + 2 * 200


def test_messages_keep_what_annotations_say() -> None:
    made = (box("dent", (0.1, 0.2, 0.3, 0.4)), polygon("rust", [(0, 0), (1, 0), (1, 1)]))
    assert annotations_of(DatasetItem(annotations=to_messages(made))) == made
    wrong = dataset_pb2.Annotation(label="dent", box=dataset_pb2.Box(x_min=2, x_max=1))
    with pytest.raises(Exception, match="the mesh says of the picture ab: the coordinate 2 lies outside"):
        annotations_of(DatasetItem(digest="ab", annotations=[wrong]))
