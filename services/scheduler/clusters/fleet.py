"""The fleet as Consul tells it: which trainers report, how loaded they are, and where they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

import structlog

from loupe.discovery import Discovery
from loupe.load import PREFIX, BadLoad, TrainerLoad, catalogue_name_of, key_of
from loupe.names import ClusterName, TrainerName
from loupe.notifier import Notifier
from loupe.timestamps import datetime_of_micros
from services.scheduler.clusters.placement import ClusterState, TrainerState

log = structlog.get_logger(__name__)

_LOCATE_SECONDS = 2.0
_UNKNOWN_SECONDS = 0.2
_LOCATED_AT_ONCE = 32

Attempt = tuple[str, int]
"""An attempt: the job's name and the number."""


@dataclass(frozen=True)
class _Report:
    """A trainer's newest report as it stood in Consul, and when it came, on the monotonic clock here."""

    value: bytes
    load: TrainerLoad
    attempts: AbstractSet[Attempt]
    received: float


@dataclass(frozen=True)
class _Known:
    """A cluster's state as it was worked out last; after `until` one of its trainers is another."""

    state: ClusterState
    until: float


@dataclass(frozen=True)
class _Place:
    """Where a trainer is reached, empty where it is not known; which run of it was asked for, and when."""

    address: str
    incarnation: str
    asked: float


@dataclass(frozen=True)
class _Avoidance:
    until: float
    why: str


class Fleet:
    """The trainers that report, under the rule that nothing is believed that is old, malformed or foreign.

    monotonic: seconds that only go up; max_age: seconds after which a report no longer counts. Ages are measured
    from receipt, so that no trainer's clock matters. changed: told whenever a report or an address is new.
    """

    def __init__(self, monotonic: Callable[[], float], max_age: float, changed: Notifier) -> None:
        self._monotonic = monotonic
        self._max_age = max_age
        self._changed = changed
        self._reports: dict[TrainerName, _Report] = {}
        self._members: dict[str, set[TrainerName]] = {}
        self._places: dict[TrainerName, _Place] = {}
        self._avoided: dict[TrainerName, _Avoidance] = {}
        self._given: dict[TrainerName, set[Attempt]] = {}
        self._known: dict[str, _Known] = {}

    def observe(self, entries: Mapping[str, bytes]) -> None:
        """Take in all keys under loupe/trainers/; what is not a report of its key's own trainer is ignored."""
        now = self._monotonic()
        seen: dict[TrainerName, _Report] = {}
        by_key = {key_of(name): (name, report) for name, report in self._reports.items()}
        for key, value in entries.items():
            name, known = by_key.get(key, (None, None))
            if name is not None and known is not None and known.value == value:
                seen[name] = known  # an old report does not become fresh by being read again
                continue
            try:
                load = TrainerLoad.from_json(key, value)
            except BadLoad as error:
                log.warning("a load report was ignored", key=key[:200], error=str(error))
                continue
            name = TrainerName.parse(load.name)
            if known is not None and known.load.incarnation == load.incarnation and load.beat <= known.load.beat:
                seen[name] = known
            else:
                seen[name] = _Report(value, load, frozenset((each.job, each.attempt) for each in load.attempts), now)
        for name in seen.keys() | self._reports.keys():
            if seen.get(name) is not self._reports.get(name):
                self._known.pop(name.cluster, None)
        self._reports = seen
        self._members = {}
        for name in seen:
            self._members.setdefault(name.cluster, set()).add(name)
        self._changed.notify()

    def locate(self, trainer: TrainerName, address: str) -> None:
        """Take in where a trainer is reached; empty: Consul knows no place now, and the last one stays known."""
        before, report = self.address(trainer), self._reports.get(trainer)
        incarnation = report.load.incarnation if report else ""
        self._places[trainer] = _Place(address or before, incarnation, self._monotonic())
        if self.address(trainer) != before:
            self._known.pop(trainer.cluster, None)
            self._changed.notify()

    def to_locate(self) -> list[TrainerName]:
        """Return which trainers' places are to be asked for now: new ones first, then those asked for longest ago."""
        now = self._monotonic()
        due = {name: at for name, report in self._reports.items() if (at := self._due(name, report)) <= now}
        return sorted(due, key=lambda name: due[name])[:_LOCATED_AT_ONCE]

    def _due(self, name: TrainerName, report: _Report) -> float:
        place = self._places.get(name)
        if place is None or place.incarnation != report.load.incarnation:
            return float("-inf")
        return place.asked + (_LOCATE_SECONDS if place.address else _UNKNOWN_SECONDS)

    def give(self, trainer: TrainerName, attempt: Attempt) -> None:
        """Note an attempt that a trainer was given: it takes a slot, reported or not."""
        self._given.setdefault(trainer, set()).add(attempt)
        self._known.pop(trainer.cluster, None)

    def take_back(self, trainer: TrainerName, attempt: Attempt) -> None:
        """Note that an attempt is over, as far as the scheduler is concerned."""
        attempts = self._given.get(trainer, set())
        attempts.discard(attempt)
        if not attempts:
            self._given.pop(trainer, None)
        self._known.pop(trainer.cluster, None)

    def address(self, trainer: TrainerName) -> str:
        """Return the trainer's last known "host:port"; empty when there never was one."""
        place = self._places.get(trainer)
        return place.address if place else ""

    def avoid(self, trainer: TrainerName, seconds: float, why: str) -> None:
        """Keep new jobs away from a trainer for some time; why is told to people."""
        self._avoided[trainer] = _Avoidance(self._monotonic() + seconds, why)
        self._known.pop(trainer.cluster, None)

    def report_time(self, trainer: TrainerName) -> datetime | None:
        """Return when, by its own clock, the trainer made its newest report; None where that is no time at all."""
        report = self._reports.get(trainer)
        try:
            return datetime_of_micros(1_000 * report.load.at_ms) if report else None
        except (ValueError, OverflowError):
            return None

    def clusters(self) -> list[ClusterState]:
        """Return the clusters of live trainers, both by name.

        An attempt that a trainer was given, and that its report does not show yet, counts as busy.
        """
        now = self._monotonic()
        states = (self._cluster(cluster, now) for cluster in sorted(self._members))
        return [state for state in states if state.trainers]

    def _cluster(self, cluster: str, now: float) -> ClusterState:
        """Return a cluster's state, worked out anew only if it changed: of a thousand trainers few did meanwhile."""
        known = self._known.get(cluster)
        if known is not None and now <= known.until:
            return known.state
        trainers, until = [], float("inf")
        for name in sorted(self._members[cluster], key=lambda each: each.trainer):
            report = self._reports[name]
            expires = report.received + self._max_age
            if now > expires or not self.address(name):
                continue
            avoided = self._avoided.get(name)
            if avoided is not None and avoided.until < now:
                del self._avoided[name]
                avoided = None
            until = min(until, expires, avoided.until if avoided else until)
            trainers.append(self._state(name, report, avoided.why if avoided else ""))
        state = ClusterState(ClusterName(cluster), tuple(trainers))
        self._known[cluster] = _Known(state, until)
        return state

    def _state(self, name: TrainerName, report: _Report, avoid: str) -> TrainerState:
        unseen = len(self._given.get(name, frozenset()) - report.attempts)
        load = report.load
        return TrainerState(
            name=name,
            cpu_fraction=load.cpu_use,
            memory_fraction=load.memory_use,
            gpu_fraction=load.gpu_use,
            slots=load.slots,
            busy=load.busy_slots + unseen,
            warm=max(load.warm_slots - unseen, 0),
            sandboxed=load.sandboxed,
            gpus=len(load.gpus),
            free_memory_mb=load.free_memory_mb,
            avoid=avoid,
        )


async def follow_fleet(fleet: Fleet, discovery: Discovery) -> None:
    """Keep the fleet current until it is cancelled."""
    async for entries in discovery.watch_prefix(PREFIX):
        fleet.observe(entries)
        for trainer in fleet.to_locate():
            found = await discovery.instances(catalogue_name_of(trainer))
            fleet.locate(trainer, found[0].internal if found else "")
