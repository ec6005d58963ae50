"""Starts a trainer: `python -m services.trainer`, settings from LOUPE_* environment variables."""

from __future__ import annotations

from loupe.app import main
from services.trainer.app import TrainerApp
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    # Jobs run as other users and must be able to read what is put there for them.
    main(TrainerApp, TrainerSettings, umask=0o022)
