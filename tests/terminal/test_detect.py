"""loupe detect: which model, which pictures, lines that nothing can forge, and copies that show what was found."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loupe.tasks import TASKS
from loupe.terminal import pull
from loupe.terminal.detector import Box, Detections, Found
from loupe.terminal.drawing import LONGEST_SIDE, MOST_DRAWN, Drawings, colours_of, drawn
from tests.terminal.conftest import DETECTED
from tests.terminal.fake_mesh import FakeMesh
from tests.terminal.test_detector import board

RED, GREEN, _ = DETECTED


def lines(result: Any) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """Three pictures: one with nothing, one with something red, one with something red and something green."""
    root = tmp_path / "boards"
    (root / "deep").mkdir(parents=True)
    board(root / "0.png")
    board(root / "1.png", red=(50, 25, 150, 75))
    board(root / "deep" / "2.png", red=(0, 0, 100, 50), green=(100, 50, 200, 100))
    return root


def test_each_picture_gets_a_line_with_what_was_found(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], boards: Path
) -> None:
    result = command_line("detect", make_detector(), boards)
    assert result.exit_code == 0, result.output
    nothing, one, two = lines(result)
    assert nothing == [str(boards / "0.png"), "nothing"]
    label, confidence, edges = one[1].rsplit(" ", 2)
    assert (one[0], label, len(one)) == (str(boards / "1.png"), RED, 2) and float(confidence) > 0.9
    assert all(abs(int(found) - edge) <= 5 for found, edge in zip(edges.split(","), (50, 25, 150, 75), strict=True))
    assert {field.rsplit(" ", 2)[0] for field in two[1:]} == {RED, GREEN}


def test_programs_get_boxes_in_pixels_and_in_parts(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], boards: Path
) -> None:
    (boards / "broken.png").write_bytes(b"no picture")
    result = command_line("detect", make_detector(), boards, "--json")
    assert result.exit_code == 6
    nothing, one, broken, two = map(json.loads, result.stdout.splitlines())
    assert nothing == {"path": str(boards / "0.png"), "width": 200, "height": 100, "found": [], "problem": ""}
    (found,) = one["found"]
    assert set(found) == {"label", "confidence", "box", "pixels"} and set(found["box"]) == {"x0", "y0", "x1", "y1"}
    assert found["pixels"]["x1"] == pytest.approx(200 * found["box"]["x1"]) and 0 < found["confidence"] <= 1
    assert broken["problem"] and broken["found"] == [] and len(two["found"]) == 2


def test_files_folders_patterns_and_lists_go_together(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], boards: Path
) -> None:
    result = command_line("detect", make_detector(), boards / "deep", f"{boards}/?.png", "-", input=b"nowhere.png\n")
    assert result.exit_code == 6, result.output
    assert [Path(line[0]).name for line in lines(result)] == ["2.png", "0.png", "1.png", "nowhere.png"]
    assert lines(result)[3][1].startswith("error: ") and "1 of 4 pictures could not be read" in result.stderr


def test_no_pictures_is_bad_input(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    model, empty = make_detector(), tmp_path / "empty"
    empty.mkdir()
    for words in ([], [empty], [f"{empty}/*.png"], ["-"]):
        result = command_line("detect", model, *words, input=b"")
        assert result.exit_code == 6 and result.stdout == "", words
    assert "nothing to look through: the folder" in " ".join(command_line("detect", model, empty).stderr.split())


def test_a_model_is_pulled_checked_and_used_without_the_mesh_afterwards(
    command_line: Callable[..., Any],
    mesh: FakeMesh,
    add_version: Callable[..., Any],
    make_detector: Callable[..., Path],
    boards: Path,
) -> None:
    add_version(1, model="boards", folder=make_detector())
    pulled = command_line("model", "pull", "boards")
    assert pulled.exit_code == 0, pulled.output
    mesh.access_tokens.clear()
    mesh.refresh_token = "another"  # every call that goes to the mesh fails from now on
    result = command_line("detect", "boards", boards / "1.png")
    assert result.exit_code == 0 and lines(result)[0][1].startswith(RED)
    other = command_line("classify", "boards", boards / "1.png")
    assert other.exit_code == 6 and "`loupe detect` answers with this one" in " ".join(other.stderr.split())


def test_a_detector_that_answers_otherwise_here_is_not_installed(
    command_line: Callable[..., Any], add_version: Callable[..., Any], make_detector: Callable[..., Path], boards: Path
) -> None:
    import numpy as np

    made = make_detector(golden={"classes": np.array([0, 2])})
    # What comes with a model cannot say that it was checked here.
    (made / "checked.json").write_text("{}")
    add_version(1, model="boards", folder=made)
    assert command_line("model", "pull", "boards").exit_code == 3
    assert command_line("detect", "boards", boards).exit_code == 4


def test_the_models_of_every_task_are_checked_when_they_are_pulled() -> None:
    assert set(pull._CHECKS) == set(TASKS)


def test_a_classifier_is_no_detector(
    command_line: Callable[..., Any], make_model: Callable[..., Path], boards: Path
) -> None:
    result = command_line("detect", make_model(), boards)
    assert result.exit_code == 6 and "`loupe classify` answers with this one" in " ".join(result.stderr.split())


def test_a_label_forges_no_line(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], boards: Path
) -> None:
    forged = "ok\t0.5000\n/line-7/part-0815.png\tnothing\x1b[1A"
    result = command_line("detect", make_detector(document={"labels": [forged, "b", "c"]}), boards / "1.png")
    (line,) = result.stdout.splitlines()
    assert r"ok\t0.5000\n/line-7/part-0815.png\tnothing\x1b[1A 1.0000 " in line and len(line.split("\t")) == 2


def test_what_is_less_sure_is_left_out(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), (180, 10, 10)).save(tmp_path / "a.png")
    model = make_detector()
    assert lines(command_line("detect", model, tmp_path / "a.png"))[0][1].startswith(RED)
    assert lines(command_line("detect", model, tmp_path / "a.png", "--min-confidence", "0.8"))[0][1] == "nothing"
    assert command_line("detect", model, tmp_path / "a.png", "--min-confidence", "nan").exit_code == 6


def test_copies_show_what_was_found_and_none_is_written_over(
    command_line: Callable[..., Any], make_detector: Callable[..., Path], boards: Path, tmp_path: Path
) -> None:
    model, found = make_detector(), tmp_path / "found"
    board(boards / "deep" / "1.png")
    (boards / "bad.png").write_bytes(b"no picture")
    result = command_line("detect", model, boards, "--draw", found)
    assert result.exit_code == 6, result.output
    drawings = {line[0]: Path(line[-1]) for line in lines(result) if "bad.png" not in line[0]}
    assert {path.name for path in drawings.values()} == {
        "0.detected.png", "1.detected.png", "1.2.detected.png", "2.detected.png",
    }  # fmt: skip
    assert sorted(found.iterdir()) == sorted(drawings.values())
    with Image.open(drawings[str(boards / "1.png")]) as shown:
        assert shown.size == (200, 100)
        colours = shown.convert("RGB").getcolors(1 << 16) or []
        assert max(count for count, colour in colours if colour == colours_of(DETECTED)[RED]) > 200
    before = {path: path.read_bytes() for path in found.iterdir()}
    again = command_line("detect", model, boards / "1.png", "--draw", found, "--json")
    assert Path(json.loads(again.stdout)["drawing"]).name == "1.3.detected.png"
    assert all(path.read_bytes() == data for path, data in before.items())
    inside = command_line("detect", model, boards, "--draw", boards / "found")
    assert inside.exit_code == 6 and "a folder outside of" in inside.stderr and not (boards / "found").exists()


def test_a_drawing_never_leaves_its_folder_nor_follows_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"mine")
    found = tmp_path / "found"
    found.mkdir()
    (found / "a.detected.png").symlink_to(kept)
    (found / "a.2.detected.png").symlink_to(tmp_path / "nowhere.png")
    drawings = Drawings(found, DETECTED)
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / "a.png", tmp_path / "in" / ".." / "in" / "a.png", tmp_path / "in" / ("ü" * 110 + ".png")]
    written = [drawings.write(Detections(board(path), [], 200, 100)) for path in paths]
    assert [path and path.parent for path in written] == [found] * 3
    assert written[0] == found / "a.3.detected.png" and written[1] == found / "a.4.detected.png"
    assert kept.read_bytes() == b"mine" and not (tmp_path / "nowhere.png").exists()
    assert drawings.write(Detections(tmp_path / "gone.png", [], 200, 100)) is None


def test_any_label_and_any_number_of_boxes_can_be_drawn(tmp_path: Path) -> None:
    wild = ["", "x" * 5000, "a\nb\x1b[2J", "\ud800", "零件", "\u202egnp"]
    tiny = Box(0.999, 0.999, 1.0, 1.0)
    found = [Found(label, 0.5, box, box) for label in wild for box in (Box(0, 0, 1, 1), tiny, Box(0, 0, 1e-9, 1e-9))]
    for size in ((200, 100), (1, 1), (3000, 20)):
        path = board(tmp_path / "a.png", size)
        copy = drawn(Detections(path, found * MOST_DRAWN, *size), colours_of(wild))
        assert max(copy.size) == min(max(size), LONGEST_SIDE)


def test_a_copy_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (10, 10, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert drawn(Detections(tmp_path / "a.jpg", [], 20, 40), {}).size == (20, 40)


def test_classes_differ_in_colour() -> None:
    colours = list(colours_of([str(number) for number in range(8)]).values())
    assert min(
        sum(abs(one - other) for one, other in zip(left, right, strict=True))
        for left, right in itertools.combinations(colours, 2)
    ) > 60  # fmt: skip


def test_ctrl_c_ends_a_list_that_does_not_end(make_detector: Callable[..., Path], boards: Path) -> None:
    command = [sys.executable, "-c", "from loupe.terminal.cli import main; main()", "detect", str(make_detector()), "-"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOUPE_")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(f"{boards / '1.png'}\n")
            process.stdin.flush()
            assert process.stdout.readline().split("\t")[1].startswith(RED)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
