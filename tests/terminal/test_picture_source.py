"""Labelled pictures on disk: folders, folders of splits, CSV files, and everything that can be wrong with them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from loupe.errors import BadDataset, InvalidArgument
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION
from loupe.terminal.picture_source import read_pictures
from tests.terminal.conftest import picture_bytes


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(hash(path.name) % 1000) if data is None else data)
    return path


def test_class_is_the_first_level_folder_in_any_script(folder: Path) -> None:
    found = read_pictures(folder)
    assert set(found.classes) == {"scratch", "零件 ok"}
    assert [one.filename for one in found.pictures] == sorted(one.filename for one in found.pictures)
    assert ("scratch", "scratch/deep/er/00.png") in [(one.label, one.filename) for one in found.pictures]
    assert not found.given


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    put(tmp_path / unicodedata.normalize("NFD", "défaut") / "1.png")
    put(tmp_path / "ok" / "2.png")
    assert unicodedata.normalize("NFC", "défaut") in read_pictures(tmp_path).classes


def test_hidden_files_and_non_pictures_are_listed_with_the_reason(folder: Path) -> None:
    put(folder / "scratch" / ".DS_Store", b"x")
    put(folder / "scratch" / ".cache" / "1.png")
    put(folder / "scratch" / "notes.txt", b"hello")
    put(folder / "README.md", b"hello")
    (folder / "scratch" / "gone.png").symlink_to(folder / "nowhere.png")
    reasons = {one.filename: one.reason for one in read_pictures(folder).skipped}
    assert reasons["scratch/.DS_Store"] == "hidden"
    assert reasons["scratch/.cache"] == "hidden"
    assert reasons["scratch/notes.txt"].startswith("not a picture")
    assert reasons["README.md"].startswith("not inside a folder")
    assert reasons["scratch/gone.png"].startswith("not a file")
    assert len(reasons) == 5


def test_a_picture_without_an_extension_is_taken(folder: Path) -> None:
    put(folder / "scratch" / "IMG0001")
    assert "scratch/IMG0001" in {one.filename for one in read_pictures(folder).pictures}


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    put(tmp_path / "a" / "notes.txt", b"x")
    with pytest.raises(BadDataset, match=r"no pictures .*1 files were skipped.*a folder per class") as caught:
        read_pictures(tmp_path)
    assert caught.value.metadata["problem"] == "empty"


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    put(tmp_path / "ok" / "1.png")
    put(tmp_path / "bad" / "2.png")
    (tmp_path / "scratch").mkdir()
    (one,) = read_pictures(tmp_path).skipped
    assert (one.filename, one.reason) == ("scratch", "an empty folder")


def test_good_parts_alone_are_a_source(tmp_path: Path) -> None:
    put(tmp_path / "ok" / "1.png")
    assert read_pictures(tmp_path).classes == {"ok": 1}


def test_folders_of_splits_are_the_users_own_split(tmp_path: Path) -> None:
    for split in ("train", "Valid", "test"):
        for label in ("ok", "bad"):
            put(tmp_path / split / label / f"{split}-{label}.png")
    found = read_pictures(tmp_path)
    assert found.given
    assert set(found.classes) == {"ok", "bad"}
    assert {one.split for one in found.pictures} == {SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST}


def test_classes_called_train_and_test_are_classes(tmp_path: Path) -> None:
    put(tmp_path / "train" / "1.png")
    put(tmp_path / "test" / "2.png")
    found = read_pictures(tmp_path)
    assert set(found.classes) == {"train", "test"}
    assert not found.given


@pytest.mark.parametrize("label", [" ok", "ok ", "a\nb", "x" * 129, "o\u200bk", "\u202eok", "\ue000"])
def test_a_bad_class_name_is_refused_with_its_place(tmp_path: Path, label: str) -> None:
    put(tmp_path / "ok" / "1.png")
    put(tmp_path / "pictures" / "2.png")
    listing = tmp_path / "list.csv"
    listing.write_text(f'path,label\nok/1.png,ok\npictures/2.png,"{label}"\n', encoding="utf-8")
    with pytest.raises(BadDataset, match=r"line [34]: the class .*1 to 128 characters"):
        read_pictures(listing)


def test_csv_labels_may_have_slashes_and_any_script(tmp_path: Path) -> None:
    put(tmp_path / "p" / "1.png")
    put(tmp_path / "p" / "2.png")
    listing = tmp_path / "list.csv"
    listing.write_bytes("\ufeffpath,label,note\np/1.png,ok/gut,x\np/2.png,零件,y\n".encode())
    found = read_pictures(listing)
    assert [(one.label, one.split) for one in found.pictures] == [
        ("ok/gut", SPLIT_UNSPECIFIED),
        ("零件", SPLIT_UNSPECIFIED),
    ]


def test_csv_with_splits(tmp_path: Path) -> None:
    for index in range(3):
        put(tmp_path / f"{index}.png")
    listing = tmp_path / "list.csv"
    listing.write_text("path,label,split\n0.png,a,train\n1.png,b,VAL\n2.png,a,test\n", encoding="utf-8")
    found = read_pictures(listing)
    assert [one.split for one in found.pictures] == [SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, separator: str, encoding: str, newline: str) -> None:
    put(tmp_path / "1.png")
    put(tmp_path / "2, b.png")
    rows = [("PATH", "Note", "Label ", "SPLIT"), ("1.png", "", "ok", "Train"), ('"2, b.png"', "", "零件", "test")]
    listing = tmp_path / "list.CSV"
    listing.write_bytes(newline.join(separator.join(row) for row in rows).encode(encoding))
    found = read_pictures(listing)
    assert [(one.filename, one.label, one.split) for one in found.pictures] == [
        ("1.png", "ok", SPLIT_TRAIN),
        ("2, b.png", "零件", SPLIT_TEST),
    ]


def test_a_note_of_the_separator_is_no_header(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        put(tmp_path / name)
    listing = tmp_path / "list.csv"
    listing.write_text("sep=;\npath;label\n1.png;a\n2.png;\n", encoding="utf-8")
    with pytest.raises(BadDataset, match="line 4: the class '' is empty"):
        read_pictures(listing)


def test_every_row_with_a_mistake_is_named(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    listing = tmp_path / "list.csv"
    listing.write_text("path,label,split\n1.png,,train\n1.png,a,holdout\n1.png,b,\n", encoding="utf-8")
    with pytest.raises(BadDataset, match=r"(?s)2 rows cannot be taken.*line 2: the class.*line 3: the split is"):
        read_pictures(listing)


def test_files_that_are_not_there_are_left_out_with_their_line(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        put(tmp_path / name)
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\n1.png,a\nno.png,b\n2.png,b\n", encoding="utf-8")
    found = read_pictures(listing)
    assert len(found.pictures) == 2
    ((name, reason),) = [(one.filename, one.reason) for one in found.unreadable]
    assert name == "no.png" and 'line 3: there is no file "no.png"' in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.png,ok\n", "line 1: the header is"),
        ("path|label\n1.png|ok\n", 'its separator "|"; expected path,label'),
        ("path,label\nno.png,ok\n", 'line 2: there is no file "no.png"'),
        ("path,label,split\n1.png,ok,holdout\n", 'line 2: the split is "holdout"'),
        ("path,label,split\n1.png,ok,train\n2.png,bad,\n", "1 of 2 rows have no split"),
        ("path,label\n1.png,\n", "line 2: the class '' is empty"),
        ("path,label\n", "has no pictures"),
        ("", "line 1: the header is"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    listing = tmp_path / "list.csv"
    listing.write_text(text, encoding="utf-8")
    with pytest.raises(BadDataset) as caught:
        read_pictures(listing)
    assert words in caught.value.message


def test_a_csv_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    listing = tmp_path / "list.csv"
    listing.write_bytes("path,label\n1.png,Prüfteil\n".encode("latin-1"))
    with pytest.raises(BadDataset, match="not UTF-8"):
        read_pictures(listing)


def test_a_source_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="a folder with a folder of pictures per class"):
        read_pictures(tmp_path / "nowhere")
