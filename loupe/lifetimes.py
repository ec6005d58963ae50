"""What is left of a thing that is deleted, while it is taken away: each step may be the last for a while."""

from __future__ import annotations

THERE, PURGING, PURGED = 0, 1, 2
"""All of it, deleted or not; less and less; its name, which is not given again."""
