"""A storage process that dies while it changes a data set: `python -m tests.storage.datasets.mortal_change`.

It reads lines "change nth state" and forks a process for each, which makes the change and is killed before its nth
step: a statement that writes, the beginning of a commit, or its end. 0 lets it live.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from loupe.annotations import Provenance, box, write
from loupe.audit import AuditedCall, begin_call
from loupe.identity import Caller
from loupe.names import AccountName, DatasetName, DatasetVersionName
from services.storage.app import Storage
from services.storage.datasets.orders import ChangePart, Part, VersionClosing, VersionOrder
from services.storage.datasets.splits import BY_CLASS, Policy
from services.storage.datasets.store import ItemRow
from services.storage.datasets.versions import DatasetVersions
from tests.storage.house import MadeUpAuth
from tests.storage.mortal import NoDecoders, fork_for_each_line, settings_of
from tests.storage.photographs import jpeg, sha256

ANNA, LETTERS = AccountName("anna"), DatasetName("line-7", "letters")
PICTURES = [jpeg(seed) for seed in range(14)]
DIGESTS = [sha256(data) for data in PICTURES]
THERE = 10
_WRITES = ("INSERT", "UPDATE", "DELETE")


def item(number: int, label: str = "") -> ItemRow:
    """item is a picture by its number, of one of three classes."""
    return ItemRow(DIGESTS[number], label or "abc"[number % 3], 0, f"{number}.jpg", 0)


def boxed(label: str) -> str:
    """boxed is what a picture is annotated with."""
    return write([box(label, (0.1, 0.1, 0.5, 0.5), Provenance(str(ANNA)))])


@dataclass(frozen=True)
class Change:
    """A change of a data set: which header it has, and what is sent."""

    items: list[ItemRow] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    relabelled: list[tuple[str, str]] = field(default_factory=list)
    annotated: list[tuple[str, str]] = field(default_factory=list)
    header: Mapping[str, Any] = field(default_factory=dict)
    derived: bool = True

    def order(self) -> VersionOrder:
        """order is what storage is asked for."""
        said = {
            "policy": None,
            "strict": False,
            "force": True,
            "resplit": False,
            "request_id": "change",
            "creator": ANNA,
        }
        base = DatasetVersionName(LETTERS.project, LETTERS.dataset, "1") if self.derived else None
        return VersionOrder(LETTERS, base, **{**said, **self.header})

    async def parts(self) -> AsyncIterator[Part]:
        """parts is what a stream brings."""
        yield self.items
        changes = ChangePart(self.removed, self.relabelled, self.annotated)
        if self.derived:
            yield changes
        count = len(self.removed) + len(self.relabelled) + len(self.annotated)
        yield VersionClosing(len(self.items), count)


EVERYTHING = [item(number) for number in range(THERE)]
CHANGES = {
    "push": Change(items=[item(number) for number in range(2, 14)], derived=False),
    "add": Change(items=[item(number) for number in range(THERE, 14)]),
    "remove": Change(removed=DIGESTS[:4]),
    "relabel": Change(relabelled=[(digest, "c") for digest in DIGESTS[:4]]),
    "annotate": Change(annotated=[(digest, boxed("dent")) for digest in DIGESTS[:4]]),
    "resplit": Change(items=EVERYTHING, derived=False, header={"policy": Policy(seed=3), "resplit": True}),
    "by class": Change(items=EVERYTHING, derived=False, header={"policy": Policy(unit=BY_CLASS), "resplit": True}),
}
FIRST = Change(items=EVERYTHING, derived=False, header={"request_id": "first"})


async def make(storage: Storage, versions: DatasetVersions, change: Change) -> bytes:
    """make carries out a change as a call that leaves a row in the audit log, and returns the version's document."""
    order = change.order()
    begin_call(
        AuditedCall(
            Caller(account=ANNA),
            method="CreateDatasetVersion",
            action="datasets.write",
            resource=str(LETTERS),
            request_id=order.request_id,
        )
    )
    return (await versions.create(order, change.parts())).document


def die_before(nth: int) -> Callable[[], None]:
    """die_before counts steps and kills this very process before one of them."""
    seen = 0

    def step() -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def watch(step: Callable[[], None]) -> None:
    """watch counts what the database driver is told to write: the steps after which a death may find it."""
    originals = DefaultDialect.do_execute, DefaultDialect.do_executemany, DefaultDialect.do_commit
    execute, many, commit = originals

    def writing(original: Callable[..., None]) -> Callable[..., None]:
        def run(dialect: DefaultDialect, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.lstrip().startswith(_WRITES):
                step()
            original(dialect, cursor, statement, *rest)

        return run

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        step()
        commit(dialect, connection)
        step()

    DefaultDialect.do_execute = writing(execute)  # type: ignore[method-assign]
    DefaultDialect.do_executemany = writing(many)  # type: ignore[method-assign]
    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]


async def live(line: str) -> None:
    """live makes the change of a line, or dies on the way."""
    change, nth, state = line.rsplit(maxsplit=2)
    storage = Storage(settings_of(Path(state)), MadeUpAuth(), decoders=NoDecoders())
    await storage.start()
    watch(die_before(int(nth)))
    await make(storage, storage._versions, CHANGES[change])
    await storage.stop()


if __name__ == "__main__":
    fork_for_each_line(live)
