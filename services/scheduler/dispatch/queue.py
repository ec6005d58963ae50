"""The order in which jobs are placed: priority, then the project with the fewest running jobs, then age."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from datetime import datetime

from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs.job import QueueEntry

_Heap = list[tuple[datetime, str]]


class JobQueue:
    """Holds the waiting jobs in lines of one priority, project and requirements, each ordered by age.

    next() costs about the number of projects, not the number of jobs.

    Between projects the one with fewer running jobs goes first, then the one that was served longest ago, so that a
    project with one job does not wait behind another one's hundred.
    """

    def __init__(self) -> None:
        self._entries: dict[str, QueueEntry] = {}
        self._lines: dict[int, dict[str, dict[Requirements, _Heap]]] = {}
        self._served: dict[str, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, uid: str) -> bool:
        return uid in self._entries

    def add(self, entry: QueueEntry) -> None:
        """Put a job into the queue; one that is in it stays where it is."""
        if entry.uid not in self._entries:
            self._entries[entry.uid] = entry
            project = self._lines.setdefault(entry.priority, {}).setdefault(entry.project, {})
            heapq.heappush(project.setdefault(entry.requirements, []), (entry.create_time, entry.uid))

    def discard(self, uid: str) -> None:
        """Take a job out, whether or not it is in."""
        self._entries.pop(uid, None)

    def served(self, project: str) -> None:
        """Note that a job of the project was placed."""
        self._clock += 1
        self._served[project] = self._clock

    def uids(self) -> Collection[str]:
        """Return the jobs that wait."""
        return self._entries.keys()

    def next(self, running: Mapping[str, int], blocked: Collection[Requirements] = ()) -> QueueEntry | None:
        """Return the job whose turn it is, of those whose requirements are not blocked. It stays in the queue.

        running: jobs at work by project.
        """
        for priority in sorted(self._lines, reverse=True):
            best: tuple[tuple[int, int], tuple[datetime, str]] | None = None
            for project in list(self._lines[priority]):
                turn = (running.get(project, 0), self._served.get(project, 0))
                if best is not None and turn > best[0]:
                    continue
                head = self._oldest(priority, project, blocked)
                if head is not None and (best is None or (turn, head) < best):
                    best = (turn, head)
            if best is not None:
                return self._entries[best[1][1]]
        return None

    def heads(self, requirements: Requirements) -> list[QueueEntry]:
        """Return the first job of each line with these requirements: those whose waiting is worth telling."""
        others = {kind for projects in self._lines.values() for lines in projects.values() for kind in lines}
        others.discard(requirements)
        found = [
            self._oldest(priority, project, others)
            for priority, projects in list(self._lines.items())
            for project in list(projects)
        ]
        return [self._entries[head[1]] for head in found if head is not None]

    def _oldest(self, priority: int, project: str, blocked: Collection[Requirements]) -> tuple[datetime, str] | None:
        """Return a project's oldest job that is not blocked, and clear away what has left the queue."""
        lines = self._lines[priority][project]
        oldest: tuple[datetime, str] | None = None
        for requirements, heap in list(lines.items()):
            while heap and heap[0][1] not in self._entries:
                heapq.heappop(heap)
            if not heap:
                del lines[requirements]
            elif not (blocked and requirements in blocked) and (oldest is None or heap[0] < oldest):
                oldest = heap[0]
        if not lines:
            del self._lines[priority][project]
            if not self._lines[priority]:
                del self._lines[priority]
        return oldest
