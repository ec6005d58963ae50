"""What one version has otherwise than another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from loupe.errors import invalid
from loupe.names import DatasetVersionName
from services.storage.database.session import Database
from services.storage.datasets.datasets import find_version
from services.storage.datasets.store import (
    ADDED,
    ANNOTATED,
    MOVED,
    RELABELLED,
    REMOVED,
    DatasetTable,
    Difference,
    DiffSummary,
)

_AT_ONCE = 10_000


class Differences:
    """Compares versions of a project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def summarise(self, base: DatasetVersionName, name: DatasetVersionName) -> DiffSummary:
        """Count what differs. Raises NotFound, and InvalidArgument for versions of two projects."""
        if base.project != name.project:
            raise invalid("base", str(base), f"a version of projects/{name.project}")
        async with self._database.read() as session:
            old, new = await find_version(session, base), await find_version(session, name)
            counts = await DatasetTable(session).difference_counts(old.uid, new.uid)
        return DiffSummary(old.name, new.name, counts)

    async def read(self, summary: DiffSummary, most: int) -> AsyncIterator[Sequence[Difference]]:
        """Yield what differs, kind by kind and by digest; at most so many of each kind, 0 for all."""
        for kind in (ADDED, REMOVED, RELABELLED, MOVED, ANNOTATED):
            left = min(most, summary.counts[kind]) if most else summary.counts[kind]
            after = ""
            while left:
                async with self._database.read() as session:
                    old, new = await find_version(session, summary.base), await find_version(session, summary.name)
                    table = DatasetTable(session)
                    found = await table.differences(kind, old.uid, new.uid, after, min(left, _AT_ONCE))
                if not found:
                    break
                yield found
                left -= len(found)
                after = found[-1].digest
