"""The digest of a data set version: it tells two versions apart, and whether stored items are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.storage.datasets.store import ItemRow


class VersionDigest:
    """The sha256 over the lines "digest NUL label NUL split newline" of all items in their order."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def add(self, items: Iterable[ItemRow]) -> None:
        """Take in the items that come next."""
        self._total.update("".join([f"{item.digest}\0{item.label}\0{item.split}\n" for item in items]).encode())

    def hexdigest(self) -> str:
        """Return it in hex."""
        return self._total.hexdigest()


def version_digest(items: Iterable[ItemRow]) -> str:
    """Return the digest of a version that has these items."""
    total = VersionDigest()
    total.add(items)
    return total.hexdigest()
