"""The order of the queue: priority, fairness between projects, age."""

from __future__ import annotations

from collections import Counter

from services.scheduler.clusters.placement import Requirements
from services.scheduler.dispatch.queue import JobQueue
from services.scheduler.jobs.job import Job
from tests.scheduler.samples import make_job


def queue_of(*jobs: Job) -> JobQueue:
    queue = JobQueue()
    for job in jobs:
        queue.add(job.queue_entry)
    return queue


def drain(queue: JobQueue, running: Counter[str] | None = None) -> list[str]:
    """Serve the whole queue, one job at work a project being counted for ever."""
    order: list[str] = []
    running = Counter() if running is None else running
    while entry := queue.next(running):
        queue.discard(entry.uid)
        queue.served(entry.project)
        order.append(entry.uid)
    return order


def test_age_decides_within_a_project() -> None:
    """First come, first served, whatever the order of adding."""
    first, second = make_job(), make_job()
    assert drain(queue_of(second, first)) == [first.uid, second.uid]


def test_priority_comes_before_everything() -> None:
    """A later job with a higher priority goes first."""
    low, high = make_job(), make_job(priority=10)
    assert drain(queue_of(low, high)) == [high.uid, low.uid]


def test_the_project_with_fewer_running_jobs_goes_first() -> None:
    """A project at work waits for one that is not."""
    busy, idle = make_job("busy"), make_job("idle")
    assert drain(queue_of(busy, idle), Counter(busy=1)) == [idle.uid, busy.uid]


def test_one_job_does_not_wait_behind_anothers_hundred() -> None:
    """With nothing running, projects take turns."""
    many = [make_job("many") for _ in range(100)]
    one = make_job("one")
    assert drain(queue_of(*many, one)).index(one.uid) == 1


def test_blocked_requirements_hold_up_nobody_else() -> None:
    """A job for a GPU that is not there lets the others pass, and comes back when it is."""
    gpu = make_job(priority=10, requirements=Requirements(gpu="required"))
    plain = make_job()
    queue = queue_of(gpu, plain)
    assert queue.next({}, {gpu.spec.requirements}).uid == plain.uid
    assert queue.next({}).uid == gpu.uid


def test_a_job_that_left_and_came_back_keeps_its_age() -> None:
    """A requeued job is first in its line again, once."""
    first, second = make_job(), make_job()
    queue = queue_of(first, second)
    queue.discard(first.uid)
    assert queue.next({}).uid == second.uid
    queue.add(first.queue_entry)
    assert drain(queue) == [first.uid, second.uid]


def test_heads_are_the_first_of_each_line() -> None:
    """Those whose waiting is told."""
    jobs = [make_job("a"), make_job("a"), make_job("b")]
    assert {entry.uid for entry in queue_of(*jobs).heads(Requirements())} == {jobs[0].uid, jobs[2].uid}
