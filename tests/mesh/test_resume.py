"""A job that ran out of its budget is resumed through the running mesh: it goes on where it ended, as long again."""

from __future__ import annotations

from pathlib import Path

import pytest

from loupe.errors import FailedPrecondition, NotFound
from loupe.scheduler.v1 import training_job_pb2
from tests.mesh.conftest import OpenTerminal, push, train

SECONDS = 6.0
NEVER_DONE = {"network": "squeezenet1_1", "size": 32, "epochs": 1000, "patience": 1000, "learning_rate": 1e-6}


def epochs_of(events: list[training_job_pb2.JobEvent]) -> list[int]:
    """epochs_of returns the epochs whose validation was told of, in their order."""
    rounds = [event.progress for event in events if "validation_accuracy" in event.progress.metrics]
    return [each.epoch for each in rounds]


@pytest.mark.attack  # it uses up two budgets
async def test_a_job_goes_on_where_its_budget_ended(terminal: OpenTerminal, project: str, pictures: Path) -> None:
    """Epochs go on counting and no picture is prepared for nothing; the second budget is used like the first."""
    async with terminal() as owner:
        version = await push(owner, project, pictures)
        asked = {"target": 1.0, "algorithm_version": "algorithms/scratch/versions/latest", "parameters": NEVER_DONE}
        first, events = await train(owner, version.name, max_minutes=SECONDS / 60, **asked)
        assert first.state == training_job_pb2.JOB_STATE_TARGET_MISSED, first.failure
        assert first.result.outcome == "budget"
        second = await owner.jobs.resume(first.name, note="longer")
        further = [event async for event in owner.jobs.watch(second.name)]
        second = await owner.jobs.get(second.name)
        assert second.state == training_job_pb2.JOB_STATE_TARGET_MISSED, second.failure
        assert (second.resume_of, second.result.outcome, second.result.model_version[-1]) == (first.name, "budget", "2")
        before, after = epochs_of(events), epochs_of(further)
        assert before == list(range(1, len(before) + 1))
        assert after[0] == before[-1] + 1 and len(after) > len(before) / 4
        took = second.end_time.ToSeconds() - second.start_time.ToSeconds()
        assert took >= SECONDS - 1
        asked_more = await owner.jobs.resume(second.name, target=0.01)
        events = [event async for event in owner.jobs.watch(asked_more.name)]
        assert (await owner.jobs.get(asked_more.name)).state == training_job_pb2.JOB_STATE_SUCCEEDED
        assert not epochs_of(events), "a target that the best epoch reaches needs no further one"
        with pytest.raises(FailedPrecondition, match="has reached its target"):
            await owner.jobs.resume(asked_more.name)


async def test_a_job_of_another_project_is_not_there(terminal: OpenTerminal, project: str, hire) -> None:
    async with terminal(await hire("engineers")) as stranger:
        with pytest.raises(NotFound):
            await stranger.jobs.resume("projects/somewhere/jobs/j1")
