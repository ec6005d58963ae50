"""Data sets: pushing labelled pictures into an immutable version, listing, reading."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from loupe.annotations import Annotation
from loupe.backoff import Backoff
from loupe.errors import AlreadyExists, BadDataset, BlobMissing, Unavailable
from loupe.names import DatasetName, DatasetVersionName
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as service
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceStub
from loupe.terminal.annotation_messages import to_messages
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS, Connection, Service, flatten
from loupe.terminal.formats.sources import AUTO, forget_single_split, read_source
from loupe.terminal.hashing import Hashed, hash_files
from loupe.terminal.inspection import Addressed, conflicting, inspect_pictures, require_trainable
from loupe.terminal.picture_source import Collection, Skipped
from loupe.terminal.progress import PushProgress
from loupe.terminal.upload import ProjectBlobs, Uploaded, upload_pictures

if TYPE_CHECKING:
    pass

ITEMS_IN_BATCH = 5_000
BYTES_IN_BATCH = 2 << 20
"""How large a message of items gets before the next one is begun: a picture may have a thousand polygons."""

UNREADABLE = "unreadable"
TO_BE_READ = "let this account read it, or take it away"

REMEDIES = {
    blobs.PICTURE_PROBLEM_NOT_A_PICTURE: "send a PNG, JPEG, WebP, BMP or TIFF file",
    blobs.PICTURE_PROBLEM_UNSUPPORTED_FORMAT: "save it as PNG, JPEG, WebP, BMP or TIFF",
    blobs.PICTURE_PROBLEM_TOO_LARGE: "at most 32 MiB and 64 million pixels: cut or shrink it",
    blobs.PICTURE_PROBLEM_BROKEN: "copy or export it again from where it came from",
    blobs.PICTURE_PROBLEM_DUPLICATE: "nothing is wrong; one copy is enough",
    blobs.PICTURE_PROBLEM_DIGEST_MISMATCH: "it changed while it was sent; push again",
    blobs.PICTURE_PROBLEM_CONFLICTING_LABEL: "keep it in one class only; `loupe dataset relabel` gives it another",
}


Sent = TypeVar("Sent", bound=Message)


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
    """What a push came to.

    duplicates: files whose very bytes stand in the version under another name. format, explanation: in which format the
    source was read, and why.
    """

    version: dataset_pb2.DatasetVersion
    uploaded: Uploaded
    problems: list[Problem] = field(default_factory=list)
    left_out: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    duplicates: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    format: str = ""
    explanation: str = ""


@dataclass
class VersionDiff:
    """What a version has otherwise than its base: how many pictures of each kind, and which."""

    summary: service.DatasetDiffSummary
    differences: list[service.DatasetDifference] = field(default_factory=list)


@dataclass
class _Sent:
    """What of a collection is in the mesh now, and what is not. filenames: see _filenames."""

    taken: list[Addressed]
    uploaded: Uploaded
    problems: list[Problem]
    duplicates: list[Skipped]
    filenames: Mapping[str, Sequence[str]]


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
        format: str = AUTO,
        split: dataset_pb2.SplitPolicy | None = None,
        strict: bool = False,
        force: bool = False,
        resplit: bool = False,
        show: Callable[[PushProgress], None] = lambda progress: None,
    ) -> PushReport:
        """Upload what is missing and make a version of all pictures; the data set is made when absent.

        format: "auto" finds out in which format the source is; else one of loupe.terminal.formats.sources.FORMATS.
        Pictures that cannot be read or that storage does not take are left out and named in the report. With strict
        every picture is looked at here first, and PicturesRefused is raised with all problems before anything is sent.
        Pictures of the last version keep their split; resplit divides all anew by `split`, and force takes pictures
        out of the test split where the push would be refused. Raises BadDataset also for a source without pictures or
        with one class; no data set is made then.
        """
        collection = source if isinstance(source, Collection) else await asyncio.to_thread(read_source, source, format)
        forget_single_split(collection)
        if collection.given and split is not None:
            raise BadDataset(
                f"{collection.source} says the split of every picture itself; leave unit, fractions and seed away",
                problem="split_given_twice",
            )
        sent = await self._send(name.project, collection, strict, show)
        conflicts = conflicting(sent.taken)
        usable = [(one, digest) for one, digest in sent.taken if digest not in conflicts]
        left_out = len(sent.problems) + len(sent.taken) - len(usable)
        await asyncio.to_thread(require_trainable, collection.source, usable, left_out)
        await self._ensure(name)
        header = service.DatasetVersionHeader(
            parent=str(name), split=split, strict=strict, force=force, resplit=resplit
        )
        return await self._make_version(header, collection, sent, show)

    async def add(
        self,
        name: DatasetName,
        source: Path | Collection,
        *,
        format: str = AUTO,
        base: str = "latest",
        strict: bool = False,
        force: bool = False,
        show: Callable[[PushProgress], None] = lambda progress: None,
    ) -> PushReport:
        """Make a version of the base, a version's number or "latest", and the pictures of a source.

        Only what is missing is sent. Pictures that the base has with another label are left out and named. format,
        strict and force as in push. Raises NotFound when there is no such version.
        """
        collection = source if isinstance(source, Collection) else await asyncio.to_thread(read_source, source, format)
        based = f"{name}/versions/{base}"
        await self.version(based)
        sent = await self._send(name.project, collection, strict, show)
        header = service.DatasetVersionHeader(parent=str(name), base=based, strict=strict, force=force)
        return await self._make_version(header, collection, sent, show)

    async def change(
        self,
        base: DatasetVersionName,
        *,
        removed: Sequence[str] = (),
        relabelled: Mapping[str, str] = MappingProxyType({}),
        annotated: Mapping[str, Sequence[Annotation] | None] = MappingProxyType({}),
        force: bool = False,
    ) -> service.CreateDatasetVersionResponse:
        """Make a version of the base without some pictures, with others under another label or annotated otherwise.

        All are named by digest. annotated: what takes the place of a picture's annotations; an empty sequence says that
        nothing is there, None that nobody looked. force allows that for pictures of the test split. Raises BadDataset
        for a picture that the base does not have.
        """
        dataset = DatasetName(base.project, base.dataset)
        header = service.DatasetVersionHeader(parent=str(dataset), base=str(base), force=force)
        pairs = [service.RelabelledPicture(digest=digest, label=label) for digest, label in relabelled.items()]
        pictures = [
            service.AnnotatedPicture(
                digest=digest, annotations=to_messages(each or ()), nothing_there=each is not None and not each
            )
            for digest, each in annotated.items()
        ]
        return await self._create_version(header, [], removed, pairs, pictures)

    async def diff(self, base: str, name: str, most: int = 0) -> VersionDiff:
        """Compare a version with a base, both by name; `most` pictures of each kind at most, 0 for all."""
        backoff = Backoff(TRANSFER_RETRY_SECONDS)
        request = service.DiffDatasetVersionsRequest(base=base, name=name, most=most)
        while True:
            found = VersionDiff(service.DatasetDiffSummary())
            try:
                async for response in self._datasets.read(lambda stub: stub.DiffDatasetVersions(request)):
                    if response.HasField("summary"):
                        found.summary = response.summary
                    found.differences += response.differences
            except Unavailable as error:
                await backoff.wait(error)
            else:
                return found

    async def _send(
        self, project_id: str, collection: Collection, strict: bool, show: Callable[[PushProgress], None]
    ) -> _Sent:
        """Upload what is missing of a collection. Raises PicturesRefused with strict."""
        project = f"projects/{project_id}"
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
        return _Sent(taken, uploaded, problems, duplicates, filenames)

    async def _make_version(
        self,
        header: service.DatasetVersionHeader,
        collection: Collection,
        sent: _Sent,
        show: Callable[[PushProgress], None],
    ) -> PushReport:
        show(PushProgress("version", 0, len(sent.taken)))
        try:
            response = await self._create_version(header, _items(sent.taken))
        except BlobMissing:
            # Storage has collected pictures that were there when it was asked: they are sent again.
            sent = await self._send(DatasetName.parse(header.parent).project, collection, header.strict, show)
            response = await self._create_version(header, _items(sent.taken))
        show(PushProgress("version", len(sent.taken), len(sent.taken)))
        return PushReport(
            version=response.dataset_version,
            uploaded=sent.uploaded,
            problems=[*sent.problems, *_problems(response.verdicts, sent.filenames)],
            left_out=len(sent.problems) + response.left_out_count,
            skipped=collection.skipped,
            duplicates=sent.duplicates,
            warnings=[*collection.warnings, *response.warnings],
            format=collection.format,
            explanation=collection.explanation,
        )

    async def _ensure(self, name: DatasetName) -> None:
        request = service.CreateDatasetRequest(parent=f"projects/{name.project}", dataset_id=name.dataset)
        try:
            await self._datasets.call(lambda stub: stub.CreateDataset, request)
        except AlreadyExists as error:
            if error.state == "DELETED":
                raise

    async def _create_version(
        self,
        header: service.DatasetVersionHeader,
        items: Sequence[dataset_pb2.DatasetItem],
        removed: Sequence[str] = (),
        relabelled: Sequence[service.RelabelledPicture] = (),
        annotated: Sequence[service.AnnotatedPicture] = (),
    ) -> service.CreateDatasetVersionResponse:
        # One id for all tries: a version that was made although its answer was lost is not made again.
        header.request_id = str(uuid.uuid4())

        async def requests() -> AsyncIterator[service.CreateDatasetVersionRequest]:
            yield service.CreateDatasetVersionRequest(header=header)
            for some in _bounded(items):
                yield service.CreateDatasetVersionRequest(batch=service.DatasetItemBatch(items=some))
            for start in range(0, max(len(removed), len(relabelled)), ITEMS_IN_BATCH):
                part = slice(start, start + ITEMS_IN_BATCH)
                changes = service.DatasetChangeBatch(removed_digests=removed[part], relabelled=relabelled[part])
                yield service.CreateDatasetVersionRequest(changes=changes)
            for pictures in _bounded(annotated):
                yield service.CreateDatasetVersionRequest(changes=service.DatasetChangeBatch(annotated=pictures))
            changes_sent = len(removed) + len(relabelled) + len(annotated)
            closing = service.DatasetVersionClosing(item_count=len(items), change_count=changes_sent)
            yield service.CreateDatasetVersionRequest(closing=closing)

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

    async def delete(self, name: str) -> service.DeleteDatasetResponse:
        """Delete a data set with its versions; until its expire_time it can be restored. Raises NotFound."""
        request = service.DeleteDatasetRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._datasets.call(lambda stub: stub.DeleteDataset, request)

    async def undelete(self, name: str) -> service.UndeleteDatasetResponse:
        """Restore a data set with the versions that were deleted with it. Raises NotFound, AlreadyExists."""
        request = service.UndeleteDatasetRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._datasets.call(lambda stub: stub.UndeleteDataset, request)

    async def delete_version(self, name: str) -> service.DeleteDatasetVersionResponse:
        """Delete a version and say which one is the newest now. Raises NotFound."""
        request = service.DeleteDatasetVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._datasets.call(lambda stub: stub.DeleteDatasetVersion, request)

    async def undelete_version(self, name: str) -> service.UndeleteDatasetVersionResponse:
        """Restore a version and say which one is the newest now.

        Raises NotFound once it is purged, AlreadyExists, FailedPrecondition while all of it is deleted.
        """
        request = service.UndeleteDatasetVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._datasets.call(lambda stub: stub.UndeleteDatasetVersion, request)

    async def deleted(self, project: str) -> AsyncGenerator[dataset_pb2.Dataset | dataset_pb2.DatasetVersion]:
        """Yield what is deleted in a project and can be restored: each whole, or the versions of one that is there."""
        request = service.ListDatasetsRequest(parent=project, show_deleted=True)
        pages = self._datasets.pages(lambda stub: stub.ListDatasets, request)
        async for one in flatten(pages, lambda page: page.datasets):
            if one.HasField("delete_time"):
                yield one
                continue
            of_it = service.ListDatasetVersionsRequest(parent=one.name, show_deleted=True)
            of_pages = self._datasets.pages(lambda stub: stub.ListDatasetVersions, of_it)
            async for version in flatten(of_pages, lambda page: page.dataset_versions):
                if version.HasField("delete_time"):
                    yield version

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
    """Keep the first of equal files with the same label and annotations; others are storage's to judge.

    An unlabelled file says nothing of an equal one that is labelled.
    """
    pictures = list(pictures)
    first: dict[tuple[object, ...], str] = {}
    labelled = {digest: picture.filename for picture, digest in pictures if not picture.unlabelled}
    kept, duplicates = [], []
    for picture, digest in pictures:
        if picture.unlabelled and digest in labelled:
            duplicates.append(Skipped(picture.filename, f"the same file as {labelled[digest]}, which is labelled"))
            continue
        said = digest, picture.label, picture.annotations, picture.nothing_there
        known = first.setdefault(said, picture.filename)
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
        dataset_pb2.DatasetItem(
            digest=digest,
            label=one.label,
            split=one.split,
            filename=one.filename,
            annotations=to_messages(one.annotations),
            nothing_there=one.nothing_there,
        )
        for one, digest in pictures
    ]


def _bounded(messages: Sequence[Sent]) -> Iterator[Sequence[Sent]]:
    """Divide messages into batches of bounded number and size."""
    start, size = 0, 0
    for place, each in enumerate(messages):
        added = each.ByteSize()
        if place > start and (place - start == ITEMS_IN_BATCH or size + added > BYTES_IN_BATCH):
            yield messages[start:place]
            start, size = place, 0
        size += added
    if start < len(messages):
        yield messages[start:]


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
