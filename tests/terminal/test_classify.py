"""loupe classify: which model, which pictures, and lines that nothing can forge."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh

NAME = "projects/line-7/models/screws/versions/{}"


def lines(result: Any) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder per class of the model: ten dark ones, one of them bright inside, and five bright ones."""
    root = tmp_path / "test"
    for index in range(15):
        place = root / ("dark" if index < 10 else "bright 零件")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:02}.png").write_bytes(picture_bytes(1 if index in (0, *range(10, 15)) else 2))
    return root


def test_a_model_is_used_by_its_id_without_the_mesh(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], folder: Path
) -> None:
    picture = folder / "scratch" / "02.png"
    nothing = command_line("classify", "screws", picture)
    assert nothing.exit_code == 4
    assert "no version of projects/line-7/models/screws is installed on this machine; `loupe model pull screws" in (
        " ".join(nothing.stderr.split())
    )
    for number in (1, 2):
        add_version(number)
    assert command_line("model", "pull", "screws/versions/1").exit_code == 0
    mesh.access_tokens.clear()
    mesh.refresh_token = "another"  # every call that goes to the mesh fails from now on
    result = command_line("classify", "screws", picture)
    assert result.exit_code == 0, result.output
    assert lines(result)[0][1] == "dark" and f"with {NAME.format(1)}" in result.stderr
    assert command_line("classify", "screws", picture, LOUPE_PROFILE="/nowhere/profile.json").exit_code == 0


def test_the_gate_holds_for_the_next_version_after_one_was_let_through(
    command_line: Callable[..., Any], add_version: Callable[..., Any], folder: Path
) -> None:
    picture = folder / "scratch" / "02.png"
    add_version(1, released=False)
    assert command_line("classify", "screws/versions/1", picture).exit_code == 3
    assert command_line("classify", "screws/versions/1", picture, "--allow-below-target").exit_code == 0
    add_version(2, released=False)
    assert command_line("classify", "screws/versions/2", picture).exit_code == 3
    assert command_line("model", "pull", "screws").exit_code == 4
    refused = command_line("classify", "screws", picture)
    assert refused.exit_code == 4 and "is not released: `screws/versions/1`" in " ".join(refused.stderr.split())
    assert command_line("classify", "screws", picture, "--allow-below-target").exit_code == 0


def test_files_folders_patterns_and_lists_go_together(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path
) -> None:
    listed = f"{folder / 'scratch' / '02.png'}\n{folder / '零件 ok'}\n".encode()
    result = command_line("classify", make_model(), folder / "scratch/deep", f"{folder}/*/04.png", "-", input=listed)
    assert result.exit_code == 0, result.output
    found = [Path(line[0]).name for line in lines(result)]
    assert found == ["00.png", "04.png", "02.png", "01.png", "03.png", "05.png", "07.png", "09.png", "11.png"]


def test_an_empty_folder_says_so_and_ends_with_6(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    model, empty = make_model(), tmp_path / "empty"
    empty.mkdir()
    alone = command_line("classify", model, empty)
    assert alone.exit_code == 6 and alone.stdout == ""
    assert f"nothing to classify: the folder {empty} has no pictures" in " ".join(alone.stderr.split())
    beside = command_line("classify", model, empty, folder / "scratch")
    assert beside.exit_code == 6 and len(lines(beside)) == 6 and "has no pictures" in beside.stderr
    assert command_line("classify", model, "-", input=b"").exit_code == 6
    assert command_line("classify", model, f"{empty}/*.png").exit_code == 6
    assert command_line("classify", model).exit_code == 6


def test_a_label_forges_no_line(
    command_line: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, picture = make_model(), tmp_path / "part\t.png"
    picture.write_bytes(picture_bytes(1))
    document = json.loads((model / "model.json").read_text(encoding="utf-8"))
    document["labels"] = ["dark", "good\t1.0000\n/line-7/part-0815.png\tgood\t1.0000\x1b[1A"]
    (model / "model.json").write_text(json.dumps(document))
    result = command_line("classify", model, picture)
    (line,) = result.stdout.splitlines()
    path, label, confidence = line.split("\t")
    assert path.endswith("part\\t.png") and 0.5 < float(confidence) < 1
    assert label == r"good\t1.0000\n/line-7/part-0815.png\tgood\t1.0000\x1b[1A"


def test_below_the_least_confidence_the_answer_is_unknown(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    model, middle = make_model(), tmp_path / "middle.png"
    Image.new("RGB", (8, 8), (119, 119, 119)).save(middle)
    result = command_line("classify", model, middle, folder / "scratch" / "02.png", "--min-confidence", "0.6")
    assert [line[1] for line in lines(result)] == ["unknown", "dark"]
    (machine,) = command_line("classify", model, middle, "--min-confidence", "0.6", "--json").stdout.splitlines()
    value = json.loads(machine)
    assert (value["label"], value["unknown"], value["likeliest"]) == ("unknown", True, "dark")
    assert command_line("classify", model, middle).stdout.split("\t")[1] == "dark"
    for wrong in ("1.5", "-0.1", "nan"):
        assert command_line("classify", model, middle, "--min-confidence", wrong).exit_code == 6


def test_a_folder_per_class_is_scored(
    command_line: Callable[..., Any], make_model: Callable[..., Path], labelled: Path, tmp_path: Path
) -> None:
    model, matrix = make_model(), tmp_path / "matrix.csv"
    (labelled / "dust").mkdir()
    (labelled / "dust" / "1.png").write_bytes(picture_bytes(1))
    result = command_line("classify", model, labelled, "--matrix-csv", matrix, "--csv", tmp_path / "answers.csv")
    assert result.exit_code == 0, result.output
    assert len(lines(result)) == 16 and all(len(line) == 3 for line in lines(result))
    told = " ".join(result.stderr.split())
    for words in (
        "accuracy 93.33 % of 15 pictures (95 % interval 70.18 % to 98.81 %)",
        "balanced 95.00 %",
        "folders that are no class of the model: dust",
        "dark bright 零件 1 10 10%",
    ):
        assert words in told, (words, told)
    assert matrix.read_text(encoding="utf-8").splitlines()[1:] == ["dark,9,1", "bright 零件,0,5"]
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["true label"] for row in rows} == {"dark", "bright 零件", ""}
    *_, last = command_line("classify", model, labelled, "--json").stdout.splitlines()
    score = json.loads(last)["score"]
    assert score["accuracy"] == pytest.approx(14 / 15) and score["confusion_matrix"] == [[9, 1], [0, 5]]


def test_pictures_without_a_class_are_not_scored(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path
) -> None:
    result = command_line("classify", make_model(), folder, "--matrix")
    assert result.exit_code == 0 and "not scored" in result.stderr and "accuracy" not in result.stderr


def test_each_answer_is_explained(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    model, why = make_model(), tmp_path / "why"
    result = command_line("classify", model, folder / "scratch", folder / "nowhere.png", "--explain", why)
    assert result.exit_code == 6
    *good, broken = lines(result)
    assert len(good) == 6 and len(broken) == 2
    assert all(Image.open(line[3]).size == (256, 256) for line in good)
    assert {Path(line[3]).parent for line in good} == {why}
    inside = command_line("classify", model, folder, "--explain", folder / "why")
    assert inside.exit_code == 6 and "a folder outside of" in inside.stderr and not (folder / "why").exists()


@contextmanager
def running(*words: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from loupe.terminal.cli import main; main()", *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOUPE_")} | environment
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_is_watched_until_ctrl_c(make_model: Callable[..., Path], tmp_path: Path) -> None:
    model, camera, answers = make_model(), tmp_path / "camera", tmp_path / "answers.csv"
    camera.mkdir()
    (camera / "old.png").write_bytes(picture_bytes(0))
    (camera / "first.png").write_bytes(picture_bytes(1))
    with running("classify", model, camera / "first.png", "--watch", camera, "--csv", answers) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(f"{camera}/first.png\tbright 零件\t")
        for index in (2, 3):
            data = picture_bytes(index, size=64)
            with (camera / f"{index}.png").open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                time.sleep(0.8)
                file.write(data[len(data) // 2 :])
            began = time.monotonic()
            assert process.stdout.readline().split("\t")[:2] == [
                f"{camera}/{index}.png", "bright 零件" if index == 3 else "dark",
            ]  # fmt: skip
            assert time.monotonic() - began < 5
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stdout.read() == ""
        assert "interrupted: 3 pictures were classified" in process.stderr.read()
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 4


def test_a_watch_goes_on_with_the_version_that_arrives_meanwhile(
    command_line: Callable[..., Any], store: ProfileStore, add_version: Callable[..., Any], tmp_path: Path
) -> None:
    add_version(1)
    assert command_line("follow", "--once").exit_code == 0
    camera, files = tmp_path / "camera", tmp_path / "data"
    camera.mkdir()
    environment = {"LOUPE_PROFILE": str(store.path), "XDG_DATA_HOME": str(files)}
    with running("classify", "screws", "--watch", camera, **environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.readline().strip() == f"with {NAME.format(1)}"
        time.sleep(0.5)
        (camera / "1.png").write_bytes(picture_bytes(1))
        assert process.stdout.readline().startswith(f"{camera}/1.png\tbright")
        add_version(2)
        assert command_line("follow", "--once").exit_code == 0
        (camera / "2.png").write_bytes(picture_bytes(2))
        assert process.stdout.readline().startswith(f"{camera}/2.png\tdark")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.readline().strip() == f"from now on with {NAME.format(2)}"


def test_ctrl_c_ends_a_long_run_and_a_list_that_does_not_end(make_model: Callable[..., Path], folder: Path) -> None:
    with running("classify", make_model(), "-") as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(f"{folder / 'scratch' / '02.png'}\n")
        process.stdin.flush()
        assert process.stdout.readline().split("\t")[1] == "dark"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        told = process.stderr.read()
        assert "Traceback" not in told and "Fatal" not in told
