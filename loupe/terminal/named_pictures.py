"""Finding the pictures of a version that a person names: by digest, by the file's name there, or by a file here."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from loupe.errors import BadDataset, InvalidArgument
from loupe.names import DatasetVersionName
from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.datasets import Datasets
from loupe.terminal.hashing import sha256_of, unreadable

SHORTEST_DIGEST = 8
SHOWN = 10
_DIGEST = re.compile(rf"[0-9a-f]{{{SHORTEST_DIGEST},64}}")


async def find_pictures(datasets: Datasets, version: DatasetVersionName, names: Sequence[str]) -> list[str]:
    """Return the digests of the pictures that are named, each once.

    A name is a digest or its first 8 digits or more, what the file is called in the version, or the path of a file on
    this machine. Raises BadDataset that lists the names that no picture has, or several have.
    """
    local = await asyncio.to_thread(_local_digests, names)
    if all(len(name) == 64 and _DIGEST.fullmatch(name) and name not in local for name in names):
        return list(dict.fromkeys(names))
    items = [item async for item in datasets.items(str(version))]
    return match_pictures(items, str(version), names, local)


def match_pictures(
    items: Iterable[DatasetItem], version: str, names: Sequence[str], local: Mapping[str, str]
) -> list[str]:
    """Return the digests of the named ones among a version's items; local: the digests of files on this machine."""
    by_name: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        by_name[item.filename].add(item.digest)
    there = set().union(*by_name.values()) if by_name else set()
    found: list[str] = []
    wrong: list[str] = []
    for name in names:
        digests = by_name.get(name, set()) | ({local[name]} & there if name in local else set())
        if _DIGEST.fullmatch(name):
            digests |= {digest for digest in there if digest.startswith(name)}
        if len(digests) == 1:
            found += digests
        elif digests:
            wrong.append(f"{name} is {len(digests)} pictures: {', '.join(sorted(digests)[:SHOWN])}; name the digest")
        else:
            wrong.append(
                f"{name} is neither a digest of {version} (8 digits or more), nor a file's name there, nor a file here"
                " whose picture it has"
            )
    if wrong:
        raise _not_found(wrong)
    return list(dict.fromkeys(found))


def _not_found(wrong: Sequence[str]) -> InvalidArgument:
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    lines = [*wrong[:SHOWN], *more]
    text = lines[0] if len(wrong) == 1 else "\n  ".join([f"{len(wrong)} pictures cannot be told:", *lines])
    return BadDataset(text, problem="picture_name", count=len(wrong))


def _local_digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests of those names that are files on this machine. Raises InvalidArgument."""
    found = {}
    for name in names:
        path = Path(name)
        try:
            if path.is_file():
                found[name] = sha256_of(path)
        except OSError as error:
            raise unreadable(path, error) from error
    return found
