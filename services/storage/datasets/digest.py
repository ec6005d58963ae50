"""The digest of a data set version: it tells two versions apart, and whether stored items are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from loupe.annotations import identity
from services.storage.datasets.store import ItemRow


class VersionDigest:
    """The sha256 over the lines "digest NUL label NUL split newline" of all items in their order.

    Of an annotated picture, also one in which nothing is to be seen, "NUL identity" stands before the newline, with
    what `loupe.annotations.identity` gives: versions without annotations have the digest that they always had.
    """

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def add(self, items: Iterable[ItemRow]) -> None:
        """Take in the items that come next."""
        self._total.update(
            "".join(
                [
                    f"{item.digest}\0{item.label}\0{item.split}\0{identity(item.annotations)}\n"
                    if item.annotations
                    else f"{item.digest}\0{item.label}\0{item.split}\n"
                    for item in items
                ]
            ).encode()
        )

    def hexdigest(self) -> str:
        """Return it in hex."""
        return self._total.hexdigest()


def version_digest(items: Iterable[ItemRow]) -> str:
    """Return the digest of a version that has these items."""
    total = VersionDigest()
    total.add(items)
    return total.hexdigest()
