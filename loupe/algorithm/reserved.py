"""The names of algorithms that ship with Loupe, now or later: nobody else publishes under them."""

from __future__ import annotations

from loupe.tasks import TASKS

INFERENCE = "inference"
"""The one that answers with models; those of every task."""

BUILT_IN_NAMES = frozenset({"scratch", INFERENCE, *(task.algorithm for task in TASKS.values())})
"""The algorithms that ship with this Loupe."""

RESERVED_PREFIX = "loupe-"
"""What the names of later ones may begin with."""


def is_reserved(algorithm: str) -> bool:
    """Say whether only the deployment publishes versions of this algorithm."""
    return algorithm in BUILT_IN_NAMES or algorithm.startswith(RESERVED_PREFIX)
