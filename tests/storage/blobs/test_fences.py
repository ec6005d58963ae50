"""What storage still does for an attempt whose job is over: nothing."""

from __future__ import annotations

import pytest

from loupe.errors import StaleAttempt
from loupe.storage.v1 import model_pb2
from loupe.storage.v1 import model_service_pb2 as messages
from tests.storage.house import LINE, Client, House
from tests.storage.photographs import sha256

JOB = f"{LINE}/jobs/j1"
MODEL = f"{LINE}/models/screws"
WEIGHTS = b"weights" * 1000


async def test_a_token_opens_nothing_once_its_job_is_over(house: House, anna: Client) -> None:
    """Above the fence it writes and reads as before; below, neither; what it made stays."""
    attempt, scheduler = house.client(f"attempt {JOB} 1"), house.service("scheduler")
    file = model_pb2.ModelFile(filename="model.onnx", digest=sha256(WEIGHTS), size=len(WEIGHTS))
    checkpoint = messages.Checkpoint(job=JOB, attempt=1, files=[file])
    await attempt.upload_blob(WEIGHTS)
    await attempt.models.SaveCheckpoint(messages.SaveCheckpointRequest(checkpoint=checkpoint))
    version = model_pb2.ModelVersion(released=True, labels=["a"], files=[file], lineage={"job": JOB, "attempt": 1})
    request = messages.PublishModelVersionRequest(parent=MODEL, model_version=version)
    await scheduler.models.PublishModelVersion(request)
    for fence in (1, 2, 2):
        await scheduler.models.RaiseFence(messages.RaiseFenceRequest(job=JOB, attempt=fence))
        calls = (
            lambda: attempt.upload_blob(b"more" * 1000),
            lambda: attempt.models.SaveCheckpoint(messages.SaveCheckpointRequest(checkpoint=checkpoint)),
            lambda: attempt.models.GetCheckpoint(messages.GetCheckpointRequest(job=JOB)),
            lambda: attempt.missing([sha256(WEIGHTS)]),
            lambda: attempt.query(sha256(WEIGHTS)),
            lambda: attempt.download([sha256(WEIGHTS)]),
        )
        for call in calls:
            if fence == 1:
                await call()
            else:
                with pytest.raises(StaleAttempt, match="is over"):
                    await call()
    assert await anna.download([sha256(WEIGHTS)]) == {sha256(WEIGHTS): WEIGHTS}
    later = house.client(f"attempt {JOB} 2")
    assert (await later.models.GetCheckpoint(messages.GetCheckpointRequest(job=JOB))).checkpoint.attempt == 1
