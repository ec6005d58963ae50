"""Starts the storage service: `python -m services.storage`, settings from LOUPE_* environment variables."""

from __future__ import annotations

import os

import uvloop


async def serve() -> None:
    """Run one storage process until it is told to stop."""
    # Imported here, because each decoder process imports this module again.
    from loupe import app as service
    from loupe import telemetry
    from services.storage.app import StorageApp
    from services.storage.settings import StorageSettings

    settings = StorageSettings()
    telemetry.configure_logging(settings, "storage")
    telemetry.serve_metrics(settings.metrics_port)
    await service.run(StorageApp(settings))


if __name__ == "__main__":
    os.umask(0o077)
    uvloop.run(serve())
