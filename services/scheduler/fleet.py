"""The fleet as Consul tells it: which trainers report, how loaded they are, and where they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from loupe.discovery import Discovery, Instance
from loupe.load import PREFIX, BadLoad, TrainerLoad
from loupe.names import ClusterName, TrainerName
from services.scheduler.placement import ClusterState, TrainerState

log = structlog.get_logger(__name__)

TRAINER_SERVICE = "loupe-trainer"
_LOCATE_SECONDS = 2.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Given = Mapping[TrainerName, AbstractSet[tuple[str, int]]]
"""The attempts, as (job name, number), that each trainer was given."""


@dataclass(frozen=True)
class _Report:
    """_Report is a trainer's newest report and when it came, on this process's monotonic clock."""

    load: TrainerLoad
    attempts: AbstractSet[tuple[str, int]]
    received: float


@dataclass(frozen=True)
class _Avoidance:
    until: float
    why: str


class Fleet:
    """Fleet is the trainers that report, under the rule that nothing is believed that is old, malformed or foreign.

    monotonic: seconds that only go up; max_age: seconds after which a report no longer counts. Ages are measured
    from receipt, so that no trainer's clock matters.
    """

    def __init__(self, monotonic: Callable[[], float], max_age: float) -> None:
        self._monotonic = monotonic
        self._max_age = max_age
        self._reports: dict[TrainerName, _Report] = {}
        self._addresses: dict[str, str] = {}
        self._avoided: dict[TrainerName, _Avoidance] = {}
        self._states: dict[TrainerName, tuple[tuple[object, ...], TrainerState]] = {}
        self._listeners: list[Callable[[], None]] = []

    def listen(self, changed: Callable[[], None]) -> None:
        """listen has `changed` called whenever a report or an address is new."""
        self._listeners.append(changed)

    def observe(self, entries: Mapping[str, bytes]) -> None:
        """observe takes in all keys under loupe/trainers/; what is not a report of its key's own trainer is ignored."""
        now = self._monotonic()
        seen: dict[TrainerName, _Report] = {}
        for key, value in entries.items():
            try:
                load = TrainerLoad.from_json(key, value)
            except BadLoad as error:
                log.warning("a load report was ignored", key=key[:200], error=str(error))
                continue
            name = TrainerName.parse(load.name)
            known = self._reports.get(name)
            if known is not None and known.load.incarnation == load.incarnation and load.beat <= known.load.beat:
                seen[name] = known  # an old report does not become fresh by being read again
            else:
                seen[name] = _Report(load, frozenset((each.job, each.attempt) for each in load.attempts), now)
        self._reports = seen
        self._states = {name: state for name, state in self._states.items() if name in seen}
        self._changed()

    def locate(self, instances: Sequence[Instance]) -> None:
        """locate takes in where trainers are reached; addresses of those that are not named any more stay known."""
        self._addresses |= {instance.id: instance.internal for instance in instances}
        self._changed()

    def address(self, trainer: TrainerName) -> str:
        """address is the trainer's last known "host:port"; empty when there never was one."""
        return self._addresses.get(_instance_of(trainer), "")

    def unlocated(self) -> bool:
        """unlocated is true when a trainer reports whose address is not known."""
        return any(not self.address(name) for name in self._reports)

    def avoid(self, trainer: TrainerName, seconds: float, why: str) -> None:
        """avoid keeps new jobs away from a trainer for some time; why is told to people."""
        self._avoided[trainer] = _Avoidance(self._monotonic() + seconds, why)

    def report_time(self, trainer: TrainerName) -> datetime | None:
        """report_time is when, by its own clock, the trainer made its newest report."""
        report = self._reports.get(trainer)
        return _EPOCH + timedelta(milliseconds=report.load.at_ms) if report else None

    def clusters(self, given: Given | None = None) -> list[ClusterState]:
        """clusters returns the clusters of live trainers, both by name.

        given: attempts that trainers were given; one that the trainer's report does not show yet counts as busy.
        """
        now = self._monotonic()
        self._avoided = {name: each for name, each in self._avoided.items() if each.until > now}
        found: dict[str, list[TrainerState]] = {}
        for name, report in self._reports.items():
            if now - report.received <= self._max_age and self.address(name):
                found.setdefault(name.cluster, []).append(
                    self._state(name, report, (given or {}).get(name, frozenset()))
                )
        return [
            ClusterState(ClusterName(cluster), tuple(sorted(found[cluster], key=lambda each: each.name.trainer)))
            for cluster in sorted(found)
        ]

    def _state(self, name: TrainerName, report: _Report, given: AbstractSet[tuple[str, int]]) -> TrainerState:
        """_state is built anew only when something changed: of a thousand trainers few did since the last decision."""
        unseen = len(given - report.attempts) if given else 0
        avoided = self._avoided.get(name)
        key = (report.load.incarnation, report.load.beat, unseen, avoided)
        known = self._states.get(name)
        if known is not None and known[0] == key:
            return known[1]
        load = report.load
        state = TrainerState(
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
            avoid=avoided.why if avoided else "",
        )
        self._states[name] = (key, state)
        return state

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _instance_of(trainer: TrainerName) -> str:
    """_instance_of is the trainer's service id in Consul."""
    return f"trainer-{trainer.cluster}-{trainer.trainer}"


async def follow_fleet(fleet: Fleet, discovery: Discovery, monotonic: Callable[[], float]) -> None:
    """follow_fleet keeps the fleet current until it is cancelled."""
    locate_at = float("-inf")
    async for entries in discovery.watch_prefix(PREFIX):
        fleet.observe(entries)
        if monotonic() >= locate_at or fleet.unlocated():
            fleet.locate(await discovery.instances(TRAINER_SERVICE))
            locate_at = monotonic() + _LOCATE_SECONDS
