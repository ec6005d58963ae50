"""The RPC about clusters: unpack, call, pack."""

from __future__ import annotations

from loupe.scheduler.v1.cluster_service_pb2 import ListClustersRequest, ListClustersResponse
from loupe.scheduler.v1.cluster_service_pb2_grpc import ClusterServiceServicer
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.messages import pack_cluster


class ClusterServicer(ClusterServiceServicer):
    """Serves loupe.scheduler.v1.ClusterService."""

    def __init__(self, fleet: Fleet, load_threshold: float) -> None:
        self._fleet = fleet
        self._threshold = load_threshold

    async def ListClusters(self, request: ListClustersRequest, context: object) -> ListClustersResponse:
        """List all clusters with their trainers and load, by name."""
        clusters = [pack_cluster(cluster, self._fleet.report_time) for cluster in self._fleet.clusters()]
        return ListClustersResponse(clusters=clusters, load_threshold=self._threshold)
