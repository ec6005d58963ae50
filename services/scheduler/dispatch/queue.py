"""The order in which jobs are placed: projects take turns, priority orders the jobs of one project."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TypeVar

from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs.job import QueueEntry

OLDEST_EVERY = 10
"""Of so many turns one goes to the job that has waited longest."""

_Age = tuple[datetime, str]
_Place = tuple[int, datetime, str]
R = TypeVar("R", _Age, _Place)


class JobQueue:
    """Holds the waiting jobs. Whose turn it is follows three rules:

    1. Between projects: the one with the fewest jobs at work, then the one that was served longest ago. However many
       jobs a project hands in, and with whatever priority, another one's first job waits for a single turn.
    2. Within a project: the highest priority, then the oldest.
    3. Every tenth turn goes to the job that has waited longest of all, whatever its project and priority. So each job
       has its turn at last, and nobody gains more by it than that tenth.

    A job for which there is no trainer now (its requirements are blocked) is passed over and keeps its place.

    next() costs about the number of projects, not the number of jobs.
    """

    def __init__(self) -> None:
        self._entries: dict[str, QueueEntry] = {}
        self._lines: dict[str, dict[Requirements, list[_Place]]] = {}
        self._ages: dict[Requirements, list[_Age]] = {}
        self._served: dict[str, int] = {}
        self._turns = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, uid: str) -> bool:
        return uid in self._entries

    def add(self, entry: QueueEntry) -> None:
        """Put a job into the queue; one that is in it stays where it is."""
        if entry.uid not in self._entries:
            self._entries[entry.uid] = entry
            line = self._lines.setdefault(entry.project, {}).setdefault(entry.requirements, [])
            heapq.heappush(line, (-entry.priority, entry.create_time, entry.uid))
            heapq.heappush(self._ages.setdefault(entry.requirements, []), (entry.create_time, entry.uid))

    def discard(self, uid: str) -> None:
        """Take a job out, whether or not it is in."""
        self._entries.pop(uid, None)

    def served(self, project: str) -> None:
        """Note that a job of the project was placed."""
        self._turns += 1
        self._served[project] = self._turns

    def uids(self) -> Collection[str]:
        """Return the jobs that wait."""
        return self._entries.keys()

    def next(self, running: Mapping[str, int], blocked: Collection[Requirements] = ()) -> QueueEntry | None:
        """Return the job whose turn it is, of those whose requirements are not blocked. It stays in the queue.

        running: jobs at work by project.
        """
        if self._turns % OLDEST_EVERY == OLDEST_EVERY - 1:
            age = self._first(self._ages, blocked)
            return self._entries[age[-1]] if age is not None else None
        best: tuple[tuple[int, int], _Age] | None = None
        for project in list(self._lines):
            turn = (running.get(project, 0), self._served.get(project, 0))
            if best is not None and turn > best[0]:
                continue
            place = self._place(project, blocked)
            if place is not None and (best is None or (turn, place[1:]) < best):
                best = (turn, place[1:])
        return self._entries[best[1][-1]] if best is not None else None

    def heads(self, requirements: Requirements) -> list[QueueEntry]:
        """Return the first job of each project with these requirements: those whose waiting is worth telling."""
        others = {kind for lines in self._lines.values() for kind in lines}
        others.discard(requirements)
        found = [self._place(project, others) for project in list(self._lines)]
        return [self._entries[place[-1]] for place in found if place is not None]

    def _place(self, project: str, blocked: Collection[Requirements]) -> _Place | None:
        """Return a project's first job that is not blocked."""
        place = self._first(self._lines[project], blocked)
        if not self._lines[project]:
            del self._lines[project]
        return place

    def _first(self, heaps: dict[Requirements, list[R]], blocked: Collection[Requirements]) -> R | None:
        """Return the least of the heaps that are not blocked, and clear away what has left the queue."""
        first: R | None = None
        for requirements, heap in list(heaps.items()):
            while heap and heap[0][-1] not in self._entries:
                heapq.heappop(heap)
            if not heap:
                del heaps[requirements]
            elif not (blocked and requirements in blocked) and (first is None or heap[0] < first):
                first = heap[0]
        return first
