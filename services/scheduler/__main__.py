"""Starts the scheduler: `python -m services.scheduler`, settings from LOUPE_* environment variables."""

from __future__ import annotations

from loupe.app import main
from services.scheduler.app import SchedulerApp
from services.scheduler.settings import SchedulerSettings

if __name__ == "__main__":
    main(SchedulerApp, SchedulerSettings)
