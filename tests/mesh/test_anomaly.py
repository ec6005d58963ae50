"""Anomaly through the running mesh: a model that learned from good parts alone tells bad ones on the terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loupe.errors import InvalidArgument
from loupe.scheduler.v1 import training_job_pb2
from loupe.terminal.detector import Detector
from loupe.terminal.inspector import Inspector
from tests.mesh.conftest import OpenTerminal, Trained, train

GOOD = "across"


async def test_good_parts_become_an_inspector_that_tells_bad_ones(
    terminal: OpenTerminal, trained: Trained, pictures: Path, tmp_path: Path
) -> None:
    """The target's metric says what kind of model is meant; the trainer counts the answers for test pictures."""
    async with terminal() as owner:
        job, _ = await train(
            owner,
            trained.version.name,
            target="auroc=0.9",
            parameters={"good": GOOD},
            model=f"{trained.project}/models/inspector",
            allow_small_validation=True,
        )
        assert job.algorithm_version.startswith("algorithms/anomaly/versions/")
        assert job.state == training_job_pb2.JOB_STATE_SUCCEEDED, job.result.verdict
        metrics = job.result.metrics
        assert metrics.task == "anomaly" and metrics.test["auroc"] > 0.9 and metrics.test_pictures
        pulled = await owner.models.pull(job.result.model_version, tmp_path / "model")
        unknown, _ = await train(owner, trained.version.name, target="auroc=0.9", parameters={"good": "none"})
        assert unknown.state == training_job_pb2.JOB_STATE_FAILED and "there is no class" in unknown.failure.message
    with pytest.raises(InvalidArgument, match="loupe inspect"):
        await asyncio.to_thread(Detector, pulled.folder)
    inspector = await asyncio.to_thread(lambda: Inspector(pulled.folder, false_alarms=0.1))
    shares = {label: await asyncio.to_thread(_called_bad, inspector, pictures / label) for label in (GOOD, "along")}
    assert shares[GOOD] <= 0.2 and shares["along"] >= 0.8, shares


def _called_bad(inspector: Inspector, folder: Path) -> float:
    """_called_bad returns the share of a folder's pictures that an inspector calls bad."""
    answers = list(inspector.inspect(sorted(folder.iterdir())))
    return sum(one.bad for one in answers) / len(answers)
