"""Checkpoints: from where a job can go on; one per job, replaced as a whole."""

from __future__ import annotations

from loupe.errors import FailedPrecondition, PermissionDenied, StaleAttempt, not_found
from loupe.identity import AttemptGrant
from loupe.names import JobName, ProjectName
from services.storage.blobs.blob_references import check_files, hold_files
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import CHECKPOINT, BlobTable, Holder
from services.storage.database.session import Database, Session
from services.storage.models.messages import decode_checkpoint, encode_checkpoint
from services.storage.models.store import Checkpoint, ModelTable
from services.storage.projects.projects import find_project


class Checkpoints:
    """Keeps each job's last whole checkpoint, and removes the blobs of the one before."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def save(self, checkpoint: Checkpoint, grant: AttemptGrant | None) -> None:
        """Put a checkpoint in place of the job's last one, durable when it returns.

        Raises StaleAttempt unless it is written by the very attempt that it names and no newer one was begun.
        """
        job = checkpoint.job
        grant = _own(job, grant)
        if checkpoint.attempt != grant.attempt:
            raise StaleAttempt(
                f"attempt {grant.attempt} writes a checkpoint of attempt {checkpoint.attempt}",
                job=job,
                attempt=checkpoint.attempt,
                current=grant.attempt,
            )
        check_files(checkpoint.files)
        async with self._database.write() as session:
            await find_project(session, ProjectName(job.project), job)
            await require_current(session, grant)
            table = ModelTable(session)
            before = await table.checkpoint(str(job))
            await hold_files(session, Holder(job.project, CHECKPOINT, str(job)), checkpoint.files)
            await table.set_checkpoint(str(job), encode_checkpoint(checkpoint))
            dropped = await _drop_files(session, before)
        await self._blobs.remove(job.project, dropped)

    async def get(self, job: JobName, grant: AttemptGrant | None, *, of_any: bool = False) -> Checkpoint | None:
        """Return the job's last whole checkpoint, of any attempt; None when there is none. Raises StaleAttempt.

        of_any: whether the caller may read that of any job, without being an attempt of it.
        """
        if not of_any:
            grant = _own(job, grant)
        async with self._database.read() as session:
            await find_project(session, ProjectName(job.project), job)
            await require_current(session, grant)
            document = await ModelTable(session).checkpoint(str(job))
        return decode_checkpoint(document) if document is not None else None

    async def copy(self, job: JobName, source: JobName) -> None:
        """Have a job begin with the last checkpoint of another one, durable when it returns; one that it has stays.

        Raises NotFound for a source of another project, FailedPrecondition for one without a checkpoint.
        """
        if source.project != job.project:
            # The very words for what does not exist: nobody learns from this what other projects have.
            raise not_found(source)
        async with self._database.write() as session:
            await find_project(session, ProjectName(job.project), job)
            table = ModelTable(session)
            if await table.checkpoint(str(job)) is not None:
                return
            document = await table.checkpoint(str(source))
            if document is None:
                raise FailedPrecondition(f"{source} has no checkpoint", resource=source, state="NO_CHECKPOINT")
            holder = Holder(job.project, CHECKPOINT, str(job))
            await hold_files(session, holder, decode_checkpoint(document).files)
            await table.set_checkpoint(str(job), document)

    async def remove(self, job: JobName) -> None:
        """Remove a job's last checkpoint, and those of its blobs that nothing else has; without one, do nothing.

        Also where its project is deleted: nobody goes on from it once the job is over for long enough.
        """
        async with self._database.write() as session:
            table = ModelTable(session)
            before = await table.checkpoint(str(job))
            await hold_files(session, Holder(job.project, CHECKPOINT, str(job)), [])
            await table.remove_checkpoint(str(job))
            dropped = await _drop_files(session, before)
        await self._blobs.remove(job.project, dropped)


async def _drop_files(session: Session, document: bytes | None) -> list[str]:
    """Let the files of a checkpoint go that nothing holds any more, and return their digests.

    Those of a job that was resumed belong to that job, whoever lets them go last.
    """
    if document is None:
        return []
    before = decode_checkpoint(document)
    digests = [file.digest for file in before.files]
    return await BlobTable(session).drop_unheld(before.job.project, str(before.job), digests)


def _own(job: JobName, grant: AttemptGrant | None) -> AttemptGrant:
    if grant is None:
        raise PermissionDenied("checkpoints are for training attempts only")
    if grant.job != job:
        raise not_found(job)
    return grant
