"""Models, fences and checkpoints: one version per job, no gaps, nothing from stale attempts or other projects."""

from __future__ import annotations

import asyncio

import pytest

from loupe.errors import (
    BlobMissing,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SizeMismatch,
    StaleAttempt,
    Unauthenticated,
)
from loupe.storage.v1 import model_pb2
from loupe.storage.v1 import model_service_pb2 as messages
from tests.storage.house import LINE, OTHER, Client, House
from tests.storage.photographs import sha256

MODEL = f"{LINE}/models/screws"
WEIGHTS, LABELS = b"weights" * 300_000, b'["a","b"]'


def file(filename: str, data: bytes) -> model_pb2.ModelFile:
    return model_pb2.ModelFile(filename=filename, digest=sha256(data), size=len(data))


def result(job: str = "j1", attempt: int = 1, released: bool = True, **lineage: object) -> model_pb2.ModelVersion:
    return model_pb2.ModelVersion(
        released=released,
        labels=["a", "b"],
        files=[file("model.onnx", WEIGHTS), file("labels.json", LABELS)],
        lineage={"job": f"{LINE}/jobs/{job}", "attempt": attempt, **lineage},
        report_json='{"history": []}',
    )


async def publish(client: Client, version: model_pb2.ModelVersion, parent: str = MODEL) -> model_pb2.ModelVersion:
    request = messages.PublishModelVersionRequest(parent=parent, model_version=version)
    return (await client.models.PublishModelVersion(request)).model_version


@pytest.fixture
async def scheduler(house: House, anna: Client) -> Client:
    """The scheduler, after a trainer's files were uploaded."""
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.upload_blob(WEIGHTS)
    await trainer.upload_blob(LABELS)
    return house.service("scheduler")


async def test_a_result_becomes_a_version_that_is_read_and_downloaded(scheduler: Client, anna: Client) -> None:
    """Version 1 with everything that was published; files come whole and from an offset."""
    made = await publish(scheduler, result())
    assert made.name == f"{MODEL}/versions/1"
    assert made.lineage.job == f"{LINE}/jobs/j1"
    read = await anna.models.GetModelVersion(messages.GetModelVersionRequest(name=f"{MODEL}/versions/latest"))
    assert read.model_version == made
    for offset in (0, 1_100_000, len(WEIGHTS)):
        request = messages.DownloadModelFileRequest(name=made.name, filename="model.onnx", offset=offset)
        chunks = [message.chunk async for message in anna.models.DownloadModelFile(request)]
        assert b"".join(chunks) == WEIGHTS[offset:]
    request = messages.DownloadModelFileRequest(name=made.name, filename="nothing")
    with pytest.raises(NotFound):
        _ = [message async for message in anna.models.DownloadModelFile(request)]


async def test_publishing_again_for_a_job_returns_what_is_there(scheduler: Client) -> None:
    """Twenty calls at once make one version; the same job under another model is refused."""
    answers = await asyncio.gather(*(publish(scheduler, result()) for _ in range(20)))
    assert len({each.uid for each in answers}) == 1
    with pytest.raises(FailedPrecondition):
        await publish(scheduler, result(), f"{LINE}/models/nuts")


async def test_versions_are_numbered_without_gaps_and_latest_is_the_newest_released(
    scheduler: Client, anna: Client
) -> None:
    """Refused publications use no number; an unreleased version is never latest."""
    await publish(scheduler, result("j1"))
    with pytest.raises(BlobMissing):
        lacking = result("j2")
        lacking.files.append(file("gone", b"gone"))
        await publish(scheduler, lacking)
    await publish(scheduler, result("j3", released=False))
    model = (await anna.models.GetModel(messages.GetModelRequest(name=MODEL))).model
    assert model.latest_version == f"{MODEL}/versions/2"
    assert model.latest_released_version == f"{MODEL}/versions/1"
    latest = await anna.models.GetModelVersion(messages.GetModelVersionRequest(name=f"{MODEL}/versions/latest"))
    assert latest.model_version.name == f"{MODEL}/versions/1"
    page = await anna.models.ListModelVersions(messages.ListModelVersionsRequest(parent=MODEL))
    assert [each.name[-1] for each in page.model_versions] == ["2", "1"]
    assert not any(each.report_json for each in page.model_versions)
    models = await anna.models.ListModels(messages.ListModelsRequest(parent=LINE))
    assert [each.name for each in models.models] == [MODEL]


async def test_a_model_without_a_released_version_has_no_latest(scheduler: Client, anna: Client) -> None:
    """latest is NotFound until a version passed its gate."""
    await publish(scheduler, result(released=False))
    with pytest.raises(NotFound):
        await anna.models.GetModelVersion(messages.GetModelVersionRequest(name=f"{MODEL}/versions/latest"))


async def test_a_stale_attempts_result_is_refused(scheduler: Client) -> None:
    """A result of an attempt below the fence does not join."""
    await scheduler.models.RaiseFence(messages.RaiseFenceRequest(job=f"{LINE}/jobs/j1", attempt=2))
    with pytest.raises(StaleAttempt):
        await publish(scheduler, result(attempt=1))
    assert (await publish(scheduler, result(attempt=2))).name.endswith("/versions/1")


async def test_what_belongs_to_another_project_is_refused(scheduler: Client, eve: Client) -> None:
    """A job, data or files of another project never get into a model, and nobody else sees it."""
    with pytest.raises(NotFound):
        await publish(scheduler, result(), f"{OTHER}/models/screws")
    with pytest.raises(NotFound):
        await publish(scheduler, result(dataset_version=f"{OTHER}/datasets/d/versions/1"))
    foreign = result()
    foreign.lineage.job = f"{OTHER}/jobs/j1"
    with pytest.raises(BlobMissing):
        await publish(scheduler, foreign, f"{OTHER}/models/screws")
    await publish(scheduler, result())
    with pytest.raises(NotFound):
        await eve.models.GetModel(messages.GetModelRequest(name=MODEL))
    with pytest.raises(NotFound):
        await scheduler.models.RaiseFence(messages.RaiseFenceRequest(job="projects/absent/jobs/j", attempt=1))


async def test_only_the_scheduler_publishes_and_raises_fences(anna: Client, house: House) -> None:
    """An owner and a trainer are refused."""
    for client in (anna, house.client(f"attempt {LINE}/jobs/j1 1")):
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await publish(client, result())
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await client.models.RaiseFence(messages.RaiseFenceRequest(job=f"{LINE}/jobs/j1", attempt=9))


@pytest.mark.parametrize("filename", ["../x", "a/b", "", ".hidden", "a\nb", "x" * 300])
async def test_a_filename_with_a_folder_is_refused(scheduler: Client, filename: str) -> None:
    """Filenames are plain, because terminals write them to disk."""
    version = result()
    version.files[0].filename = filename
    with pytest.raises(InvalidArgument):
        await publish(scheduler, version)


async def test_files_are_named_once_with_their_true_size(scheduler: Client) -> None:
    """A filename twice, and a size that is not the blob's, are refused."""
    version = result()
    version.files[1].filename = "model.onnx"
    with pytest.raises(InvalidArgument):
        await publish(scheduler, version)
    version = result()
    version.files[0].size += 1
    with pytest.raises(SizeMismatch):
        await publish(scheduler, version)


def checkpoint(attempt: int, *data: bytes, job: str = "j1") -> messages.SaveCheckpointRequest:
    files = [file(f"part-{number}", each) for number, each in enumerate(data)]
    return messages.SaveCheckpointRequest(checkpoint={"job": f"{LINE}/jobs/{job}", "attempt": attempt, "files": files})


async def test_a_checkpoint_replaces_the_last_one_and_its_blobs(house: House, anna: Client) -> None:
    """The next attempt reads it; blobs that only the old one had are gone, shared ones and a user's own stay."""
    first, second = house.client(f"attempt {LINE}/jobs/j1 1"), house.client(f"attempt {LINE}/jobs/j1 2")
    request = messages.GetCheckpointRequest(job=f"{LINE}/jobs/j1")
    assert not (await first.models.GetCheckpoint(request)).HasField("checkpoint")
    old, shared, new, own, adopted = b"old", b"shared", b"new", b"a user's own weights", b"a user has them too"
    await anna.upload_blob(own)
    for data in (old, shared, own, adopted):
        await first.upload_blob(data)
    await anna.upload_blob(adopted)
    await first.models.SaveCheckpoint(checkpoint(1, old, shared, own, adopted))
    saved = (await second.models.GetCheckpoint(request)).checkpoint
    assert saved.attempt == 1
    assert [each.digest for each in saved.files] == [sha256(each) for each in (old, shared, own, adopted)]
    await second.upload_blob(new)
    await second.models.SaveCheckpoint(checkpoint(2, new, shared))
    digests = [sha256(each) for each in (old, shared, new, own, adopted)]
    assert await anna.missing(digests) == [sha256(old)]
    folder = house.settings.state / "files" / "blobs" / "line-7"
    assert {path.name for path in folder.iterdir()} == set(digests[1:])
    await second.upload_blob(old)
    assert await anna.missing(digests) == []


def blobs_of(house: House) -> set[str]:
    return {path.name for path in (house.settings.state / "files" / "blobs" / "line-7").iterdir()}


@pytest.mark.parametrize("first_to_go", ["the old one", "the new one"])
async def test_a_job_begins_with_the_checkpoint_of_another(house: House, anna: Client, first_to_go: str) -> None:
    """Whichever of the two lets it go last, its files go then; copying and removing again change nothing."""
    old, new, scheduler = (
        house.client(f"attempt {LINE}/jobs/j1 1"),
        house.client(f"attempt {LINE}/jobs/j2 1"),
        house.service("scheduler"),
    )
    data = b"tensors"
    await old.upload_blob(data)
    await old.models.SaveCheckpoint(checkpoint(1, data))
    copy = messages.CopyCheckpointRequest(job=f"{LINE}/jobs/j2", source=f"{LINE}/jobs/j1")
    await scheduler.models.CopyCheckpoint(copy)
    begun = (await new.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j2"))).checkpoint
    assert (begun.job, [each.digest for each in begun.files]) == (f"{LINE}/jobs/j1", [sha256(data)])
    remove = messages.RemoveCheckpointRequest(job=f"{LINE}/jobs/j1")
    if first_to_go == "the old one":
        await scheduler.models.RemoveCheckpoint(remove)
    assert blobs_of(house) == {sha256(data)}
    await new.upload_blob(b"next")
    await new.models.SaveCheckpoint(checkpoint(1, b"next", job="j2"))
    await scheduler.models.RemoveCheckpoint(remove)
    await scheduler.models.RemoveCheckpoint(remove)
    assert blobs_of(house) == {sha256(b"next")}
    await scheduler.models.CopyCheckpoint(copy)
    own = await scheduler.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j2"))
    assert own.checkpoint.job == f"{LINE}/jobs/j2", "a job keeps the checkpoint that it has"
    assert not (await scheduler.models.GetCheckpoint(messages.GetCheckpointRequest(job=remove.job))).HasField(
        "checkpoint"
    )


async def test_a_checkpoint_is_copied_within_its_project_and_by_the_scheduler_alone(house: House, anna: Client) -> None:
    old, scheduler = house.client(f"attempt {LINE}/jobs/j1 1"), house.service("scheduler")
    await old.upload_blob(b"tensors")
    await old.models.SaveCheckpoint(checkpoint(1, b"tensors"))
    abroad = messages.CopyCheckpointRequest(job=f"{OTHER}/jobs/j2", source=f"{LINE}/jobs/j1")
    with pytest.raises(NotFound, match=f"{LINE}/jobs/j1"):
        await scheduler.models.CopyCheckpoint(abroad)
    none = messages.CopyCheckpointRequest(job=f"{LINE}/jobs/j2", source=f"{LINE}/jobs/j3")
    with pytest.raises(FailedPrecondition, match="j3 has no checkpoint"):
        await scheduler.models.CopyCheckpoint(none)
    within = messages.CopyCheckpointRequest(job=f"{LINE}/jobs/j2", source=f"{LINE}/jobs/j1")
    for stranger in (anna, old, house.service("auth")):
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await stranger.models.CopyCheckpoint(within)
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await stranger.models.RemoveCheckpoint(messages.RemoveCheckpointRequest(job=f"{LINE}/jobs/j1"))
    with pytest.raises(PermissionDenied):
        await anna.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j1"))


async def test_a_blob_that_another_job_was_told_is_there_stays(house: House) -> None:
    """Two jobs that make the same bytes: one replaces its checkpoint before the other has saved the same one."""
    first, second = [house.client(f"attempt {LINE}/jobs/{job} 1") for job in ("j1", "j2")]
    for data in (b"equal tensors", b"next"):
        await first.upload_blob(data)
    await first.models.SaveCheckpoint(checkpoint(1, b"equal tensors"))
    assert await second.missing([sha256(b"equal tensors")]) == []
    await first.models.SaveCheckpoint(checkpoint(1, b"next"))
    await second.models.SaveCheckpoint(checkpoint(1, b"equal tensors", job="j2"))


async def test_an_attempt_that_dies_in_mid_checkpoint_leaves_the_last_whole_one(
    house: House, scheduler: Client
) -> None:
    """Files of a checkpoint that was never completed change nothing; the next attempt goes on from the one before."""
    first, second = house.client(f"attempt {LINE}/jobs/j1 1"), house.client(f"attempt {LINE}/jobs/j1 2")
    for data in (b"tensors 1", b"state 1"):
        await first.upload_blob(data)
    await first.models.SaveCheckpoint(checkpoint(1, b"tensors 1", b"state 1"))
    await first.upload_blob(b"tensors 2")
    await scheduler.models.RaiseFence(messages.RaiseFenceRequest(job=f"{LINE}/jobs/j1", attempt=2))
    kept = (await second.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j1"))).checkpoint
    digests = [sha256(b"tensors 1"), sha256(b"state 1")]
    assert [each.digest for each in kept.files] == digests
    assert await second.missing(digests) == []


async def test_a_models_files_outlive_the_checkpoint_that_had_them(house: House, scheduler: Client) -> None:
    """A blob that a model holds is not removed with its checkpoint."""
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.models.SaveCheckpoint(checkpoint(1, WEIGHTS))
    await publish(scheduler, result())
    await trainer.upload_blob(b"next")
    await trainer.models.SaveCheckpoint(checkpoint(1, b"next"))
    assert await trainer.missing([sha256(WEIGHTS)]) == []


async def test_a_stale_or_foreign_attempt_saves_no_checkpoint(house: House, scheduler: Client, anna: Client) -> None:
    """Stale, another number than its own, another job, a blob that is not there, no attempt at all."""
    old = house.client(f"attempt {LINE}/jobs/j1 1")
    with pytest.raises(StaleAttempt):
        await old.models.SaveCheckpoint(checkpoint(2, LABELS))
    with pytest.raises(NotFound):
        await old.models.SaveCheckpoint(checkpoint(1, LABELS, job="j2"))
    with pytest.raises(NotFound):
        await old.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j2"))
    with pytest.raises(BlobMissing):
        await old.models.SaveCheckpoint(checkpoint(1, b"never uploaded"))
    with pytest.raises(PermissionDenied):
        await anna.models.SaveCheckpoint(checkpoint(1, LABELS))
    await old.models.SaveCheckpoint(checkpoint(1, LABELS))
    await scheduler.models.RaiseFence(messages.RaiseFenceRequest(job=f"{LINE}/jobs/j1", attempt=2))
    with pytest.raises(StaleAttempt):
        await old.models.SaveCheckpoint(checkpoint(1, WEIGHTS))
    new = house.client(f"attempt {LINE}/jobs/j1 2")
    kept = (await new.models.GetCheckpoint(messages.GetCheckpointRequest(job=f"{LINE}/jobs/j1"))).checkpoint
    assert [each.digest for each in kept.files] == [sha256(LABELS)]
