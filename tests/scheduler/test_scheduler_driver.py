"""Jobs driven over real gRPC: the whole way, lost trainers, restarts, crashes, cancellations, neighbours away."""

from __future__ import annotations

import asyncio

import pytest

from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, eventually


async def test_a_job_goes_all_the_way_to_a_released_model(rig: Rig) -> None:
    """One job: queued, dispatched, running, publishing, succeeded, with gapless events and its lineage."""
    trainer = await rig.add_trainer()
    await rig.start_scheduler()
    job = await rig.submit(parameters={"epochs": 5})
    events = await rig.to_end(job.name)
    assert states(events) == ["QUEUED", "DISPATCHING", "RUNNING", "PUBLISHING", "SUCCEEDED"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.progress.step for event in events if event.HasField("progress")] == [1, 2, 3]
    done = await rig.get(job.name)
    assert done.result.model_version == "projects/line-7/models/screws/versions/1"
    assert done.result.metrics.validation_accuracy == 0.98
    assert "98.00 %" in done.result.verdict and done.result.report_json
    assert done.trainer == str(trainer.name) and done.start_time.seconds and done.end_time.seconds
    assert not events[-1].state_change.result.report_json
    version = rig.storage.published[job.name]
    assert version.released and version.labels == ["good", "scratch"]
    assert version.lineage.dataset_version == "projects/line-7/datasets/screws/versions/3"
    assert version.lineage.submitter == "accounts/anna" and version.lineage.parameters_json == '{"epochs": 5}'
    spec = next(iter(trainer.attempts.values())).spec
    assert spec.storage_token == "token-1" and spec.target_accuracy == 0.95
    assert rig.storage.calls == [("fence", job.name, 1)]
