"""Starts the scheduler: `python -m services.scheduler`, settings from LOUPE_* environment variables."""

from __future__ import annotations

import os

import uvloop

from loupe import app as service
from loupe import telemetry
from services.scheduler.app import SchedulerApp
from services.scheduler.settings import SchedulerSettings


async def serve() -> None:
    """Run one scheduler process until it is told to stop."""
    settings = SchedulerSettings()
    telemetry.configure_logging(settings, "scheduler")
    telemetry.serve_metrics(settings.metrics_port)
    await service.run(SchedulerApp(settings))


if __name__ == "__main__":
    os.umask(0o077)
    uvloop.run(serve())
