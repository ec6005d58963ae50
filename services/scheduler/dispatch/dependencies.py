"""What dispatching works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from services.scheduler.clients.auth import Tokens
from services.scheduler.clients.consul import Leadership
from services.scheduler.clients.storage import StorageClient
from services.scheduler.clients.trainers import Trainers
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.jobs.signals import Signals
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.transitions import Bounds


@dataclass(frozen=True)
class Dependencies:
    """What the dispatcher and its drivers work with.

    leadership: only who leads places jobs, or takes work away from a trainer that is silent. lease: seconds.
    monotonic in seconds, now in UTC.
    """

    store: JobStore
    signals: Signals
    fleet: Fleet
    leadership: Leadership
    trainers: Trainers
    storage: StorageClient
    tokens: Tokens
    lease: float
    bounds: Bounds
    monotonic: Callable[[], float]
    now: Callable[[], datetime]
