"""Starts the auth service: `python -m services.auth`, settings from LOUPE_* environment variables."""

from __future__ import annotations

from loupe.app import main
from services.auth.app import AuthApp
from services.auth.settings import AuthSettings

if __name__ == "__main__":
    main(AuthApp, AuthSettings)
