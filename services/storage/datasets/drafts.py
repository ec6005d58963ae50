"""Versions before and after they are written: what is said of one in its document, and what it consists of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from loupe.names import AccountName, DatasetVersionName
from services.storage.datasets.counts import Counts
from services.storage.datasets.splits import Policy
from services.storage.datasets.store import Content
from services.storage.pictures.admission import Verdict


@dataclass(frozen=True)
class Draft:
    """A version that is worked out and not written yet.

    counts: what it has. policy: how new pictures were divided;
    given: the items came with their splits. base: the version that it is derived from, or empty; added, removed,
    relabelled and annotated are counted against that one. leaves_test: pictures that were in test are in another split.
    test_classes: see DatasetRow.classes_in_test.
    """

    content: Content
    digest: str
    counts: Counts
    byte_count: int
    near_duplicate_clusters: int
    policy: Policy
    given: bool
    left_out: Sequence[Verdict]
    warnings: Sequence[str]
    base: str = ""
    added: int = 0
    removed: int = 0
    relabelled: int = 0
    annotated: int = 0
    leaves_test: bool = False
    test_classes: Collection[str] = ()


@dataclass(frozen=True)
class NewVersion:
    """A draft that became a version."""

    name: DatasetVersionName
    uid: str
    draft: Draft
    creator: AccountName
    create_time: float


@dataclass(frozen=True)
class VersionFacts:
    """What a version's document says of it; see Draft.

    policy: how the pictures that come next are divided unless somebody says it: as this version's were, or by the
    proportions of a split that was given.
    """

    name: str
    counts: Counts
    byte_count: int
    near_duplicate_clusters: int
    policy: Policy
    given: bool
