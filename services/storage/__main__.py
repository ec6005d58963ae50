"""Starts the storage service: `python -m services.storage`, settings from LOUPE_* environment variables."""

from __future__ import annotations

if __name__ == "__main__":
    # Imported here, because each decoder process imports this module again.
    from loupe.app import main
    from services.storage.app import StorageApp
    from services.storage.settings import StorageSettings

    main(StorageApp, StorageSettings)
