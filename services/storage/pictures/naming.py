"""Naming pictures: what a version or a model names is there when it is written, and is not collected afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from loupe.limits import MAX_DIGESTS
from services.storage.database.session import Session
from services.storage.marks.store import MarkTable
from services.storage.pictures.store import PictureTable


async def keep_pictures(session: Session, project: str, digests: Sequence[str]) -> list[str]:
    """Take the collector's marks off pictures, and return those that the project does not have (any more).

    To be asked in the very transaction that names them: what was found before it may be gone.
    """
    missing: list[str] = []
    table, marks = PictureTable(session), MarkTable(session)
    for start in range(0, len(digests), MAX_DIGESTS):
        some = digests[start : start + MAX_DIGESTS]
        # The marks first: a collector that is at them has committed then, and what it took is seen to be missing.
        await marks.clear(project, some)
        there = await table.present(project, some)
        missing += [digest for digest in some if digest not in there]
    return missing
