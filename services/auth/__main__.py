"""Starts the auth service: `python -m services.auth`, settings from LOUPE_* environment variables."""

from __future__ import annotations

import os

import uvloop

from loupe import app as service
from loupe import telemetry
from services.auth.app import AuthApp
from services.auth.settings import AuthSettings


async def serve() -> None:
    """Run one auth process until it is told to stop."""
    settings = AuthSettings()
    telemetry.configure_logging(settings, "auth")
    telemetry.serve_metrics(settings.metrics_port)
    await service.run(AuthApp(settings))


if __name__ == "__main__":
    os.umask(0o077)  # the database holds password hashes and signing keys
    uvloop.run(serve())
