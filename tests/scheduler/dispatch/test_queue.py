"""The order of the queue: turns between projects, priority within one, and every job at last."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from services.scheduler.clusters.placement import Requirements
from services.scheduler.dispatch.queue import OLDEST_EVERY, JobQueue
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


def test_priority_comes_first_within_a_project() -> None:
    """A later job with a higher priority goes first."""
    low, high = make_job(), make_job(priority=10)
    assert drain(queue_of(low, high)) == [high.uid, low.uid]


def test_priority_gains_nothing_over_another_project() -> None:
    """A thousand jobs with priority 100: the one of a project that runs nothing is next, be it older or younger."""
    for project_of_one in ("before", "after"):
        older = make_job(project_of_one)
        many = [make_job("many", priority=100) for _ in range(1000)]
        younger = make_job(project_of_one)
        one = older if project_of_one == "before" else younger
        assert drain(queue_of(*many, one), Counter(many=50)).index(one.uid) == 0
        assert drain(queue_of(*many, one)).index(one.uid) <= 1


def test_the_project_with_fewer_running_jobs_goes_first() -> None:
    """A project at work waits for one that is not."""
    busy, idle = make_job("busy"), make_job("idle")
    assert drain(queue_of(busy, idle), Counter(busy=1)) == [idle.uid, busy.uid]


def test_one_job_does_not_wait_behind_anothers_hundred() -> None:
    """With nothing running, projects take turns."""
    many = [make_job("many") for _ in range(100)]
    one = make_job("one")
    assert drain(queue_of(*many, one)).index(one.uid) == 1


def test_every_job_has_its_turn_at_last() -> None:
    """Jobs keep coming that go before it, of its own project or of idle ones: the tenth turn is the oldest job's."""
    for flood in ({"project": "own", "priority": 100}, {"project": "idle"}):
        oldest = make_job("own")
        queue = queue_of(oldest)
        running = Counter(own=5)
        order: list[str] = []
        while oldest.uid in queue and len(order) < 100:
            for _ in range(3):
                queue.add(make_job(**flood).queue_entry)
            entry = queue.next(running)
            queue.discard(entry.uid)
            queue.served(entry.project)
            order.append(entry.uid)
        assert order.index(oldest.uid) == OLDEST_EVERY - 1


def test_who_waits_long_gains_no_more_than_every_tenth_turn() -> None:
    """A backlog of a year does not keep others away."""
    backlog = [make_job("many") for _ in range(500)]
    backlog = [replace(job, create_time=job.create_time - timedelta(days=365)) for job in backlog]
    others = [make_job(f"p{number}") for number in range(90)]
    order = drain(queue_of(*backlog, *others), Counter(many=100))
    assert max(order.index(job.uid) for job in others) < 90 * OLDEST_EVERY // (OLDEST_EVERY - 1) + 1


def test_a_tenth_turn_passes_over_what_is_blocked() -> None:
    """The oldest job needs a GPU that is not there: the next oldest has the turn, then the normal order goes on."""
    gpu = make_job("gpu", requirements=Requirements(gpu="required"))
    plain = [make_job("many", priority=number) for number in range(20)]
    queue = queue_of(gpu, *plain)
    for _ in range(OLDEST_EVERY - 1):
        queue.served("many")
    assert queue.next({}, {gpu.spec.requirements}).uid == plain[0].uid
    assert queue.next({}).uid == gpu.uid
    assert queue.next({}, {gpu.spec.requirements, Requirements()}) is None


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
