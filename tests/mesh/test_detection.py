"""Detection through the running mesh: boxes in, a detector out, and found by the terminal in pictures of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.demo.flaws import FLAWS, write_flaws
from loupe.errors import BadDataset, InvalidArgument, PermissionDenied
from loupe.names import DatasetName
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2
from loupe.terminal.classifier import Classifier
from loupe.terminal.detector import Detector
from tests.mesh.conftest import OpenTerminal, Trained, train

pytestmark = pytest.mark.timeout(400)  # with AVX2 alone, a step of training takes more than twice as long

TARGET = 0.3


@pytest.fixture(scope="module")
def flaws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of photographed surfaces with scratches and stains, as COCO has them."""
    folder = tmp_path_factory.mktemp("flaws")
    write_flaws(folder)
    return folder


async def test_boxes_become_a_detector_that_the_terminal_finds_flaws_with(
    terminal: OpenTerminal, project: str, hire: Callable, flaws: Path, tmp_path: Path
) -> None:
    """Who may only look sends nothing; the trainer counts the boxes in test pictures; the terminal gets the model."""
    dataset = DatasetName(project.removeprefix("projects/"), "tiles")
    async with terminal(await hire("viewers")) as viewer:
        with pytest.raises(PermissionDenied):
            await viewer.datasets.push(dataset, flaws)
    async with terminal(await hire("engineers")) as engineer:
        version = (await engineer.datasets.push(dataset, flaws)).version
        assert [each.label for each in version.labels] == list(FLAWS)
        assert all(each.train_regions and each.validation_regions and each.test_regions for each in version.labels)
        assert version.nothing_there_count and not version.unlabelled_count
        job, events = await train(engineer, version.name, target=f"map50={TARGET}", max_minutes=4)
        assert job.algorithm_version.startswith("algorithms/detect/versions/")
        assert job.state == training_job_pb2.JOB_STATE_SUCCEEDED, job.result.verdict
        assert any("validation_map50" in event.progress.metrics for event in events)
        metrics = job.result.metrics
        assert metrics.task == "detection" and metrics.validation["map50"] >= TARGET
        items = [item async for item in engineer.datasets.items(version.name)]
        assert metrics.test_pictures == sum(item.split == dataset_pb2.SPLIT_TEST for item in items)
        assert 0 < metrics.test["map"] < metrics.test["map50"] <= 1
        pulled = await engineer.models.pull(job.result.model_version, tmp_path / "model")
        with pytest.raises(InvalidArgument, match="loupe detect"):
            await asyncio.to_thread(Classifier, pulled.folder)
        with pytest.raises(InvalidArgument, match="recall"):
            await engineer.jobs.submit(version.name, target="recall[none]=0.9", algorithm_version=job.algorithm_version)
    report = json.loads(job.result.report_json)
    assert report["checked"]["test_pictures"] == metrics.test_pictures
    await asyncio.to_thread(_finds_most, pulled.folder, flaws)


def _finds_most(model: Path, flaws: Path) -> None:
    """_finds_most looks for the held-out flaws: most boxes lie where one was drawn, in pictures of their true size."""
    known = json.loads((flaws / "annotations" / "test.json").read_text())
    boxes: dict[str, list[list[int]]] = {image["file_name"]: [] for image in known["images"]}
    names = {image["id"]: image["file_name"] for image in known["images"]}
    for annotation in known["annotations"]:
        boxes[names[annotation["image_id"]]].append(annotation["bbox"])
    found = list(Detector(model).detect([flaws / name for name in boxes]))
    assert {(each.width, each.height, each.problem) for each in found} == {(96, 96, "")}
    hits = [
        _inside((one.pixels.x0 + one.pixels.x1) / 2, (one.pixels.y0 + one.pixels.y1) / 2, there)
        for there, picture in zip(boxes.values(), found, strict=True)
        for one in picture.found
    ]
    assert len(hits) > 10 and sum(hits) > len(hits) / 2


def _inside(x: float, y: float, boxes: list[list[int]]) -> bool:
    """_inside says whether a point lies in one of the boxes, each left, top, width and height."""
    return any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes)


async def test_a_data_set_without_boxes_makes_no_detector(terminal: OpenTerminal, trained: Trained) -> None:
    """And says what is missing."""
    async with terminal() as owner:
        with pytest.raises(BadDataset, match="no boxes in its training pictures"):
            await owner.jobs.submit(
                trained.version.name, target=0.5, algorithm_version="algorithms/detect/versions/latest"
            )
