"""Annotation files of strangers: each mistake is named with its place, nothing leaves the folder, work is bounded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from loupe.errors import BadDataset
from loupe.terminal.formats import documents
from loupe.terminal.formats.sources import read_source
from tests.terminal.annotated import coco, picture, put

BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [4, 3, 10, 12]}
IMAGE = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}


def refused(source: Path, format: str = "auto") -> str:
    with pytest.raises(BadDataset) as caught:
        read_source(source, format)
    return caught.value.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": [BOX | {"bbox": [4, 3, 37, 12]}]}, "annotation 1 (a.png): the coordinate 1.025 lies outside"),
        ({"annotations": [BOX | {"bbox": [4, 3, 0, 12]}]}, "is inverted or empty"),
        ({"annotations": [BOX | {"bbox": [4, 3, -2, 12]}]}, "in pixels 4, 3, 2, 15, of a picture of 40x30"),
        ({"annotations": [BOX | {"bbox": [4, 3, 10]}]}, "x, y, width and height would be right"),
        ({"annotations": [BOX | {"bbox": [4, 3, 10, True]}]}, "a number of the bbox is True"),
        ({"annotations": [BOX | {"bbox": [4, 3, 10, 10**400]}]}, "a number would be right"),
        ({"annotations": [BOX | {"bbox": None}]}, "annotation 1 (a.png): the bbox is None"),
        ({"annotations": [BOX | {"segmentation": [[0, 0, 4, 3, 8, 6]]}]}, "a polygon without area"),
        ({"annotations": [BOX | {"segmentation": [[0, 0, 9, 9, 9, 0, 0, 5]]}]}, "edges cross or touch each other"),
        ({"annotations": [BOX | {"segmentation": [[0, 0, 5]]}]}, "a polygon of 3 numbers"),
        ({"annotations": [BOX | {"segmentation": [7]}]}, "the segmentation is not a list of polygons"),
        ({"annotations": [BOX | {"category_id": 8}]}, "there is no category of the id 8"),
        ({"annotations": [BOX | {"image_id": 2}]}, "annotation 1: there is no image of the id 2"),
        ({"annotations": [BOX | {"image_id": [1]}]}, "there is no image of the id [1]"),
        ({"annotations": [7]}, '"annotations" is not a list of objects'),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "category 7: the id is there twice"),
        ({"categories": [{"id": 7, "name": "dent"}, {"id": 8, "name": "dent"}]}, "the name belongs to 2 ids"),
        ({"categories": [{"id": 7}]}, "category 7: the name is 'None'"),
        ({"categories": [{"id": 7, "name": " dent"}]}, "begins or ends with a space"),
        ({"images": [IMAGE, IMAGE]}, "image 1: the id is there twice"),
        ({"images": [IMAGE, IMAGE | {"id": 2}]}, "image 2 (a.png): the picture was named before"),
        ({"images": [IMAGE | {"id": None}]}, "image number 1: the id is 'None'"),
        ({"images": [IMAGE | {"file_name": "no.png"}]}, 'there is no picture "no.png"'),
        ({"images": [IMAGE | {"file_name": 3}]}, "the file_name is '3'"),
        ({"images": [IMAGE | {"width": 41}]}, "the size is 41x30, but the picture has 40x30"),
        ({"images": [IMAGE | {"width": "wide"}]}, "the width is wide; a number"),
        ({"images": [IMAGE | {"width": 1e999}]}, "is nested"),
    ],
)
def test_coco_names_what_is_wrong_and_where(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = coco(tmp_path, **changes)
    if "is nested" in words:  # json writes a number that is too large as Infinity
        words = "has Infinity, which is no JSON"
    told = refused(tmp_path)
    assert words in told and file.name in told


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/passwd", "C:\\data\\a.png", "..\\a.png", "x/../../a.png", "\\\\host\\a.png", "a\0.png"]
)
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.png")
    coco(tmp_path / "inside", images=[IMAGE | {"file_name": name}])
    assert "leaves the folder" in refused(tmp_path / "inside")


def test_no_link_leaves_the_folder(tmp_path: Path) -> None:
    """Neither a link to a picture, nor one to a folder, nor one to a text file with boxes."""
    outside = put(tmp_path / "outside" / "a.png")
    inside = tmp_path / "inside"
    coco(inside, images=[IMAGE | {"file_name": "link.png"}])
    (inside / "images" / "link.png").symlink_to(outside)
    assert "is a link that leaves the folder" in refused(inside)
    coco(inside, images=[IMAGE | {"file_name": "far/a.png"}])
    (inside / "images" / "far").symlink_to(outside.parent)
    assert 'there is no picture "far/a.png"' in refused(inside)
    yolo = tmp_path / "yolo"
    put(yolo / "data.yaml", "names: [dent]\ntrain: images\n")
    put(yolo / "images" / "a.png")
    put(tmp_path / "secret.txt", "0 0.5 0.5 1 1")
    (yolo / "labels").mkdir()
    (yolo / "labels" / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert "labels/a.txt is a link that leaves the folder" in refused(yolo)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [], "categories": [], "images": []}', 'the key "images" 2 times'),
        ('{"images": [NaN], "categories": []}', "has NaN, which is no JSON"),
        ('{"images": [-Infinity], "categories": []}', "has -Infinity, which is no JSON"),
        ('{"images": [], "categories": [}', "is not JSON, line 1, column 31"),
        ('{"images": %s, "categories": 1}' % ("[" * 100_000 + "]" * 100_000), "is nested too deep"),
        ('{"images": %s, "categories": 1}' % ("9" * 5000), "instances.json"),
        (b'{"images": [], "categories": "\xff"}', "is not UTF-8 text"),
        ('{"images": {}, "categories": []}', '"images" is not a list of objects'),
        ('["images", "categories"]', "is not a list of objects"),
    ],
)
def test_json_that_is_none_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    coco(tmp_path)
    put(tmp_path / "annotations" / "instances.json", text)
    assert words in refused(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a byte more than the limit is, whatever its size."""
    file = coco(tmp_path)
    with file.open("r+b") as opened:
        opened.truncate(100 << 20)
    began = time.monotonic()
    assert "has more than 64 MiB; divide it" in refused(tmp_path)
    assert time.monotonic() - began < 20
    monkeypatch.setattr(documents, "MAX_JSON_BYTES", 10)
    coco(tmp_path)
    assert "has more than 10 bytes" in refused(tmp_path)


def test_what_cannot_be_read_says_nothing_of_the_format(tmp_path: Path) -> None:
    """Both ends of what can be are looked at."""
    assert documents.peek(tmp_path / "nowhere", 5) == b""
    assert documents.peek(put(tmp_path / "text", "0123456789"), 3) == b"012789"
    assert documents.peek(tmp_path / "text", 8) == b"0123456789"


@pytest.mark.attack
def test_a_million_annotations_are_answered_in_time(tmp_path: Path) -> None:
    """Of one picture: they are counted, not looked at."""
    file = coco(tmp_path, annotations=[])
    box = '{"image_id":1,"category_id":7,"bbox":[1,1,2,2]}'
    put(file, file.read_text(encoding="utf-8").replace("[]}", f"[{','.join([box] * 1_000_000)}]}}"))
    began = time.monotonic()
    assert "1000000 annotations of one picture; at most 1000" in refused(tmp_path)
    assert time.monotonic() - began < 60


def test_more_regions_than_a_picture_may_have_are_refused(tmp_path: Path) -> None:
    coco(tmp_path, annotations=[BOX | {"bbox": [n % 40, n / 40, 0.5, 0.5]} for n in range(1001)])
    assert "1001 annotations of one picture; at most 1000" in refused(tmp_path)


def test_the_first_mistakes_are_told_and_the_others_counted(tmp_path: Path) -> None:
    coco(tmp_path, annotations=[BOX | {"id": n, "category_id": 9} for n in range(50)])
    told = refused(tmp_path).splitlines()
    assert told[0].endswith("50 mistakes") and told[-1].strip() == "and 30 more" and len(told) == 22


LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>'


def voc(body: str = "", size: str = "<size><width>40</width><height>30</height></size>", name: str = "a.png") -> str:
    return f"<annotation><filename>{name}</filename>{size}{body}</annotation>"


def entry(x_min: object = 1, y_min: object = 1, x_max: object = 40, y_max: object = 30, name: str = "dent") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (x_min, y_min, x_max, y_max), strict=True)
    bounds = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><bndbox>{bounds}</bndbox></object>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "has a DOCTYPE"),
        (OUTSIDE, "has a DOCTYPE"),
        ("<annotation>" * 5000, "is nested too deep"),
        (voc("<object>"), "is not XML, line 1"),
        (voc(entry(x_max=50)), "a.xml, object 1 (JPEGImages/a.png): the coordinate 1.25 lies outside"),
        (voc(entry(x_max=3) + entry(x_min=30, x_max=20)), "object 2 (JPEGImages/a.png): the box"),
        (voc(entry(x_min="nan")), "the coordinate nan lies outside"),
        (voc(entry(x_min="left")), "xmin is left; a number"),
        (voc(entry(name="")), "the name is ''"),
        (voc("<object><name>dent</name></object>"), "there is no bndbox"),
        (voc(size="<size><width>30</width><height>40</height></size>"), "EXIF"),
        (voc(name="../a.png"), "leaves the folder"),
    ],
)
def test_voc_names_what_is_wrong_and_where(tmp_path: Path, text: str, words: str) -> None:
    put(tmp_path / "JPEGImages" / "a.png")
    put(tmp_path / "Annotations" / "a.xml", text)
    assert words in refused(tmp_path, "voc")


def test_voc_lists_name_pictures_that_are_there_once(tmp_path: Path) -> None:
    put(tmp_path / "JPEGImages" / "a.png")
    put(tmp_path / "Annotations" / "a.xml", voc(entry()))
    put(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    put(tmp_path / "ImageSets" / "Main" / "val.txt", "a\n")
    told = refused(tmp_path)
    assert "train.txt, line 2 (b): there is no picture" in told
    assert "val.txt, line 1 (a): the picture is in train, too" in told


def test_a_box_over_the_whole_picture_is_read_of_voc(tmp_path: Path) -> None:
    """From 1 to the width, both included; one pixel more is put on the edge, and told."""
    put(tmp_path / "JPEGImages" / "a.png")
    for body, warnings in ((entry(), 0), (entry(x_max=41, y_max=31), 1)):
        put(tmp_path / "Annotations" / "a.xml", voc(body))
        found = read_source(tmp_path)
        assert found.pictures[0].annotations[0].bounds == (0.0, 0.0, 1.0, 1.0)
        assert len(found.warnings) == warnings


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 1", "4 fields"),
        ("0 0.5 0.5 1 1 0.9", "6 fields"),
        ("2 0.5 0.5 1 1", "the class is 2; a number of a class, 0 to 0"),
        ("-1 0.5 0.5 1 1", "the class is -1"),
        ("dent 0.5 0.5 1 1", "the class is dent"),
        ("9" * 5000 + " 0.5 0.5 1 1", "the class is 9999"),
        ("0 0.5 0.5 1 1.2", "lies outside"),
        ("0 5 5 10 10", "lies outside"),
        ("0 nan 0.5 1 1", "lies outside"),
        ("0 0.5 0.5 0 1", "is inverted or empty"),
        ("0 0.5 0.5 one 1", "a coordinate is one; a number"),
        ("0 0 0 1 1 1 0 0 0.5", "edges cross"),
    ],
)
def test_yolo_names_file_line_and_picture(tmp_path: Path, line: str, words: str) -> None:
    put(tmp_path / "data.yaml", "names: [dent]\ntrain: images\n")
    put(tmp_path / "images" / "a.png")
    put(tmp_path / "labels" / "a.txt", f"0 0.5 0.5 1 1\n{line}\n")
    told = refused(tmp_path)
    assert "labels/a.txt, line 2 (images/a.png)" in told and words in told


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [dent, dent]\ntrain: images\n", 'the class "dent" has 2 numbers'),
        ("names: [dent]\nnc: 2\ntrain: images\n", "nc is 2, and names has 1"),
        ("names: {a: dent}\ntrain: images\n", 'names has "a: dent"'),
        ("names: {0: dent, 00: rust}\ntrain: images\n", 'names has "00: rust"'),
        ("names: {0: dent, 0: rust}\ntrain: images\n", 'the key "0" is there twice'),
        ("names: dent\ntrain: images\n", "names is no list of classes"),
        ("names: [dent]\ntrain: nowhere\n", 'data.yaml, train: there are no pictures in "nowhere"'),
        ("names: [dent]\ntrain: /data/images\n", "leaves the folder"),
        ("names: [dent]\ntrain: ../../images\n", "leaves the folder"),
        ("names: [dent]\ntrain: images\nval: images\n", "is in train, too"),
        ("names: [dent]\nkpt_shape: [17, 3]\ntrain: images\n", "poses are not read"),
        ("names: &a [dent]\ntrain: images\nother: *a\n", "has an alias"),
        ("names: [dent\n", "is not YAML, line 2"),
        ("names: !!python/object/apply:os.system ['exit']\ntrain: images\n", ""),
        ("names: " + "[" * 2000, "data.yaml"),
        ("names: [" + "x" * 200_000 + "]", "has more than"),
    ],
)
def test_data_yaml_names_what_is_wrong(tmp_path: Path, yaml: str, words: str) -> None:
    """Nothing in it is constructed: what a tag wants to be is a list of texts here."""
    put(tmp_path / "data.yaml", yaml)
    put(tmp_path / "images" / "a.png")
    if not words:
        assert read_source(tmp_path).pictures[0].unlabelled
    else:
        assert words in refused(tmp_path)


def test_a_text_of_boxes_without_its_picture_is_named(tmp_path: Path) -> None:
    put(tmp_path / "data.yaml", "names: [dent]\ntrain: images\n")
    put(tmp_path / "images" / "a.png")
    for name in ("a", "b"):
        put(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 1 1\n")
    assert refused(tmp_path) == "labels/b.txt: there is no picture of this name"


def item(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "annotations": [], "image": {"path": "a.png", "size": [30, 40]}} | changes


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([item(), item()], "item a: the id is there twice"),
        ([item(id=3)], "item number 1: the id is no text"),
        ([item(image={"path": "b.png"})], 'item a: there is no picture "b.png"'),
        ([item(image={"path": "a.png", "size": [40, 30]})], "the size is 30x40, but the picture has 40x30"),
        ([item(image={"path": "a.png", "size": 3})], "height and width would be right"),
        ([item(annotations=[{"id": 5, "type": "bbox", "label_id": 0, "bbox": [0, 0, 50, 1]}])], "item a, annotation 5"),
        ([item(annotations=[{"type": "bbox", "label_id": 4, "bbox": [0, 0, 5, 1]}])], "the label_id is 4; 0 to 1"),
        ([item(annotations=[{"type": "polygon", "label_id": 0, "points": 3}])], "the points are no list"),
        ([item(annotations=[{"type": "label", "label_id": n} for n in (0, 1)])], "has 2 classes as a whole"),
    ],
)
def test_datumaro_names_what_is_wrong_and_where(tmp_path: Path, items: list[Any], words: str) -> None:
    labels = [{"name": "dent"}, {"name": "rust"}]
    put(tmp_path / "images" / "train" / "a.png")
    document = {"categories": {"label": {"labels": labels}}, "items": items}
    put(tmp_path / "annotations" / "train.json", json.dumps(document))
    told = refused(tmp_path)
    assert words in told and "train.json" in told


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.png,dent,1,1,50,9,,", "line 2 (a.png): the coordinate 1.25 lies outside"),
        ("a.png,dent,1,1,,9,,", "x_max is ; a number"),
        ("a.png,dent,1,1,5,9,0 0 5 5 5 0,", "a box and a polygon"),
        ("a.png,,1,1,5,9,,", "the class '' is empty"),
        ("b.png,dent,1,1,5,9,,", 'line 2 (b.png): there is no picture "b.png"'),
        ("a.png,dent,1,1,5,9,,\na.png,,,,,,,nothing there", "nothing is there, and another one has a region"),
        ("a.png,ok,,,,,,\na.png,bad,,,,,,", "several classes as a whole"),
        ("a.png,ok,,,,,,maybe", 'the state is "maybe"'),
    ],
)
def test_csv_names_its_lines(tmp_path: Path, rows: str, words: str) -> None:
    put(tmp_path / "a.png")
    file = put(tmp_path / "list.csv", f"path,label,x_min,y_min,x_max,y_max,polygon,state\n{rows}\n")
    told = refused(file)
    assert words in told and "list.csv" in told


def test_a_picture_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    """As with folders: the others are sent."""
    coco(tmp_path, images=[IMAGE, IMAGE | {"id": 2, "file_name": "b.png"}])
    put(tmp_path / "images" / "b.png", b"\x89PNG\r\n\x1a\nno picture")
    found = read_source(tmp_path)
    assert [one.filename for one in found.pictures] == ["images/a.png"]
    assert [one.filename for one in found.unreadable] == ["images/b.png"]


def test_splits_of_some_pictures_only_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "JPEGImages" / "a.png")
    put(tmp_path / "JPEGImages" / "b.png", picture(shade=9))
    put(tmp_path / "Annotations" / "a.xml", voc(entry()))
    put(tmp_path / "Annotations" / "b.xml", voc(entry(), name="b.png"))
    put(tmp_path / "ImageSets" / "Main" / "train.txt", "a\n")
    assert "1 pictures have no split and others have, the first: JPEGImages/b.png" in refused(tmp_path)


def test_two_spellings_of_one_name_are_a_question(tmp_path: Path) -> None:
    for name in ("ru\u0308ck.png", "r\u00fcck.png"):
        put(tmp_path / "images" / name)
    coco(tmp_path, images=[IMAGE | {"file_name": "r\u00fcck.png"}])
    assert "is 2 files whose names are spelled otherwise" in refused(tmp_path)
