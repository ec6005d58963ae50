"""Placement: milliseconds a decision takes with 1,000 trainers and 10,000 waiting jobs.

    python -m bench.placement [--trainers 1000] [--jobs 10000] [--decisions 400]

The CPU time beside the wall time tells a slow decision from a busy machine. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bench.figures import percentile
from loupe.load import RunningAttempt, TrainerLoad, key_of
from loupe.names import TrainerName
from loupe.notifier import Notifier
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.placement import Requirements, rank_clusters
from services.scheduler.dispatch.queue import JobQueue
from services.scheduler.jobs.job import QueueEntry

TARGET_MS = 20.0
_START = datetime(2026, 1, 1, tzinfo=UTC)


def make_fleet(trainers: int, per_cluster: int, rng: random.Random) -> tuple[Fleet, dict[TrainerName, TrainerLoad]]:
    """Return a fleet of idle trainers with two slots each, and their reports."""
    names = [TrainerName(f"c{index // per_cluster}", f"t{index}") for index in range(trainers)]
    loads = {
        name: TrainerLoad(
            name=str(name),
            incarnation="benchmark",
            beat=1,
            at_ms=0,
            cpu_use=rng.uniform(0, 0.6),
            memory_used=1 << 30,
            memory_total=8 << 30,
            slots=2,
            busy_slots=0,
            warm_slots=rng.randint(0, 2),
            sandboxed=rng.random() < 0.9,
        )
        for name in names
    }
    fleet = Fleet(time.monotonic, 3600.0, Notifier())
    for name in names:
        fleet.locate(name, "h:1")
    fleet.observe({key_of(name): load.to_json() for name, load in loads.items()})
    return fleet, loads


def make_queue(jobs: int, rng: random.Random) -> JobQueue:
    """Return a queue of jobs of 100 projects, 3 priorities and 6 kinds of requirements."""
    kinds = [Requirements(built_in, memory) for built_in in (True, False) for memory in (0, 1, 2)]
    queue = JobQueue()
    for number in range(jobs):
        age = timedelta(seconds=rng.random() * 3600)
        project = f"p{rng.randrange(100)}"
        queue.add(QueueEntry(f"{number:08d}", project, rng.choice([0, 10, 50]), _START + age, rng.choice(kinds)))
    return queue


def measure(trainers: int, jobs: int, decisions: int, seed: int = 0) -> list[tuple[float, float]]:
    """Return the wall and CPU seconds of each decision; all trainers report before every 20th."""
    rng = random.Random(seed)
    fleet, loads = make_fleet(trainers, 20, rng)
    queue = make_queue(jobs, rng)
    running: Counter[str] = Counter()
    given: dict[TrainerName, set[tuple[str, int]]] = {}
    seconds = []
    for number in range(decisions):
        if number % 20 == 0:
            _report(fleet, loads, given)
        begun = (time.perf_counter(), time.process_time())
        entry = queue.next(running)
        assert entry is not None, "there are more jobs than decisions"
        placement = rank_clusters(entry.requirements, fleet.clusters(), 0.8)
        seconds.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        queue.discard(entry.uid)
        queue.served(entry.project)
        running[entry.project] += 1
        if placement.trainer is not None:
            attempt = (f"projects/{entry.project}/jobs/j{entry.uid}", 1)
            given.setdefault(placement.trainer, set()).add(attempt)
            fleet.give(placement.trainer, attempt)
    return seconds


def _report(
    fleet: Fleet, loads: dict[TrainerName, TrainerLoad], given: dict[TrainerName, set[tuple[str, int]]]
) -> None:
    for name, load in loads.items():
        attempts = tuple(RunningAttempt(*each) for each in given.get(name, ()))
        busy = min(len(attempts), load.slots)
        loads[name] = replace(load, beat=load.beat + 1, busy_slots=busy, attempts=attempts)
    fleet.observe({key_of(name): load.to_json() for name, load in loads.items()})


def main() -> None:
    """Print one JSON object; exit with 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=400)
    options = parser.parse_args()
    decisions = measure(options.trainers, options.jobs, options.decisions)
    wall, cpu = ([1e3 * each[kind] for each in decisions] for kind in (0, 1))
    figures = {
        "trainers": options.trainers,
        "queued_jobs": options.jobs,
        "decision_ms_p50": round(percentile(wall, 0.5), 3),
        "decision_ms_p99": round(percentile(wall, 0.99), 3),
        "decision_cpu_ms_p99": round(percentile(cpu, 0.99), 3),
        "target_ms": TARGET_MS,
    }
    print(json.dumps(figures))
    raise SystemExit(max(figures["decision_ms_p50"], figures["decision_cpu_ms_p99"]) > TARGET_MS)


if __name__ == "__main__":
    main()
