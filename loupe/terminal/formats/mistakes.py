"""What is wrong with a source, collected: each mistake with its place, so that all can be mended at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.annotations import BadAnnotation
from loupe.errors import BadDataset

SHOWN = 20


class Mistakes:
    """Collects mistakes; the first SHOWN are told, the others counted."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._lines: list[str] = []
        self._count = 0

    def add(self, where: str, what: str) -> None:
        """Note a mistake. where: file, line or id, and picture. what: what is wrong, and what would be right."""
        self._count += 1
        if len(self._lines) < SHOWN:
            self._lines.append(f"{where}: {what}"[:1000])

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Note what a block finds wrong, and go on behind it."""
        try:
            yield
        except BadAnnotation as error:
            self.add(where, str(error))

    def require_none(self) -> None:
        """Raise BadDataset that tells the mistakes, if there are any."""
        if not self._count:
            return
        more = [f"and {self._count - len(self._lines)} more"] if self._count > len(self._lines) else []
        lines = [*self._lines, *more]
        head = [] if self._count == 1 else [f"{self._source}: {self._count} mistakes"]
        raise BadDataset("\n  ".join([*head, *lines]), problem="annotations", count=self._count)
