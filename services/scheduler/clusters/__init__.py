"""Clusters: the fleet as it reports itself, and where a job is placed."""
