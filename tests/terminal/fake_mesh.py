"""A small mesh in this process: real gRPC over TLS with what the terminal calls, and ways to make it misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import hashlib
import ipaddress
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from loupe import errors
from loupe.auth.v1 import account_pb2, session_service_pb2, session_service_pb2_grpc
from loupe.errors import LoupeError, not_found
from loupe.rpc.status import to_status
from loupe.scheduler.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    training_job_pb2,
    training_job_service_pb2,
    training_job_service_pb2_grpc,
)
from loupe.storage.v1 import (
    algorithm_pb2,
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    blob_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2_grpc,
    model_pb2,
    model_service_pb2_grpc,
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
)
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_service_pb2 as datasets
from loupe.storage.v1 import model_service_pb2 as models
from tests.cutting_proxy import CuttingProxy
from tests.terminal.hostile_mesh import HostileHandler

PASSWORD = "correct horse battery"
DELETED: dict[str, Any] = {
    "delete_time": Timestamp(seconds=1_800_000_000),
    "expire_time": Timestamp(seconds=1_800_000_000 + 30 * 24 * 3600),
}
"""When what is deleted in the fake mesh was deleted."""


def certificate() -> tuple[bytes, bytes]:
    """Make a self-signed certificate for 127.0.0.1: PEM and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake mesh")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM), private


async def _abort(context: grpc.aio.ServicerContext, error: LoupeError) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)[1]))


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for the bearer token and turn domain errors into status, in unary and streaming methods."""

    async def admit(self: Any, context: grpc.aio.ServicerContext) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if str(given).removeprefix("Bearer ") not in self.mesh.access_tokens:
            raise errors.Unauthenticated("the token is not valid here", problem="expired")

    if hasattr(method, "__code__") and method.__code__.co_flags & 0x200:  # an async generator

        @functools.wraps(method)
        async def stream(self: Any, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                await admit(self, context)
                async for response in method(self, request, context):
                    yield response
            except LoupeError as error:
                await _abort(context, error)

        return stream

    @functools.wraps(method)
    async def unary(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            await admit(self, context)
            return await method(self, request, context)
        except LoupeError as error:
            return await _abort(context, error)

    return unary


class Servicer:
    """What the servicers share: the mesh's state."""

    def __init__(self, mesh: FakeMesh) -> None:
        self.mesh = mesh


class Sessions(Servicer, session_service_pb2_grpc.SessionServiceServicer):
    async def Login(self, request: Any, context: Any) -> Any:
        if request.password != PASSWORD:
            await _abort(context, errors.BadCredentials("unknown account or wrong password"))
        account = account_pb2.Account(name=request.account)
        return session_service_pb2.LoginResponse(tokens=self.mesh.new_tokens(), account=account)

    async def Refresh(self, request: Any, context: Any) -> Any:
        self.mesh.refreshes += 1
        await asyncio.sleep(self.mesh.refresh_seconds)
        if (last := self.mesh.last_refresh) is not None and last[0] == request:
            return session_service_pb2.RefreshResponse(tokens=last[1])
        if request.refresh_token != self.mesh.refresh_token:
            self.mesh.access_tokens.clear()
            await _abort(context, errors.RefreshReplayed("a refresh token was used twice"))
        self.mesh.last_refresh = (request, self.mesh.new_tokens())
        if self.mesh.lost_refreshes:
            self.mesh.lost_refreshes -= 1
            await _abort(context, errors.Unavailable("the connection was cut", dependency="auth"))
        return session_service_pb2.RefreshResponse(tokens=self.mesh.last_refresh[1])

    async def Logout(self, request: Any, context: Any) -> Any:
        self.mesh.access_tokens.clear()
        return session_service_pb2.LogoutResponse()

    async def ListEndpoints(self, request: Any, context: Any) -> Any:
        mesh = self.mesh
        return session_service_pb2.ListEndpointsResponse(
            storage=mesh.storage_address, scheduler=mesh.address, nats_url="nats://127.0.0.1:1"
        )

    @guarded
    async def WhoAmI(self, request: Any, context: Any) -> Any:
        groups = ["projects/line-7/groups/owners"]
        account = account_pb2.Account(name="accounts/anna", groups=groups)
        return session_service_pb2.WhoAmIResponse(account=account)


def full(limit: int) -> LoupeError:
    """Make storage's refusal of a picture that is one too many."""
    return errors.QuotaExceeded(
        f"projects/line-7 is full: it may hold {limit} pictures and holds {limit}; an administrator can raise it",
        project="projects/line-7", quota="pictures", used=limit, limit=limit,
    )  # fmt: skip


class Blobs(Servicer, blob_service_pb2_grpc.BlobServiceServicer):
    @guarded
    async def FindMissingBlobs(self, request: Any, context: Any) -> Any:
        if request.parent != "projects/line-7":
            raise not_found(request.parent)
        if self.mesh.denied:
            raise self.mesh.denied
        self.mesh.asked_missing += 1
        return blobs.FindMissingBlobsResponse(digests=[one for one in request.digests if one not in self.mesh.blobs])

    @guarded
    async def UploadPictures(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        stored = size = 0
        count = 0
        self.mesh.uploads += 1
        async for request in requests:
            part = request.WhichOneof("part")
            if part == "batch":
                if self.mesh.cuts and count == self.mesh.cuts[0]:
                    self.mesh.cuts.pop(0)
                    raise errors.Unavailable("storage goes down", dependency="storage")
                verdicts = []
                for one in request.batch.pictures:
                    if self.mesh.full_at is not None and len(self.mesh.blobs) >= self.mesh.full_at:
                        raise full(self.mesh.full_at)
                    assert hashlib.sha256(one.data).hexdigest() == one.digest
                    size += len(one.data)
                    if one.data.startswith(b"BAD"):
                        problem = blobs.PICTURE_PROBLEM_NOT_A_PICTURE
                        verdicts.append(blobs.PictureVerdict(digest=one.digest, problem=problem, message="no picture"))
                    else:
                        self.mesh.blobs[one.digest] = one.data
                        self.mesh.received.append(one.digest)
                        stored += 1
                count += 1
                yield blobs.UploadPicturesResponse(stored_count=stored, verdicts=verdicts)
            elif part == "closing":
                assert request.closing.byte_count == size
                yield blobs.UploadPicturesResponse(stored_count=stored, complete=True)

    @guarded
    async def QueryUpload(self, request: Any, context: Any) -> Any:
        held = self.mesh.blobs.get(request.digest)
        committed = len(self.mesh.parts.get(request.digest, b"") if held is None else held)
        return blobs.QueryUploadResponse(committed_size=committed, complete=held is not None)

    @guarded
    async def UploadBlob(self, requests: Any, context: Any) -> Any:
        digest, size = "", 0
        cut = self.mesh.cuts.pop(0) if self.mesh.cuts else -1
        async for request in requests:
            match request.WhichOneof("part"):
                case "header":
                    digest, size = request.header.digest, request.header.size
                    self.mesh.offsets.append(request.header.offset)
                    if size > self.mesh.most_bytes:
                        message = f"{size} bytes; at most {self.mesh.most_bytes} are taken"
                        raise errors.ResourceExhausted(message, limit="max_blob_bytes", value=size)
                    self.mesh.parts[digest] = self.mesh.parts.get(digest, b"")[: request.header.offset]
                case "chunk":
                    if cut == 0:
                        raise errors.Unavailable("storage goes down", dependency="storage")
                    cut -= 1
                    self.mesh.parts[digest] += request.chunk
                    self.mesh.on_chunk()
                case "closing":
                    whole = self.mesh.parts.pop(digest)
                    if hashlib.sha256(whole).hexdigest() != digest:
                        raise errors.DigestMismatch("the bytes that came do not have the announced sha256")
                    self.mesh.blobs[digest] = whole
                    return blobs.UploadBlobResponse(digest=digest)
        raise errors.UploadIncomplete("the stream ended without its closing message")

    @guarded
    async def DownloadBlobs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for digest in request.digests:
            data = self.mesh.blobs[digest]
            for start in range(0, len(data), 1000):
                piece = blobs.BlobPiece(digest=digest, offset=start, size=len(data), data=data[start : start + 1000])
                yield blobs.DownloadBlobsResponse(pieces=[piece])


class Datasets(Servicer, dataset_service_pb2_grpc.DatasetServiceServicer):
    @guarded
    async def CreateDataset(self, request: Any, context: Any) -> Any:
        name = f"{request.parent}/datasets/{request.dataset_id}"
        if name in self.mesh.datasets:
            state = "DELETED" if name in self.mesh.deleted else None
            raise errors.AlreadyExists(f"{name} exists already", resource=name, state=state)
        self.mesh.datasets[name] = []
        return datasets.CreateDatasetResponse(dataset=dataset_pb2.Dataset(name=name))

    @guarded
    async def CreateDatasetVersion(self, requests: Any, context: Any) -> Any:
        header, items, closing = None, [], None
        async for request in requests:
            part = request.WhichOneof("part")
            if part == "header":
                header = request.header
            elif part == "batch":
                items += request.batch.items
                self.mesh.largest_batch = max(self.mesh.largest_batch, request.ByteSize())
            elif part == "changes":
                self.mesh.changes.append(request.changes)
            else:
                closing = request.closing
        self.mesh.headers.append(header)
        assert closing is not None and closing.item_count == len(items)
        if self.mesh.forgets:
            self.mesh.forgets = False
            self.mesh.blobs.clear()
            raise errors.BlobMissing("some of the pictures are not stored in this project", digest=items[0].digest)
        assert all(item.digest in self.mesh.blobs for item in items)
        self.mesh.datasets[header.parent].append(items)
        self.mesh.split = header.split
        version = self._version(header.parent, items)
        return datasets.CreateDatasetVersionResponse(dataset_version=version, warnings=self.mesh.warnings)

    def _version(self, parent: str, items: list[Any]) -> Any:
        counts: dict[str, int] = {}
        regions: dict[str, int] = {}
        for item in items:
            for label in {item.label, *(each.label for each in item.annotations)} - {""}:
                counts[label] = counts.get(label, 0) + 1
            for each in item.annotations:
                regions[each.label] = regions.get(each.label, 0) + 1
        return dataset_pb2.DatasetVersion(
            name=f"{parent}/versions/{len(self.mesh.datasets[parent])}",
            picture_count=len(items),
            labels=[
                dataset_pb2.LabelCount(label=label, train_count=n, train_regions=regions.get(label, 0))
                for label, n in sorted(counts.items())
            ],
            nothing_there_count=sum(item.nothing_there for item in items),
            unlabelled_count=sum(not (item.label or item.annotations or item.nothing_there) for item in items),
        )

    @guarded
    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        parent = request.name.rpartition("/versions/")[0]
        if not self.mesh.datasets.get(parent):
            raise not_found(request.name)
        version = self._version(parent, self.mesh.datasets[parent][-1])
        return datasets.GetDatasetVersionResponse(dataset_version=version)

    @guarded
    async def ListDatasetVersions(self, request: Any, context: Any) -> Any:
        version = self._version(request.parent, self.mesh.datasets[request.parent][-1])
        version.base, version.added_count, version.creator = f"{request.parent}/versions/1", 3, "accounts/anna"
        version.annotated_count = sum(len(one.annotated) for one in self.mesh.changes)
        return datasets.ListDatasetVersionsResponse(dataset_versions=[version])

    @guarded
    async def DiffDatasetVersions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        summary = datasets.DatasetDiffSummary(
            base=request.base, name=request.name, added_count=30, moved_count=1, annotated_count=2
        )
        yield datasets.DiffDatasetVersionsResponse(summary=summary)
        added = datasets.DatasetDifference(
            kind=datasets.DATASET_DIFFERENCE_KIND_ADDED, digest="ab" * 32, filename="new.png", label="ok"
        )
        yield datasets.DiffDatasetVersionsResponse(differences=[added] * int(request.most or 30))

    @guarded
    async def ReadDatasetItems(self, request: Any, context: Any) -> AsyncIterator[Any]:
        items = self.mesh.datasets[request.name.rpartition("/versions/")[0]][-1]
        for item in items[request.offset :]:
            yield datasets.ReadDatasetItemsResponse(items=[item])
            if self.mesh.item_cuts:
                self.mesh.item_cuts -= 1
                raise self.mesh.item_error

    @guarded
    async def ListDatasets(self, request: Any, context: Any) -> Any:
        gone = self.mesh.deleted if request.show_deleted else {}
        found = [
            dataset_pb2.Dataset(name=name, latest_version=f"{name}/versions/{len(versions)}" if versions else "")
            for name, versions in sorted(self.mesh.datasets.items())
            if name not in self.mesh.deleted
        ]
        found += [dataset_pb2.Dataset(name=name, **DELETED) for name in gone if "/versions/" not in name]
        return datasets.ListDatasetsResponse(datasets=found)

    @guarded
    async def DeleteDatasetVersion(self, request: Any, context: Any) -> Any:
        parent = self.mesh.delete(request.name, "/datasets/").rpartition("/versions/")[0]
        return datasets.DeleteDatasetVersionResponse(
            dataset_version=dataset_pb2.DatasetVersion(name=request.name, **DELETED),
            dataset=dataset_pb2.Dataset(name=parent, latest_version=f"{parent}/versions/1"),
        )

    @guarded
    async def UndeleteDatasetVersion(self, request: Any, context: Any) -> Any:
        parent = self.mesh.restore(request.name).rpartition("/versions/")[0]
        return datasets.UndeleteDatasetVersionResponse(
            dataset_version=dataset_pb2.DatasetVersion(name=request.name),
            dataset=dataset_pb2.Dataset(name=parent, latest_version=request.name),
        )

    @guarded
    async def DeleteDataset(self, request: Any, context: Any) -> Any:
        dataset = dataset_pb2.Dataset(name=self.mesh.delete(request.name, "/datasets/"), **DELETED)
        return datasets.DeleteDatasetResponse(dataset=dataset, version_count=2)

    @guarded
    async def UndeleteDataset(self, request: Any, context: Any) -> Any:
        dataset = dataset_pb2.Dataset(name=self.mesh.restore(request.name))
        return datasets.UndeleteDatasetResponse(dataset=dataset, version_count=2)


class Models(Servicer, model_service_pb2_grpc.ModelServiceServicer):
    @guarded
    async def DeleteModelVersion(self, request: Any, context: Any) -> Any:
        parent = self.mesh.delete(request.name, "/models/").rpartition("/versions/")[0]
        return models.DeleteModelVersionResponse(
            model_version=model_pb2.ModelVersion(name=request.name, **DELETED),
            model=model_pb2.Model(name=parent),
        )

    @guarded
    async def UndeleteModelVersion(self, request: Any, context: Any) -> Any:
        parent = self.mesh.restore(request.name).rpartition("/versions/")[0]
        return models.UndeleteModelVersionResponse(
            model_version=model_pb2.ModelVersion(name=request.name),
            model=model_pb2.Model(name=parent, latest_released_version=request.name),
        )

    @guarded
    async def DeleteModel(self, request: Any, context: Any) -> Any:
        model = model_pb2.Model(name=self.mesh.delete(request.name, "/models/"), **DELETED)
        return models.DeleteModelResponse(model=model, version_count=1)

    @guarded
    async def UndeleteModel(self, request: Any, context: Any) -> Any:
        return models.UndeleteModelResponse(
            model=model_pb2.Model(name=self.mesh.restore(request.name)), version_count=1
        )

    def _versions(self, model: str) -> list[Any]:
        """Return a model's versions in the library, newest first."""
        found = [one for one, _ in self.mesh.library.values() if one.name.rpartition("/versions/")[0] == model]
        return sorted(found, key=lambda one: -int(one.name.rpartition("/")[2]))

    @guarded
    async def ListModels(self, request: Any, context: Any) -> Any:
        self.mesh.model_lists += 1
        if self.mesh.denied:
            raise self.mesh.denied
        if self.mesh.away > 0:
            self.mesh.away -= 1
            raise errors.Unavailable("storage goes down", dependency="storage")
        found = []
        for name in sorted({one.rpartition("/versions/")[0] for one in self.mesh.library}):
            if name.startswith(f"{request.parent}/"):
                versions = self._versions(name)
                released = next((one.name for one in versions if one.released), "")
                found.append(
                    model_pb2.Model(name=name, latest_version=versions[0].name, latest_released_version=released)
                )
        return models.ListModelsResponse(models=found)

    @guarded
    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        if request.name in self.mesh.library:
            return models.GetModelVersionResponse(model_version=self.mesh.library[request.name][0])
        model, _, number = request.name.rpartition("/versions/")
        for one in self._versions(model) if number == "latest" else ():
            if one.released:
                return models.GetModelVersionResponse(model_version=one)
        if self.mesh.model is None or (request.name.endswith("/latest") and not self.mesh.model.released):
            raise not_found(request.name)
        return models.GetModelVersionResponse(model_version=self.mesh.model)

    @guarded
    async def ListModelVersions(self, request: Any, context: Any) -> Any:
        found = self._versions(request.parent) or ([self.mesh.model] if self.mesh.model else [])
        start, size = int(request.page_token or 0), request.page_size or 50
        token = str(start + size) if start + size < len(found) else ""
        return models.ListModelVersionsResponse(model_versions=found[start : start + size], next_page_token=token)

    @guarded
    async def DownloadModelFile(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.mesh.download_offsets.append((request.filename, request.offset))
        files = self.mesh.library[request.name][1] if request.name in self.mesh.library else self.mesh.model_files
        data = files[request.filename]
        for start in range(request.offset, len(data), 100):
            if self.mesh.download_cuts and start > request.offset:
                self.mesh.download_cuts -= 1
                raise errors.Unavailable("storage goes down", dependency="storage")
            yield models.DownloadModelFileResponse(chunk=data[start : start + 100])


class Algorithms(Servicer, algorithm_service_pb2_grpc.AlgorithmServiceServicer):
    @guarded
    async def GetAlgorithmVersion(self, request: Any, context: Any) -> Any:
        self.mesh.asked_algorithms.append(request.name)
        version = algorithm_pb2.AlgorithmVersion(name=request.name, manifest_toml=self.mesh.manifest)
        return algorithm_service_pb2.GetAlgorithmVersionResponse(algorithm_version=version)

    @guarded
    async def ListAlgorithmVersions(self, request: Any, context: Any) -> Any:
        gone = self.mesh.deleted if request.show_deleted else {}
        found = [
            algorithm_pb2.AlgorithmVersion(name=name, **DELETED) for name in gone if name.startswith("algorithms/")
        ]
        return algorithm_service_pb2.ListAlgorithmVersionsResponse(algorithm_versions=found)

    @guarded
    async def DeleteAlgorithmVersion(self, request: Any, context: Any) -> Any:
        name = self.mesh.delete(request.name, "algorithms/")
        version = algorithm_pb2.AlgorithmVersion(name=name, **DELETED)
        return algorithm_service_pb2.DeleteAlgorithmVersionResponse(algorithm_version=version)

    @guarded
    async def UndeleteAlgorithmVersion(self, request: Any, context: Any) -> Any:
        version = algorithm_pb2.AlgorithmVersion(name=self.mesh.restore(request.name))
        return algorithm_service_pb2.UndeleteAlgorithmVersionResponse(algorithm_version=version)


class Jobs(Servicer, training_job_service_pb2_grpc.TrainingJobServiceServicer):
    @guarded
    async def SubmitTrainingJob(self, request: Any, context: Any) -> Any:
        job = training_job_pb2.TrainingJob()
        job.CopyFrom(request.training_job)
        job.name = f"{request.parent}/jobs/j1"
        self.mesh.jobs[job.name] = self.mesh.job_results.get(job.name, job)
        return training_job_service_pb2.SubmitTrainingJobResponse(training_job=job)

    @guarded
    async def GetTrainingJob(self, request: Any, context: Any) -> Any:
        if request.name not in self.mesh.jobs:
            raise not_found(request.name)
        return training_job_service_pb2.GetTrainingJobResponse(training_job=self.mesh.jobs[request.name])

    @guarded
    async def ListTrainingJobs(self, request: Any, context: Any) -> Any:
        wanted, labels = set(request.states), request.labels.items()
        jobs = (job for job in self.mesh.jobs.values() if not wanted or job.state in wanted)
        jobs = (job for job in jobs if labels <= dict(job.labels).items())
        jobs = (job for job in jobs if request.show_deleted or not job.HasField("delete_time"))
        found = sorted(jobs, key=lambda job: job.name)
        start = int(request.page_token or 0)
        page = found[start : start + 1]
        token = str(start + 1) if start + 1 < len(found) else ""
        return training_job_service_pb2.ListTrainingJobsResponse(training_jobs=page, next_page_token=token)

    @guarded
    async def UpdateTrainingJob(self, request: Any, context: Any) -> Any:
        if request.training_job.name not in self.mesh.jobs:
            raise not_found(request.training_job.name)
        job = self.mesh.jobs[request.training_job.name]
        request.update_mask.MergeMessage(request.training_job, job, True, True)
        return training_job_service_pb2.UpdateTrainingJobResponse(training_job=job)

    @guarded
    async def RerunTrainingJob(self, request: Any, context: Any) -> Any:
        self.mesh.reruns.append(request)
        job = training_job_pb2.TrainingJob(name="projects/line-7/jobs/j2", rerun_of=request.name)
        self.mesh.jobs[job.name] = self.mesh.job_results.get(job.name, job)
        return training_job_service_pb2.RerunTrainingJobResponse(training_job=job)

    @guarded
    async def ResumeTrainingJob(self, request: Any, context: Any) -> Any:
        self.mesh.resumptions.append(request)
        job = training_job_pb2.TrainingJob(name="projects/line-7/jobs/j2", resume_of=request.name)
        self.mesh.jobs[job.name] = self.mesh.job_results.get(job.name, job)
        return training_job_service_pb2.ResumeTrainingJobResponse(training_job=job)

    @guarded
    async def DeleteTrainingJob(self, request: Any, context: Any) -> Any:
        if request.name not in self.mesh.jobs or self.mesh.jobs[request.name].HasField("delete_time"):
            raise not_found(request.name)
        assert request.request_id
        self.mesh.jobs[request.name].delete_time.FromSeconds(1_800_000_000)
        self.mesh.jobs[request.name].expire_time.FromSeconds(1_802_592_000)
        return training_job_service_pb2.DeleteTrainingJobResponse(training_job=self.mesh.jobs[request.name])

    @guarded
    async def UndeleteTrainingJob(self, request: Any, context: Any) -> Any:
        job = self.mesh.jobs[request.name]
        if not job.HasField("delete_time"):
            raise errors.AlreadyExists(f"{job.name} is not deleted", resource=job.name)
        job.ClearField("delete_time")
        return training_job_service_pb2.UndeleteTrainingJobResponse(training_job=job)

    @guarded
    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for event in self.mesh.events:
            if event.sequence > request.after_sequence:
                yield training_job_service_pb2.WatchTrainingJobResponse(event=event)
                if self.mesh.watch_cuts:
                    self.mesh.watch_cuts -= 1
                    raise errors.Unavailable("the scheduler goes down", dependency="scheduler")


class Projects(Servicer, project_service_pb2_grpc.ProjectServiceServicer):
    @guarded
    async def ListProjects(self, request: Any, context: Any) -> Any:
        gone = self.mesh.deleted if request.show_deleted else {}
        found = [project_pb2.Project(name=name, **DELETED) for name in gone]
        return project_service_pb2.ListProjectsResponse(projects=found)

    @guarded
    async def DeleteProject(self, request: Any, context: Any) -> Any:
        project = project_pb2.Project(name=self.mesh.delete(request.name, "projects/"), **DELETED)
        return project_service_pb2.DeleteProjectResponse(project=project)

    @guarded
    async def UndeleteProject(self, request: Any, context: Any) -> Any:
        project = project_pb2.Project(name=self.mesh.restore(request.name))
        return project_service_pb2.UndeleteProjectResponse(project=project)

    @guarded
    async def GetProjectUsage(self, request: Any, context: Any) -> Any:
        if request.name != self.mesh.usage.project:
            raise not_found(request.name)
        return project_service_pb2.GetProjectUsageResponse(usage=self.mesh.usage)

    @guarded
    async def SetProjectQuota(self, request: Any, context: Any) -> Any:
        if self.mesh.denied:
            raise self.mesh.denied
        quota = self.mesh.usage.quota
        for field, value in request.ListFields():
            if field.name != "name":
                setattr(quota, field.name, value)
        return project_service_pb2.SetProjectQuotaResponse(quota=quota)


class Clusters(Servicer, cluster_service_pb2_grpc.ClusterServiceServicer):
    @guarded
    async def ListClusters(self, request: Any, context: Any) -> Any:
        return cluster_service_pb2.ListClustersResponse()


async def _speak_first() -> asyncio.Server:
    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_name":"nats"}\r\n')
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    return await asyncio.start_server(speak, "127.0.0.1", 0)


class FakeMesh:
    """The state, and the server that runs in a thread of its own. hostile: answers are full of control characters."""

    def __init__(self, *, hostile: bool = False) -> None:
        self._hostile = HostileHandler() if hostile else None
        self.ca, self._key = certificate()
        self.access_tokens: set[str] = set()
        self.refresh_token = ""
        self.make_token: Callable[[], str] = lambda: ""
        self.issued = 0
        self.refreshes = 0
        self.refresh_seconds = 0.0
        self.lost_refreshes = 0
        self.last_refresh: tuple[Any, session_service_pb2.Tokens] | None = None
        self.lifetime = 600
        self.denied: LoupeError | None = None
        self.blobs: dict[str, bytes] = {}
        self.usage = project_pb2.ProjectUsage(project="projects/line-7")
        self.full_at: int | None = None
        self.received: list[str] = []
        self.cuts: list[int] = []
        self.uploads = 0
        self.asked_missing = 0
        self.parts: dict[str, bytes] = {}
        self.offsets: list[int] = []
        self.most_bytes = 1 << 40
        self.on_chunk: Callable[[], None] = lambda: None
        self.manifest = ""
        self.asked_algorithms: list[str] = []
        self.reruns: list[Any] = []
        self.resumptions: list[Any] = []
        self.datasets: dict[str, list[list[Any]]] = {}
        self.headers: list[Any] = []
        self.largest_batch = 0
        self.deleted: dict[str, None] = {}
        self.forgets = False
        self.changes: list[Any] = []
        self.split: Any = None
        self.item_cuts = 0
        self.warnings: list[str] = []
        self.item_error: LoupeError = errors.Unavailable("storage goes down", dependency="storage")
        self.model: model_pb2.ModelVersion | None = None
        self.model_files: dict[str, bytes] = {}
        self.download_offsets: list[tuple[str, int]] = []
        self.download_cuts = 0
        self.library: dict[str, tuple[model_pb2.ModelVersion, dict[str, bytes]]] = {}
        self.model_lists = 0
        self.away = 0
        self.jobs: dict[str, training_job_pb2.TrainingJob] = {}
        self.job_results: dict[str, training_job_pb2.TrainingJob] = {}
        self.events: list[training_job_pb2.JobEvent] = []
        self.watch_cuts = 0
        self.address = ""
        self.storage_address = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def delete(self, name: str, kind: str) -> str:
        """Delete what is named and return its name."""
        if self.denied:
            raise self.denied
        if name in self.deleted or kind not in name:
            raise not_found(name)
        self.deleted[name] = None
        return name

    def restore(self, name: str) -> str:
        """Restore what is named and return its name."""
        if name not in self.deleted:
            raise errors.AlreadyExists(f"{name} is not deleted", resource=name)
        del self.deleted[name]
        return name

    def new_tokens(self) -> session_service_pb2.Tokens:
        self.issued += 1
        access = self.make_token() or f"access-{self.issued}"
        self.access_tokens.add(access)
        self.refresh_token = f"refresh-{self.issued}"
        return session_service_pb2.Tokens(
            access_token=access,
            refresh_token=self.refresh_token,
            access_lifetime=Duration(seconds=self.lifetime),
            refresh_lifetime=Duration(seconds=3600),
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    @contextlib.contextmanager
    def serve(self) -> Iterator[FakeMesh]:
        """Run the server for as long as the block."""
        self._thread.start()
        self._server, port = self.run(self._start())
        self.address = self.storage_address = f"127.0.0.1:{port}"
        try:
            yield self
        finally:
            self.run(self._server.stop(None))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    async def _start(self) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 40 << 20)])
        if self._hostile is not None:
            server.add_generic_rpc_handlers((self._hostile,))
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(self._key, self.ca)]))
            self._hostile.address = f"127.0.0.1:{port}"
            await server.start()
            return server, port
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(Sessions(self), server)
        blob_service_pb2_grpc.add_BlobServiceServicer_to_server(Blobs(self), server)
        dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server(Datasets(self), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(self), server)
        algorithm_service_pb2_grpc.add_AlgorithmServiceServicer_to_server(Algorithms(self), server)
        training_job_service_pb2_grpc.add_TrainingJobServiceServicer_to_server(Jobs(self), server)
        project_service_pb2_grpc.add_ProjectServiceServicer_to_server(Projects(self), server)
        cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(Clusters(self), server)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(self._key, self.ca)]))
        await server.start()
        return server, port

    @contextlib.contextmanager
    def other_door(self, kind: str) -> Iterator[str]:
        """Open, in this mesh's name, a door that is not auth's, and yield its address.

        kind: "closed", "plain" (speaks no TLS, and first), "services only" (asks for a certificate), "no Loupe" (gRPC
        without any service), anything else: auth's own.
        """
        if kind == "plain":
            server = self.run(_speak_first())
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._loop.call_soon_threadsafe(server.close)
        elif kind in ("services only", "no Loupe"):
            server, port = self.run(self._start_other(kind == "services only"))
            yield f"127.0.0.1:{port}"
            self.run(server.stop(None))
        else:
            yield "127.0.0.1:1" if kind == "closed" else self.address

    async def _start_other(self, mutual: bool) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        credentials = grpc.ssl_server_credentials([(self._key, self.ca)], self.ca if mutual else None, mutual)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        return server, port

    def cutting_proxy(self, budgets: list[int]) -> str:
        """Put a TCP proxy before the server that cuts each next connection after so many bytes sent."""
        proxy = CuttingProxy(int(self.address.rpartition(":")[2]), budgets)
        return self.run(proxy.start())


def write_profile(mesh: FakeMesh, path: Path, **changes: Any) -> Any:
    """Store a logged-in profile for the mesh and return its store."""
    import time

    from loupe.terminal.profile import Profile, ProfileStore

    tokens = mesh.new_tokens()
    store = ProfileStore(path)
    values: dict[str, Any] = {
        "server": mesh.address,
        "ca": mesh.ca.decode(),
        "account": "accounts/anna",
        "project": "line-7",
        "access_token": tokens.access_token,
        "access_expires": time.time() + mesh.lifetime,
        "refresh_token": tokens.refresh_token,
    }
    store.save(Profile(**(values | changes)))
    return store
