"""The order in which jobs are placed: priority, then the project with the fewest running jobs, then age."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.scheduler.placement import Requirements


@dataclass(frozen=True)
class Entry:
    """Entry is a waiting job, as far as its place in the queue goes."""

    uid: str
    project: str
    priority: int
    create_time: datetime
    requirements: Requirements


@dataclass(frozen=True)
class _Lane:
    """_Lane holds jobs between which only age decides."""

    priority: int
    project: str
    requirements: Requirements


class JobQueue:
    """JobQueue holds the waiting jobs; next() costs the number of lanes, not the number of jobs.

    Between projects the one with fewer running jobs goes first, then the one that was served longest ago, so that a
    project with one job does not wait behind another one's hundred.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lanes: dict[_Lane, list[tuple[datetime, str]]] = {}
        self._served: dict[str, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, uid: str) -> bool:
        return uid in self._entries

    def add(self, entry: Entry) -> None:
        """add puts a job into the queue; one that is in it stays where it is."""
        if entry.uid not in self._entries:
            self._entries[entry.uid] = entry
            lane = _Lane(entry.priority, entry.project, entry.requirements)
            heapq.heappush(self._lanes.setdefault(lane, []), (entry.create_time, entry.uid))

    def discard(self, uid: str) -> None:
        """discard takes a job out, whether or not it is in."""
        self._entries.pop(uid, None)

    def served(self, project: str) -> None:
        """served notes that a job of the project was placed."""
        self._clock += 1
        self._served[project] = self._clock

    def uids(self) -> Collection[str]:
        """uids are the jobs that wait."""
        return self._entries.keys()

    def next(self, running: Mapping[str, int], blocked: Collection[Requirements] = ()) -> Entry | None:
        """next returns the job whose turn it is, of those whose requirements are not blocked. It stays in the queue.

        running: jobs at work by project.
        """
        best: tuple[tuple[int, int, int, datetime, str], str] | None = None
        for lane in list(self._lanes):
            head = self._head(lane)
            if head is None or lane.requirements in blocked:
                continue
            key = (-lane.priority, running.get(lane.project, 0), self._served.get(lane.project, 0), *head)
            if best is None or key < best[0]:
                best = (key, head[1])
        return self._entries[best[1]] if best else None

    def heads(self, requirements: Requirements) -> list[Entry]:
        """heads returns the first job of each lane with these requirements: those whose waiting is worth telling."""
        lanes = [lane for lane in list(self._lanes) if lane.requirements == requirements]
        return [self._entries[head[1]] for lane in lanes if (head := self._head(lane))]

    def _head(self, lane: _Lane) -> tuple[datetime, str] | None:
        heap = self._lanes[lane]
        while heap and heap[0][1] not in self._entries:
            heapq.heappop(heap)
        if not heap:
            del self._lanes[lane]
            return None
        return heap[0]
