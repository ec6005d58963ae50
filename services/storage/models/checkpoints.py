"""Checkpoints: from where a job can go on; one per job, replaced as a whole."""

from __future__ import annotations

from loupe.errors import PermissionDenied, StaleAttempt, not_found
from loupe.identity import AttemptGrant
from loupe.names import JobName, ProjectName
from services.storage.blobs.blob_references import check_files, hold_files
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import CHECKPOINT, BlobTable, Holder
from services.storage.database.session import Database
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
            old = [file.digest for file in decode_checkpoint(before).files] if before is not None else []
            dropped = await BlobTable(session).drop_unheld(job.project, str(job), old)
        await self._blobs.remove(job.project, dropped)

    async def get(self, job: JobName, grant: AttemptGrant | None) -> Checkpoint | None:
        """Return the job's last whole checkpoint, of any attempt; None when there is none. Raises StaleAttempt."""
        grant = _own(job, grant)
        async with self._database.read() as session:
            await find_project(session, ProjectName(job.project), job)
            await require_current(session, grant)
            document = await ModelTable(session).checkpoint(str(job))
        return decode_checkpoint(document) if document is not None else None


def _own(job: JobName, grant: AttemptGrant | None) -> AttemptGrant:
    if grant is None:
        raise PermissionDenied("checkpoints are for training attempts only")
    if grant.job != job:
        raise not_found(job)
    return grant
