"""The scheduler's settings, read from environment variables named LOUPE_<FIELD>."""

from __future__ import annotations

from pydantic import Field

from loupe.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """What the scheduler needs besides the settings of every service."""

    instance: str = "scheduler"
    """Service id in Consul; replicas have different ones."""

    load_threshold: float = Field(default=0.9, gt=0, le=1)
    """Load below which a cluster is a candidate."""

    lease_seconds: float = Field(default=15.0, gt=0)
    """How long an attempt may run without being renewed; its work is given away after twice that."""

    max_attempts: int = Field(default=3, ge=1)
    """How many attempts of a job may fail before the job does."""

    max_queued_jobs: int = Field(default=1000, ge=0)
    """How many jobs of a project may wait for their turn; one more is refused. 0: no limit."""

    max_losses: int = Field(default=5, ge=1)
    """How many trainers a job may lose, without a checkpoint in between, before it fails."""

    report_max_age: float = Field(default=5.0, gt=0)
    """Seconds after which a trainer's load report no longer counts."""

    call_timeout: float = Field(default=5.0, gt=0)
    """Seconds that a call to auth or storage may take."""

    sweep_seconds: float = Field(default=2.0, gt=0)
    """How often the database is asked for what other replicas wrote; inside one process nothing is polled."""

    keep_deleted_days: float = Field(default=30.0, ge=0, le=36_500)
    """How many days jobs can be restored once they are deleted."""

    keep_checkpoints_days: float = Field(default=7.0, ge=0, le=36_500)
    """How many days after its end a job can be resumed: then its last checkpoint is removed."""

    collect_seconds: float = Field(default=3600.0, gt=0)
    """How far apart the passes are that remove what is to be removed; the first one comes that long after the start."""

    audit_days: int = Field(default=400, ge=1)
    """How many days the rows of the audit log are kept."""
