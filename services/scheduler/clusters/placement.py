"""Where a job goes and why: clusters below the load threshold that can run it, ranked, and the best one's trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loupe.names import ClusterName, TrainerName

LOAD_STEPS = 10


@dataclass(frozen=True)
class Requirements:
    """What an algorithm image needs. min_memory_mb in MiB; gpu is "none", "optional" or "required"."""

    built_in: bool = True
    min_memory_mb: int = 0
    gpu: str = "none"


@dataclass(frozen=True)
class TrainerState:
    """A live trainer as placement sees it.

    Fractions are 0 to 1. busy counts reported jobs and jobs that it was given since. free_memory_mb in MiB.
    avoid says why it gets nothing now; empty when it may. free_slots is how many jobs it can take now.
    """

    name: TrainerName
    cpu_fraction: float = 0.0
    memory_fraction: float = 0.0
    gpu_fraction: float = 0.0
    slots: int = 1
    busy: int = 0
    warm: int = 0
    sandboxed: bool = True
    gpus: int = 0
    free_memory_mb: int = 1 << 20
    avoid: str = ""
    load: float = field(init=False)
    free_slots: int = field(init=False)

    def __post_init__(self) -> None:
        taken = self.busy / self.slots if self.slots else 1.0
        load = max(self.cpu_fraction, self.memory_fraction, self.gpu_fraction, min(taken, 1.0))
        object.__setattr__(self, "load", load)
        object.__setattr__(self, "free_slots", 0 if self.avoid else max(self.slots - self.busy, 0))


@dataclass(frozen=True)
class ClusterState:
    """A cluster with its live trainers.

    load is the mean of theirs, 1 without any; free_slots is how many jobs they can take now.
    """

    name: ClusterName
    trainers: tuple[TrainerState, ...]
    load: float = field(init=False)
    free_slots: int = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.trainers)
        object.__setattr__(self, "load", sum(each.load for each in self.trainers) / count if count else 1.0)
        object.__setattr__(self, "free_slots", sum(each.free_slots for each in self.trainers))


@dataclass(frozen=True)
class Considered:
    """A cluster and why it was taken or passed over. obstacle is a stable word, empty for a candidate."""

    cluster: ClusterName
    load: float
    free_slots: int
    obstacle: str
    explanation: str
    chosen: bool = False


@dataclass(frozen=True)
class Placement:
    """Where a job goes, or that it waits; considered are all clusters, best first."""

    trainer: TrainerName | None
    considered: tuple[Considered, ...]
    summary: str
    load_threshold: float

    @property
    def waits_for(self) -> str:
        """A word that changes when the reason for waiting does, and not with every figure."""
        return "" if self.trainer else ",".join(sorted({each.obstacle for each in self.considered})) or "no_trainer"


def rank_clusters(requirements: Requirements, fleet: Iterable[ClusterState], threshold: float) -> Placement:
    """Choose the cluster: the lowest load in LOAD_STEPS steps, then the most free warm slots, then
    the exact load, then the name: a job starts seconds sooner in a warm slot, and a few percent of load are noise.

    Within it the trainer: one with a warm slot before others, then the least loaded, then the name.
    """
    candidates: list[tuple[tuple[int, int, float, str], ClusterState, list[TrainerState]]] = []
    passed: list[Considered] = []
    for cluster in fleet:
        obstacle, explanation, able = _judge(cluster, requirements, threshold)
        if obstacle:
            passed.append(Considered(cluster.name, cluster.load, cluster.free_slots, obstacle, explanation))
        else:
            rank = (int(cluster.load * LOAD_STEPS), -_warm(able), cluster.load, cluster.name.cluster)
            candidates.append((rank, cluster, able))
    candidates.sort(key=lambda each: each[0])
    passed.sort(key=lambda each: (each.load, each.cluster.cluster))
    if not candidates:
        return Placement(None, tuple(passed), _waiting(passed), threshold)
    ranked = [
        Considered(cluster.name, cluster.load, cluster.free_slots, "", _taken(cluster, able, threshold), rank == 0)
        for rank, (_, cluster, able) in enumerate(candidates)
    ]
    trainer = min(candidates[0][2], key=lambda each: (not _free_warm(each), each.load, each.name.trainer))
    summary = f"{trainer.name} was chosen: {ranked[0].explanation}"
    if len(ranked) + len(passed) > 1:
        summary += f" ({len(ranked)} of {len(ranked) + len(passed)} clusters qualified)"
    return Placement(trainer.name, (*ranked, *passed), summary, threshold)


def _judge(cluster: ClusterState, needs: Requirements, threshold: float) -> tuple[str, str, list[TrainerState]]:
    """Return an obstacle and its explanation, or the trainers that can take the job now."""
    able: Sequence[TrainerState] = cluster.trainers
    if not needs.built_in:
        able = [each for each in able if each.sandboxed]
    fit = [each for each in able if each.gpus] if needs.gpu == "required" else able
    free = [each for each in fit if each.free_slots]
    fitting = [each for each in free if each.free_memory_mb >= needs.min_memory_mb]
    if not cluster.trainers:
        obstacle, why = "no_trainer", "no live trainer"
    elif not able:
        obstacle, why = "sandbox", "no sandbox, so it runs built-in algorithm images only"
    elif not fit:
        obstacle, why = "gpu", "the algorithm image needs a GPU, and it has none"
    elif not free:
        avoided = next((each.avoid for each in fit if each.avoid), "")
        obstacle, why = "slot", avoided or f"no free slot ({_slots(fit)})"
    elif cluster.load >= threshold:
        obstacle, why = "load", f"load {cluster.load:.2f} is not below {threshold:.2f}{_busy(cluster)}"
    elif not fitting:
        most = max(each.free_memory_mb for each in free)
        obstacle, why = "memory", f"it needs {needs.min_memory_mb} MiB of free memory, the most there is {most}"
    else:
        return "", "", fitting
    return obstacle, f"passed over: {why}", []


def _slots(trainers: Sequence[TrainerState]) -> str:
    slots = sum(each.slots for each in trainers)
    return f"{min(sum(each.busy for each in trainers), slots)} of {slots} busy"


def _busy(cluster: ClusterState) -> str:
    """Add what a person can do something about: is it our jobs, or something else on the machines?"""
    taken = sum(min(each.busy, each.slots) for each in cluster.trainers)
    return f" ({_slots(cluster.trainers)})" if taken else " (no job runs there: something else keeps it busy)"


def _free_warm(trainer: TrainerState) -> int:
    return min(trainer.warm, trainer.free_slots)


def _warm(trainers: Sequence[TrainerState]) -> int:
    return sum(_free_warm(each) for each in trainers)


def _taken(cluster: ClusterState, able: Sequence[TrainerState], threshold: float) -> str:
    warm = _warm(able)
    free = warm or sum(each.free_slots for each in able)
    slots = f"{free} free {'warm ' if warm else ''}slot{'' if free == 1 else 's'}"
    return f"load {cluster.load:.2f} below {threshold:.2f}, {slots}"


def _waiting(passed: Sequence[Considered]) -> str:
    if not passed:
        return "waits: no training cluster is known"
    best = passed[0]
    others = f", and {len(passed) - 1} more were passed over" if len(passed) > 1 else ""
    return f"waits: {best.cluster} {best.explanation}{others}"
