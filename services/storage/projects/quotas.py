"""Quotas: what a project holds, what it may hold, and how much of what comes still fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loupe.errors import QuotaExceeded
from loupe.names import ProjectName


@dataclass(frozen=True)
class Quota:
    """The most that a project may hold: pictures, and bytes of pictures and other blobs together; 0: no limit."""

    pictures: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Usage:
    """What a project holds, each picture and each other blob once; sizes in bytes."""

    pictures: int = 0
    picture_bytes: int = 0
    blobs: int = 0
    blob_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes that count."""
        return self.picture_bytes + self.blob_bytes


@dataclass(frozen=True)
class Parts:
    """What the other rooms know of a project. held: by kind of holder, how many blobs and bytes are part of it.

    deleted_…: how many of the versions are deleted. unnamed: how many pictures no version names, and their bytes.
    dead_bytes: what removed pictures still take in packs.
    """

    held: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    dataset_versions: int = 0
    model_versions: int = 0
    deleted_dataset_versions: int = 0
    deleted_model_versions: int = 0
    unnamed: tuple[int, int] = (0, 0)
    dead_bytes: int = 0


@dataclass(frozen=True)
class Room:
    """What a project holds beside what it may hold."""

    project: str
    usage: Usage
    quota: Quota

    @property
    def limited(self) -> bool:
        """Whether there is any quota."""
        return bool(self.quota.pictures or self.quota.bytes)

    def fitting(self, sizes: Sequence[int | None]) -> tuple[int, QuotaExceeded | None]:
        """Return how many of the pictures fit, taken in order, and why the next one does not; None: all fit.

        sizes: bytes of each; None for one that the project has already, which takes no room.
        """
        count, size = self.usage.pictures, self.usage.bytes
        for number, each in enumerate(sizes):
            if each is None:
                continue
            if self.quota.pictures and count >= self.quota.pictures:
                return number, self._full("pictures", count, self.quota.pictures, str(count))
            if self.quota.bytes and size + each > self.quota.bytes:
                return number, self._full_of_bytes(size, each)
            count, size = count + 1, size + each
        return len(sizes), None

    def require(self, size: int) -> None:
        """Raise QuotaExceeded where a blob of so many bytes does not fit."""
        if self.quota.bytes and self.usage.bytes + size > self.quota.bytes:
            raise self._full_of_bytes(self.usage.bytes, size)

    def _full_of_bytes(self, used: int, size: int) -> QuotaExceeded:
        return self._full("bytes", used, self.quota.bytes, f"{used}, and the next {size} do not fit")

    def _full(self, quota: str, used: int, limit: int, said: str) -> QuotaExceeded:
        name = ProjectName(self.project)
        return QuotaExceeded(
            f"{name} is full: it may hold {limit} {quota} and holds {said}; an administrator of the mesh can raise it",
            project=name,
            quota=quota,
            used=used,
            limit=limit,
        )
