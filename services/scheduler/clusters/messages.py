"""Between clusters and placements and the messages of the contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from loupe.names import ClusterName, TrainerName
from loupe.scheduler.v1 import cluster_pb2
from loupe.timestamps import timestamp
from services.scheduler.clusters.placement import ClusterState, Considered, Placement, TrainerState

_PASSED_OVER = "passed_over"
"""The obstacle of a cluster in a placement that was read: the contract tells that there was one, and not which."""


def pack_placement(placement: Placement) -> cluster_pb2.Placement:
    """Return the message of a placement."""
    considered = [
        cluster_pb2.ConsideredCluster(
            cluster=str(each.cluster),
            load=each.load,
            free_slots=each.free_slots,
            candidate=not each.obstacle,
            chosen=each.chosen,
            explanation=each.explanation,
        )
        for each in placement.considered
    ]
    return cluster_pb2.Placement(
        trainer=str(placement.trainer or ""),
        considered=considered,
        summary=placement.summary,
        load_threshold=placement.load_threshold,
    )


def unpack_placement(message: cluster_pb2.Placement) -> Placement:
    """Return a placement that pack_placement made a message of."""
    considered = tuple(
        Considered(
            cluster=ClusterName.parse(each.cluster),
            load=each.load,
            free_slots=each.free_slots,
            obstacle="" if each.candidate else _PASSED_OVER,
            explanation=each.explanation,
            chosen=each.chosen,
        )
        for each in message.considered
    )
    trainer = TrainerName.parse(message.trainer) if message.trainer else None
    return Placement(trainer, considered, message.summary, message.load_threshold)


def pack_cluster(cluster: ClusterState, report_time: Callable[[TrainerName], datetime | None]) -> cluster_pb2.Cluster:
    """Return the resource of a cluster; report_time gives the time of each trainer's last report."""
    return cluster_pb2.Cluster(
        name=str(cluster.name),
        load=cluster.load,
        free_slots=cluster.free_slots,
        trainers=[_pack_trainer(each, report_time(each.name)) for each in cluster.trainers],
    )


def _pack_trainer(trainer: TrainerState, report_time: datetime | None) -> cluster_pb2.Trainer:
    return cluster_pb2.Trainer(
        name=str(trainer.name),
        load=trainer.load,
        cpu_fraction=trainer.cpu_fraction,
        memory_fraction=trainer.memory_fraction,
        gpu_fraction=trainer.gpu_fraction,
        gpus=trainer.gpus,
        slots=trainer.slots,
        busy_slots=trainer.busy,
        warm_slots=trainer.warm,
        sandboxed=trainer.sandboxed,
        report_time=None if report_time is None else timestamp(report_time),
    )
