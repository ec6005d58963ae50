"""Data sets: pushing labelled pictures into an immutable version, listing, reading."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.backoff import Backoff
from loupe.errors import AlreadyExists, BadDataset, Unavailable
from loupe.names import DatasetName
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as service
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceStub
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS, Connection, Service, flatten
from loupe.terminal.hashing import Hashed, hash_files
from loupe.terminal.inspection import Addressed, conflicting, inspect_pictures, require_trainable
from loupe.terminal.picture_source import Collection, Skipped, read_pictures
from loupe.terminal.progress import PushProgress
from loupe.terminal.upload import Uploaded, upload_pictures

if TYPE_CHECKING:
    from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

ITEMS_IN_BATCH = 5_000

UNREADABLE = "unreadable"
TO_BE_READ = "let this account read it, or take it away"

REMEDIES = {
    blobs.PICTURE_PROBLEM_NOT_A_PICTURE: "send a PNG, JPEG, WebP, BMP or TIFF file",
    blobs.PICTURE_PROBLEM_UNSUPPORTED_FORMAT: "save it as PNG, JPEG, WebP, BMP or TIFF",
    blobs.PICTURE_PROBLEM_TOO_LARGE: "at most 32 MiB and 64 million pixels: cut or shrink it",
    blobs.PICTURE_PROBLEM_BROKEN: "copy or export it again from where it came from",
    blobs.PICTURE_PROBLEM_DUPLICATE: "nothing is wrong; one copy is enough",
    blobs.PICTURE_PROBLEM_DIGEST_MISMATCH: "it changed while it was sent; push again",
    blobs.PICTURE_PROBLEM_CONFLICTING_LABEL: "keep it in one class only",
}


@dataclass(frozen=True)
class Problem:
    """A picture that did not join the version: which file, what is the matter, what would be right."""

    filename: str
    kind: str
    message: str
    remedy: str


class PicturesRefused(BadDataset):
    """A strict push found pictures that cannot be taken, and made nothing. problems: every one of them."""

    def __init__(self, message: str, problems: Sequence[Problem] = (), **metadata: object) -> None:
        super().__init__(message, **metadata)
        self.problems = problems


@dataclass
class PushReport:
    """What a push came to. duplicates: files whose very bytes stand in the version under another name."""

    version: dataset_pb2.DatasetVersion
    uploaded: Uploaded
    problems: list[Problem] = field(default_factory=list)
    left_out: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    duplicates: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ProjectBlobs:
    """A project's BlobService as an upload needs it."""

    def __init__(self, service: Service[BlobServiceAsyncStub], project: str) -> None:
        self._service = service
        self._project = project

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Return those that the project does not have, in the same order."""
        request = blobs.FindMissingBlobsRequest(parent=self._project, digests=digests)
        return (await self._service.call(lambda stub: stub.FindMissingBlobs, request)).digests

    def upload(
        self, requests: Callable[[], AsyncIterator[blobs.UploadPicturesRequest]]
    ) -> AsyncGenerator[blobs.UploadPicturesResponse]:
        """Open one UploadPictures stream; `requests` begins what is sent."""
        return self._service.read(lambda stub: stub.UploadPictures(requests()))


class Datasets:
    """Named series of immutable versions."""

    def __init__(self, connection: Connection) -> None:
        self._datasets = Service(connection, DatasetServiceStub)
        self._blobs = Service(connection, BlobServiceStub)

    async def push(
        self,
        name: DatasetName,
        source: Path | Collection,
        *,
        split: dataset_pb2.SplitPolicy | None = None,
        strict: bool = False,
        show: Callable[[PushProgress], None] = lambda progress: None,
    ) -> PushReport:
        """Upload what is missing and make a version of all pictures; the data set is made when absent.

        Pictures that cannot be read or that storage does not take are left out and named in the report. With strict
        every picture is looked at here first, and PicturesRefused is raised with all problems before anything is sent.
        Raises BadDataset also for a source without pictures or with one class; no data set is made then.
        """
        collection = source if isinstance(source, Collection) else await asyncio.to_thread(read_pictures, source)
        if collection.given and split is not None:
            raise BadDataset(
                f"{collection.source} says the split of every picture itself; leave the fractions and seed away",
                problem="split_given_twice",
            )
        project = f"projects/{name.project}"
        hashed = await hash_files([one.path for one in collection.pictures], show)
        addressed = [(one, file.digest) for one, file in zip(collection.pictures, hashed, strict=True) if file.digest]
        kept, duplicates = _without_duplicates(addressed)
        filenames = _filenames(kept)
        problems = _unreadable(collection, hashed)
        if strict:
            problems += _problems(await asyncio.to_thread(_inspected, kept, show), filenames)
            if problems:
                raise _refusal(problems)
        uploaded = await upload_pictures(
            ProjectBlobs(self._blobs, project), project, [one for one in hashed if one.digest], show
        )
        problems += _problems(uploaded.refused.values(), filenames)
        if strict and problems:
            raise _refusal(problems)
        taken = [(one, digest) for one, digest in kept if digest not in uploaded.refused]
        conflicts = conflicting(taken)
        usable = [(one, digest) for one, digest in taken if digest not in conflicts]
        await asyncio.to_thread(require_trainable, collection.source, usable, len(problems) + len(taken) - len(usable))
        show(PushProgress("version", 0, len(taken)))
        await self._ensure(name)
        response = await self._create_version(name, _items(taken), split, strict)
        show(PushProgress("version", len(taken), len(taken)))
        return PushReport(
            version=response.dataset_version,
            uploaded=uploaded,
            problems=[*problems, *_problems(response.verdicts, filenames)],
            left_out=len(problems) + response.left_out_count,
            skipped=collection.skipped,
            duplicates=duplicates,
            warnings=list(response.warnings),
        )

    async def _ensure(self, name: DatasetName) -> None:
        request = service.CreateDatasetRequest(parent=f"projects/{name.project}", dataset_id=name.dataset)
        with contextlib.suppress(AlreadyExists):
            await self._datasets.call(lambda stub: stub.CreateDataset, request)

    async def _create_version(
        self,
        name: DatasetName,
        items: Sequence[dataset_pb2.DatasetItem],
        split: dataset_pb2.SplitPolicy | None,
        strict: bool,
    ) -> service.CreateDatasetVersionResponse:
        # One id for all tries: a version that was made although its answer was lost is not made again.
        header = service.DatasetVersionHeader(
            parent=str(name), split=split, strict=strict, request_id=str(uuid.uuid4())
        )

        async def requests() -> AsyncIterator[service.CreateDatasetVersionRequest]:
            yield service.CreateDatasetVersionRequest(header=header)
            for start in range(0, len(items), ITEMS_IN_BATCH):
                batch = service.DatasetItemBatch(items=items[start : start + ITEMS_IN_BATCH])
                yield service.CreateDatasetVersionRequest(batch=batch)
            yield service.CreateDatasetVersionRequest(closing=service.DatasetVersionClosing(item_count=len(items)))

        return await self._datasets.send(lambda stub: stub.CreateDatasetVersion(requests()), TRANSFER_RETRY_SECONDS)

    async def get(self, name: str) -> dataset_pb2.Dataset:
        """Return a data set. Raises NotFound."""
        request = service.GetDatasetRequest(name=name)
        return (await self._datasets.call(lambda stub: stub.GetDataset, request)).dataset

    def list(self, project: str) -> AsyncIterator[dataset_pb2.Dataset]:
        """Yield a project's data sets, by id."""
        request = service.ListDatasetsRequest(parent=project)
        return flatten(self._datasets.pages(lambda stub: stub.ListDatasets, request), lambda page: page.datasets)

    async def version(self, name: str) -> dataset_pb2.DatasetVersion:
        """Return a version; its number may be "latest". Raises NotFound."""
        request = service.GetDatasetVersionRequest(name=name)
        return (await self._datasets.call(lambda stub: stub.GetDatasetVersion, request)).dataset_version

    def versions(self, dataset: str) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """Yield a data set's versions, newest first."""
        request = service.ListDatasetVersionsRequest(parent=dataset)
        return flatten(
            self._datasets.pages(lambda stub: stub.ListDatasetVersions, request), lambda page: page.dataset_versions
        )

    async def items(self, name: str) -> AsyncGenerator[dataset_pb2.DatasetItem]:
        """Yield a version's pictures in their order; a cut is healed from the place where it happened."""
        backoff = Backoff(TRANSFER_RETRY_SECONDS)
        request = service.ReadDatasetItemsRequest(name=name)
        received = 0
        while True:
            request.offset = received
            try:
                async for response in self._datasets.read(lambda stub: stub.ReadDatasetItems(request)):
                    backoff.reset()
                    for item in response.items:
                        received += 1
                        yield item
            except Unavailable as error:
                await backoff.wait(error)
            else:
                return

    def download(
        self, project: str, digests: Sequence[str], offset: int = 0
    ) -> AsyncGenerator[blobs.DownloadBlobsResponse]:
        """Open one stream of blobs, in the order asked for. Raises Unavailable when it is cut."""
        request = blobs.DownloadBlobsRequest(parent=project, digests=digests, offset=offset)
        return self._blobs.read(lambda stub: stub.DownloadBlobs(request))


def _without_duplicates(pictures: Iterable[Addressed]) -> tuple[list[Addressed], list[Skipped]]:
    """Keep the first of equal files with the same label; other labels are storage's to judge."""
    first: dict[tuple[str, str], str] = {}
    kept, duplicates = [], []
    for picture, digest in pictures:
        known = first.setdefault((digest, picture.label), picture.filename)
        if known is picture.filename:
            kept.append((picture, digest))
        else:
            duplicates.append(Skipped(picture.filename, f"the same file as {known}"))
    return kept, duplicates


def _filenames(pictures: Iterable[Addressed]) -> Mapping[str, Sequence[str]]:
    """Return the names under which people know each digest."""
    names: dict[str, list[str]] = {}
    for picture, digest in pictures:
        names.setdefault(digest, []).append(picture.filename)
    return names


def _items(pictures: Iterable[Addressed]) -> list[dataset_pb2.DatasetItem]:
    return [
        dataset_pb2.DatasetItem(digest=digest, label=one.label, split=one.split, filename=one.filename)
        for one, digest in pictures
    ]


def _unreadable(collection: Collection, hashed: Iterable[Hashed]) -> list[Problem]:
    """Return what the source names and this machine cannot read: before it was looked into, or when it was."""
    found = [(one.filename, one.reason) for one in collection.unreadable]
    found += [
        (one.filename, file.problem) for one, file in zip(collection.pictures, hashed, strict=True) if file.problem
    ]
    return [Problem(filename, UNREADABLE, reason, TO_BE_READ) for filename, reason in found]


def _inspected(pictures: Sequence[Addressed], show: Callable[[PushProgress], None]) -> list[blobs.PictureVerdict]:
    return inspect_pictures(pictures, lambda count: show(PushProgress("inspect", count, len(pictures))))


def _problems(verdicts: Iterable[blobs.PictureVerdict], filenames: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    for verdict in verdicts:
        kind = blobs.PictureProblem.Name(verdict.problem).removeprefix("PICTURE_PROBLEM_").lower()
        remedy = REMEDIES.get(verdict.problem, "")
        for filename in filenames.get(verdict.digest, [verdict.digest]):
            yield Problem(filename, kind, verdict.message, remedy)


def _refusal(problems: Sequence[Problem]) -> PicturesRefused:
    first = problems[0]
    count = f"{len(problems)} picture{'' if len(problems) == 1 else 's'}"
    return PicturesRefused(
        f"{count} cannot be taken, the first: {first.filename}: {first.message}; "
        f"{first.remedy}, or push without --strict to leave them out",
        problems,
        problem=first.kind,
        file=first.filename,
    )
