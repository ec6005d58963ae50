"""A detector's boxes in test pictures: counted outside of its sandbox, before it sees what is right."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.algorithm.host import Split
from loupe.algorithm.region_file import RECORD, of_records, write_regions
from loupe.tasks import TASKS
from loupe.tasks.average_precision import MAX_DETECTIONS
from loupe.tasks.objective import Objective
from services.trainer.attempts.events import Event, Failed, Finished
from services.trainer.runs import intake
from services.trainer.runs.answers import answers_to
from services.trainer.runs.task_data import TaskData, seen_by
from services.trainer.sandbox.channel import ProtocolBroken
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.sandbox import Sandbox
from services.trainer.sandbox.warm import SlotPlan
from tests.trainer.fakes import MemoryStorage, Rig, make_rig

DATASET = "projects/line-7/datasets/parts/versions/1"
SECRET = 0.8765432
"""A coordinate that boxes of test pictures alone have."""
BOXES = [
    (0.25, 0.25, 0.5, 0.75), (0.5, 0.5, 0.75, 1.0),
    (0.25, 0.0, 0.5, 0.5), (0.0, 0.0, 0.25, 0.5),
    (0.25, 0.25, SECRET, 0.75), (0.25, 0.5, SECRET, 0.75), None, None,
]  # fmt: skip
SPLITS = [0, 0, 1, 1, 2, 2, 2, 0]

RUN = """
import os, struct, time
from pathlib import Path
import numpy as np
from loupe.algorithm.host import Outcome, Result
from loupe.algorithm.region_file import RECORD, of_records
from loupe.tasks.average_precision import Regions

def box(picture, kind, corners, score=0.9):
    return (picture, kind, corners, score)

def regions(*rows):
    return of_records(np.array(list(rows), RECORD), scored=True)

def finish(host, **report):
    host.finish(Result(Outcome.PLATEAU, {}, report))

def hits(host):
    wanted = [struct.pack("<f", value) for value in (SECRET,)] + [struct.pack("<d", value) for value in (SECRET,)]
    files = [path for path in host._data.rglob("*") if path.is_file()]
    return sum(any(each in path.read_bytes() for each in wanted) for path in files)

RIGHT = [box(0, 1, (0.25, 0.125, SECRET, 0.375)), box(1, 0, (0.25, 0.25, SECRET, 0.375))]

def train(host):
"""


def code(*lines: str) -> str:
    """Return an image that does these lines."""
    return f"SECRET = {SECRET}\n" + RUN + "".join(f"    {line}\n" for line in lines)


async def run(rig: Rig, *lines: str) -> Event:
    """Run an image of detection with these lines; return the attempt's last event."""
    rig.storage.add_annotated(DATASET, BOXES, SPLITS)
    objective = Objective("map50", 0.5)
    events = await rig.run(code(*lines), task="detection", dataset_version=DATASET, objective=objective)
    return events[-1]


async def report_of(rig: Rig, *lines: str) -> dict:
    last = (await run(rig, *lines)).what
    assert isinstance(last, Finished), last
    return dict(last.report)


async def test_a_run_sees_every_region_but_those_of_test_pictures(rig: Rig) -> None:
    """Their coordinates stand in no file of its folder until they are revealed; sizes are found out where they lack."""
    report = await report_of(
        rig,
        "data = host.spec().dataset",
        "before = hits(host)",
        "everything = host.reveal_test_regions(regions(*RIGHT))",
        "pixels = np.load(host.pictures(8, 8, 'letterbox'), mmap_mode='r')",
        "finish(host, before=before, after=hits(host), names=list(data.labels), splits=data.splits.tolist(),",
        "       classes=data.classes.tolist(), rows=data.regions.pictures.tolist(), boxes=data.regions.boxes.tolist(),",
        "       all=everything.pictures.tolist(), free=bool((pixels[:, 4:] == 114).all()), shape=pixels.shape)",
    )
    assert (report["before"], report["after"]) == (0, 1)
    assert report["names"] == ["dent", "hole"]
    unlabelled = Split.UNLABELLED
    assert report["splits"] == [0, 0, 1, 1, 2, 2, unlabelled, unlabelled] and set(report["classes"]) == {-1}
    assert report["rows"] == [0, 1, 2, 3]
    assert report["boxes"] == [[x0, y0 / 2, x1, y1 / 2] for x0, y0, x1, y1 in filter(None, BOXES[:4])]
    assert report["all"] == [0, 1, 2, 3, 4, 5]
    assert report["free"] and report["shape"] == [8, 8, 8, 3]


async def test_boxes_are_scored_by_the_trainer_and_its_word_stands(plain_rig: Rig) -> None:
    """One class is found, the other is not; what the image says of itself under the same name is left out."""
    report = await report_of(
        plain_rig,
        "host.reveal_test_regions(regions(RIGHT[0], box(1, 1, (0, 0, 1, 1), 0.1)))",
        "finish(host, checked={'figures': {'map50': 1.0}})",
    )
    checked = report["checked"]
    assert checked.pop("figures") == pytest.approx({"map50": 0.5, "map": 0.5})
    assert checked == {
        "labels": ["dent", "hole"],
        "right": [0.0, 1.0],
        "pictures": [1, 1],
        "test_pictures": 2,
    }


DETECTOR = """
import torch
from torch import nn
from loupe.algorithm import Context, Outcome

class Same(nn.Module):
    \"\"\"Finds the same boxes in every picture.\"\"\"
    def __init__(self):
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor([[0.25, 0.125, 0.8765432, 0.375], [0.25, 0.125, 0.5, 0.375]]))
        self.scores = nn.Parameter(torch.tensor([[0.1, 0.9], [0.3, 0.2]]))
    def forward(self, pictures):
        count = pictures.shape[0]
        nothing = pictures.mean((1, 2, 3))[:, None, None] * 0
        return self.boxes.expand(count, -1, -1), self.scores.expand(count, -1, -1) + nothing

def train(context: Context):
    context.finish_detector(Same(), size=16, architecture="same", outcome=Outcome.PLATEAU)
"""


async def test_the_sdk_and_the_trainer_come_to_the_same_figures(bubblewrap: Sandbox, tmp_path: Path) -> None:
    """A whole run in a sandbox, to its package; the image's own figures of the test pictures are the counted ones."""
    plan = SlotPlan(count=1, warm=0, threads=1, limits=Limits())
    async with make_rig(bubblewrap, tmp_path, limits=Limits(), plan=plan) as rig:
        rig.storage.add_annotated(DATASET, BOXES, SPLITS)
        objective = Objective("map50", 0.5)
        last = (await rig.run(DETECTOR, task="detection", dataset_version=DATASET, objective=objective))[-1].what
    assert isinstance(last, Finished), last
    report: dict[str, Any] = dict(last.report)
    names = {file.filename for file in last.artifacts}
    assert names == {"model.onnx", "model.safetensors", "model.json", "golden.npz"}
    assert report["splits"] == {"train": 2, "validation": 2, "test": 2, "unlabelled": 2}
    assert report["checked"]["figures"] == {name: report["test"][name] for name in ("map50", "map")}
    assert report["checked"]["figures"]["map50"] > 0.1
    assert report["checked"]["pictures"] == [row["regions"] for row in report["test"]["per_class"]] == [1, 1]


async def test_nothing_found_is_an_answer(plain_rig: Rig) -> None:
    report = await report_of(plain_rig, "host.reveal_test_regions(regions())", "finish(host)")
    assert report["checked"]["figures"] == {"map50": 0.0, "map": 0.0} and report["checked"]["right"] == [0.0, 0.0]


async def test_classes_of_the_same_version_are_another_tasks(plain_rig: Rig) -> None:
    """A classifier of it sees the pictures' classes, all of them labelled, and no regions."""
    plain_rig.storage.add_annotated(DATASET, BOXES, SPLITS)
    lines = ("data = host.spec().dataset", "finish(host, names=data.labels, splits=data.splits, n=len(data.regions))")
    report = dict((await plain_rig.run(code(*lines), dataset_version=DATASET))[-1].what.report)
    assert report == {"names": ["part"], "splits": SPLITS, "n": 0}


async def test_pictures_without_a_class_are_unlabelled_for_a_classifier() -> None:
    """Classes that no picture has are none of its outputs; what is annotated in them does not matter."""
    data = MemoryStorage().add_annotated(DATASET, BOXES, SPLITS)
    data.classes[[1, 4, 7]] = -1
    seen = await seen_by(TASKS["classification"], data, sizes)
    assert (seen.labels, seen.regions) == (["part"], None)
    assert seen.classes.tolist() == [0, -1, 0, 0, -1, 0, 0, -1]
    assert np.flatnonzero(seen.splits == Split.UNLABELLED).tolist() == [1, 4, 7] and seen.test.tolist() == [5, 6]


SAVE = "np.save(host.work / 'd.npy', {}); host._call('reveal_test', file='d.npy')"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("host.reveal_test_regions(regions(box(2, 0, (0, 0, 1, 1))))", "a picture that is none of 2"),
        ("host.reveal_test_regions(regions(box(-1, 0, (0, 0, 1, 1))))", "a picture that is none of 2"),
        ("host.reveal_test_regions(regions(box(0, 2, (0, 0, 1, 1))))", "a class that is none of 2"),
        ("host.reveal_test_regions(regions(box(0, -1, (0, 0, 1, 1))))", "a class that is none of 2"),
        ("host.reveal_test_regions(regions(box(0, 0, (0, np.nan, 1, 1))))", "numbers from 0 to 1"),
        ("host.reveal_test_regions(regions(box(0, 0, (0, 0, np.inf, 1))))", "numbers from 0 to 1"),
        ("host.reveal_test_regions(regions(box(0, 0, (0.5, 0, 0.2, 1))))", "corners in order"),
        ("host.reveal_test_regions(regions(box(0, 0, (0, 0, 1, 1), np.nan)))", "numbers from 0 to 1"),
        ("host.reveal_test_regions(regions(box(0, 0, (0, 0, 1, 1), 1.5)))", "numbers from 0 to 1"),
        ("host.reveal_test_regions(regions(*[box(0, 0, (0, 0, 1, 1))] * 101))", "more than 100 detections"),
        ("host.reveal_test_regions(regions(*[box(0, 0, (0, 0, 1, 1))] * 300))", "too large"),
        (SAVE.format("np.zeros(3)"), "file of records"),
        (SAVE.format("np.zeros((2, 2), RECORD)"), "file of records"),
        (SAVE.format("np.zeros(2, RECORD.newbyteorder('>'))"), "file of records"),
        (SAVE.format("np.array([print], object), allow_pickle=True"), "file of records"),
        ("(host.work / 'd.npy').write_bytes(b''); host._call('reveal_test', file='d.npy')", "file of records"),
        ("np.savez(host.work / 'd.npz', a=np.zeros(2, RECORD)); host._call('reveal_test', file='d.npz')",
         "file of records"),
        ("np.save(host.work / 'd.npy', np.zeros(2, RECORD)); open(host.work / 'd.npy', 'ab').write(b'x'); "
         "host._call('reveal_test', file='d.npy')", "file of records"),
        ("open(host.work / 'd.npy', 'wb').truncate(1 << 25); host._call('reveal_test', file='d.npy')", "too large"),
        ("os.symlink('/etc/hostname', host.work / 'd.npy'); host._call('reveal_test', file='d.npy')", "is a link"),
        ("os.symlink('/etc', host.work / 'd'); host._call('reveal_test', file='d/hostname')", "not a folder inside"),
        ("os.mkfifo(host.work / 'd.npy'); host._call('reveal_test', file='d.npy')", "not a regular file"),
        ("host._call('reveal_test', file='../data/regions.npy')", "not a path inside"),
        ("host._call('reveal_test', answers='AAAA')", "not a path inside"),
        ("host.reveal_test_regions(regions()); host.reveal_test_regions(regions())", "asked for twice"),
        ("host.reveal_test_regions(regions()); (host.work / 'c').mkdir(); (host.work / 'c' / 'x.json').touch(); "
         "host.save_checkpoint(host.work / 'c')", "after the test labels"),
        ("host.pictures(8, 8, 'crop')", "fit must be one of stretch, letterbox"),
    ],
)  # fmt: skip
async def test_what_no_detector_says_ends_the_run(plain_rig: Rig, action: str, words: str) -> None:
    last = (await run(plain_rig, action, "time.sleep(600)")).what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("ALGORITHM_FAILED", False), last
    assert words in last.message
    assert not list(plain_rig.folder.glob("slots/**/test_regions.npy"))


def test_a_file_of_detections_is_bounded_by_the_pictures(tmp_path: Path) -> None:
    """All that may be found goes through; a header that claims other things than the file has is never read."""
    rows = [(number // MAX_DETECTIONS, number % 3, (0, 0, 1, 1), 0.5) for number in range(4 * MAX_DETECTIONS)]
    write_regions(tmp_path / "d.npy", of_records(np.array(rows, RECORD), scored=True))
    found = intake.detections(tmp_path / "d.npy", 4, 3)
    assert len(found) == 400 and (tmp_path / "d.npy").stat().st_size <= intake.detections_bytes(4)
    content = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(content.replace(b"(400,)", b"(9**9)"))
    with pytest.raises(ProtocolBroken, match="file of records"):
        intake.detections(tmp_path / "d.npy", 4, 3)


async def test_scoring_happens_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds where there is much to score; the trainer answers meanwhile."""
    data = await seen_by(TASKS["detection"], MemoryStorage().add_annotated(DATASET, BOXES, SPLITS), sizes)
    write_regions(tmp_path / "d.npy", of_records(np.array([(0, 0, (0, 0, 1, 1), 0.5)], RECORD), scored=True))
    threads: list[int] = []

    def evaluate(*arguments: object) -> dict:
        threads.append(threading.get_ident())
        raise ArithmeticError

    async def collect(path: object, max_bytes: int) -> Path:
        return tmp_path / "d.npy"

    monkeypatch.setattr("services.trainer.runs.answers.evaluate", evaluate)
    with pytest.raises(ArithmeticError):
        await answers_to(TASKS["detection"], {}).count({"file": "d.npy"}, data, collect)
    assert threads and threads[0] != threading.get_ident()


async def sizes(digests: object) -> np.ndarray:
    await asyncio.sleep(0)
    return np.array([[16, 8]])


async def test_without_regions_in_test_pictures_there_are_no_figures(tmp_path: Path) -> None:
    splits = [0, 0, 1, 1, 0, 1, 2, 2]
    data: TaskData = await seen_by(TASKS["detection"], MemoryStorage().add_annotated(DATASET, BOXES, splits), sizes)
    write_regions(tmp_path / "d.npy", of_records(np.zeros(0, RECORD), scored=True))

    async def collect(path: object, max_bytes: int) -> Path:
        return tmp_path / "d.npy"

    counted = await answers_to(TASKS["detection"], {}).count({"file": "d.npy"}, data, collect)
    assert counted == {
        "labels": ["dent", "hole"], "right": [0, 0], "pictures": [0, 0], "figures": {}, "test_pictures": 0,
    }  # fmt: skip
