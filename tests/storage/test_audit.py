"""What storage's audit log says of real calls: of accounts, of attempts by their job, of other services."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceStub
from loupe.errors import AlreadyExists, LoupeError, NotFound, PermissionDenied, Unavailable
from loupe.storage.v1 import dataset_pb2, dataset_service_pb2, project_service_pb2
from tests.storage.algorithms.test_library import publish as publish_algorithm
from tests.storage.archives import packed
from tests.storage.house import LINE, OTHER, House, open_channel
from tests.storage.models.test_library import LABELS, MODEL, WEIGHTS, result
from tests.storage.models.test_library import publish as publish_model
from tests.storage.photographs import jpeg, sha256

SYSTEM = "projects/system"


async def listed(house: House, parent: str, account: str = "anna", **fields: Any) -> list[audit_pb2.AuditEntry]:
    """Return a project's rows, newest first."""
    async with open_channel(house.settings, account) as channel:
        request = rpc.ListAuditEntriesRequest(parent=parent, **fields)
        return list((await AuditServiceStub(channel).ListAuditEntries(request)).entries)


def told(entry: audit_pb2.AuditEntry) -> tuple[str, str, str, str]:
    return entry.caller, entry.method, entry.resource, entry.outcome


async def refused(call: Awaitable[object], kind: type[LoupeError]) -> None:
    with pytest.raises(kind):
        await call


async def test_what_is_uploaded_and_made_leaves_a_row_a_call(house: House) -> None:
    """One for a stream, however many transactions it takes; nothing that only looks leaves one."""
    anna = house.client()
    pictures = [jpeg(number) for number in range(6)]
    await anna.upload(pictures, batch=1)
    await anna.upload_blob(b"whole")
    dataset = await anna.make_dataset("screws")
    items = [dataset_pb2.DatasetItem(digest=sha256(each), label="ab"[n % 2]) for n, each in enumerate(pictures)]
    made = await anna.make_version(dataset, items, request_id="r-1")
    await anna.items(made.dataset_version.name)
    await anna.missing([sha256(each) for each in pictures])
    found = await listed(house, LINE)
    assert [told(entry) for entry in found] == [
        ("accounts/anna", "CreateDatasetVersion", dataset, "OK"),
        ("accounts/anna", "CreateDataset", LINE, "OK"),
        ("accounts/anna", "UploadBlob", LINE, "OK"),
        ("accounts/anna", "UploadPictures", LINE, "OK"),
    ]
    assert [entry.action for entry in found] == ["datasets.write"] * 2 + ["blobs.write", "datasets.write"]
    assert found[0].request_id == "r-1" and found[1].summary == 'dataset_id="screws"'
    again = await anna.make_version(dataset, items, request_id="r-1")
    assert again.dataset_version == made.dataset_version and len(await listed(house, LINE)) == 4


async def test_projects_and_algorithms_belong_to_the_system(house: House) -> None:
    """A project that could not be finished has both rows: what was written, and how the call ended."""
    anna = house.client()
    house.auth.levels["root", "system"] = 100
    house.auth.levels["anna", "system"] = 30
    create = project_service_pb2.CreateProjectRequest(project_id="press-3", project={"display_name": "Press\n3"})
    house.auth.away = True
    await refused(anna.projects.CreateProject(create), Unavailable)
    house.auth.away = False
    await anna.projects.CreateProject(create)
    await publish_algorithm(anna, packed())
    found = await listed(house, SYSTEM, "root", caller="accounts/anna")
    assert [(entry.method, entry.outcome) for entry in found[:4]] == [
        ("PublishAlgorithmVersion", "OK"),
        ("CreateProject", "OK"),
        ("CreateProject", "UNAVAILABLE"),
        ("CreateProject", "OK"),
    ]
    assert found[1].summary == r'project_id="press-3", project.display_name="Press\\n3"'


async def test_attempts_stand_under_their_job_and_services_under_their_name(house: House) -> None:
    """A published model is the scheduler's doing; a fence and a checkpoint are nobody's question."""
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.upload_blob(WEIGHTS)
    await trainer.upload_blob(LABELS)
    await publish_model(house.service("scheduler"), result())
    assert [told(entry) for entry in await listed(house, LINE)] == [
        ("services/scheduler", "PublishModelVersion", MODEL, "OK"),
        (f"{LINE}/jobs/j1", "UploadBlob", LINE, "OK"),
        (f"{LINE}/jobs/j1", "UploadBlob", LINE, "OK"),
    ]


async def test_refusals_stand_in_the_project_where_they_were_tried(house: House) -> None:
    """Nobody sees another project's."""
    anna, eve = house.client(), house.client("eve")
    await anna.make_dataset("screws")
    await refused(anna.make_dataset("screws"), AlreadyExists)
    await refused(eve.make_dataset("spies", LINE), NotFound)
    house.auth.levels["vera", "line-7"] = 10
    await refused(house.client("vera").make_dataset("mine"), PermissionDenied)
    assert [(entry.caller, entry.outcome) for entry in await listed(house, LINE)] == [
        ("accounts/vera", "PERMISSION_DENIED"),
        ("accounts/eve", "NOT_FOUND"),
        ("accounts/anna", "ALREADY_EXISTS"),
        ("accounts/anna", "OK"),
    ]
    assert await listed(house, OTHER, "eve") == []
    await refused(listed(house, LINE, "eve"), NotFound)
    await refused(listed(house, LINE, "vera"), PermissionDenied)


async def test_an_error_behind_the_effect_leaves_neither_effect_nor_row(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the request is recorded last; where that breaks, all is as before, and the failure is told."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("services.storage.database.session.Session.record", broken)
    request = dataset_service_pb2.CreateDatasetRequest(parent=LINE, dataset_id="screws", request_id="r-1")
    await refused(house.client().datasets.CreateDataset(request), LoupeError)
    monkeypatch.undo()
    assert [entry.outcome for entry in await listed(house, LINE)] == ["INTERNAL"]
    listing = await house.client().datasets.ListDatasets(dataset_service_pb2.ListDatasetsRequest(parent=LINE))
    assert not listing.datasets
