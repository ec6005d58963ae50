"""Alembic's entry: runs the migrations on the connection that loupe.database.migrate gives."""

from __future__ import annotations

from loupe.database import run_migrations

run_migrations()
