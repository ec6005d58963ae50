"""Starts a trainer: `python -m services.trainer`, settings from LOUPE_* environment variables."""

from __future__ import annotations

import os

import uvloop

from loupe import app as service
from loupe import telemetry
from services.trainer.app import TrainerApp
from services.trainer.settings import TrainerSettings


async def serve() -> None:
    """Run one trainer until it is told to stop."""
    settings = TrainerSettings()
    telemetry.configure_logging(settings, f"trainer-{settings.cluster}-{settings.trainer}")
    telemetry.serve_metrics(settings.metrics_port)
    await service.run(await TrainerApp.create(settings))


if __name__ == "__main__":
    os.umask(0o022)  # jobs run as other users and must be able to read what is put there for them
    uvloop.run(serve())
