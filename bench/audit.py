"""A change with its row in the audit log against the same change without one, on SQLite as services have it.

    python -m bench.audit [--pairs 400]

Both kinds take turns in one database: storage's own code makes a data set, in a transaction that waits for the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import median_ratio
from loupe import database
from loupe.audit import AuditedCall, begin_call
from loupe.audit_log import AuditLog, AuditQuery
from loupe.idempotency import RequestLog
from loupe.identity import Caller
from loupe.names import AccountName, ProjectName
from loupe.rpc.audited import summary_of
from loupe.storage.v1.dataset_service_pb2 import CreateDatasetRequest
from services.storage.database.session import Database
from services.storage.datasets.datasets import Datasets
from services.storage.projects.store import ProjectRow, ProjectTable

ANNA, LINE = AccountName("anna"), ProjectName("line-7")
MOST = 1.2
"""How much longer a change may take for its row."""


def begin(request: CreateDatasetRequest) -> None:
    """Begin a call as the interceptor does."""
    begin_call(
        AuditedCall(
            Caller(account=ANNA, login="l"),
            method="CreateDataset",
            action="datasets.write",
            resource=request.parent,
            peer="ipv4:127.0.0.1",
            request_id=request.request_id,
            summary=summary_of(request, "parent"),
        )
    )


async def create(datasets: Datasets, name: str, *, audited: bool) -> float:
    """Return the seconds that a data set takes; each is made in a context of its own, as a call is."""

    async def one() -> float:
        request = CreateDatasetRequest(parent=str(LINE), dataset_id=name, request_id=f"r-{name}")
        started = time.perf_counter()
        if audited:
            begin(request)
        await datasets.create(LINE, name, "", ANNA, request.request_id)
        return time.perf_counter() - started

    return await asyncio.create_task(one())


async def measure(state: Path, pairs: int) -> dict[str, object]:
    """Return the figures of so many pairs."""
    tables = Database(database.create_engine(database.sqlite_url(state, "storage")), RequestLog())
    await tables.migrate()
    async with tables.write() as session:
        await ProjectTable(session).add(ProjectRow(LINE.project, "0" * 32, "", str(ANNA), True, 0.0))
    datasets = Datasets(tables, time.time)
    with_row: list[float] = []
    without: list[float] = []
    for number in range(pairs + 20):
        for audited in (True, False) if number % 2 else (False, True):
            seconds = await create(datasets, f"{'a' if audited else 'b'}{number}", audited=audited)
            (with_row if audited else without).append(seconds)
    rows, _ = await AuditLog(tables, lambda session: session.connection).page(AuditQuery(LINE), 1000, "")
    assert len(rows) == min(1000, pairs + 20)
    await tables.close()
    with_row, without = with_row[20:], without[20:]
    return {
        "bench": "audit",
        "ratio": median_ratio(with_row, without),
        "of_medians": round(statistics.median(with_row) / statistics.median(without), 3),
        "milliseconds_with": round(statistics.median(with_row) * 1e3, 3),
        "milliseconds_without": round(statistics.median(without) * 1e3, 3),
        "at_most": MOST,
    }


def main() -> int:
    """Print the figures as JSON; return 1 where the ratio is above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as state:
        figures = asyncio.run(measure(Path(state), pairs))
    print(json.dumps(figures))
    return int(figures["ratio"] > MOST)  # type: ignore[operator]  # it is a float


if __name__ == "__main__":
    sys.exit(main())
