"""The jobs at work: which there are, and the slots that they take."""

from __future__ import annotations

from collections import Counter

from services.scheduler.clusters.fleet import Fleet
from services.scheduler.jobs.job import Job


class Work:
    """The jobs that trainers have; a job's slot counts as taken before its trainer reports it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._jobs: dict[str, Job] = {}

    def uids(self) -> set[str]:
        """Return the jobs at work."""
        return set(self._jobs)

    def running(self) -> Counter[str]:
        """Return how many jobs are at work, by project."""
        return Counter(job.name.project for job in self._jobs.values())

    def begin(self, job: Job) -> None:
        """Take a job in, in the place of its older attempt."""
        self.end(job.uid)
        self._jobs[job.uid] = job
        if job.trainer is not None:
            self._fleet.give(job.trainer, (str(job.name), job.attempt))

    def end(self, uid: str, attempt: int | None = None) -> None:
        """Let a job go, if it is at work in this attempt; None: in any."""
        job = self._jobs.get(uid)
        if job is None or attempt not in (None, job.attempt):
            return
        del self._jobs[uid]
        if job.trainer is not None:
            self._fleet.take_back(job.trainer, (str(job.name), job.attempt))
