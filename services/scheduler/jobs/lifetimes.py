"""What is left of a job, and of its checkpoint, while it is taken away: each step may be the last for a while."""

from __future__ import annotations

THERE, PURGING, PURGED = 0, 1, 2
"""All of it; less and less; nothing, but for a job's name, which is not given again, and what was asked for by it."""
