"""Logins remember the network address that they were made from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and its index; logins of before have no address."""
    op.add_column("login", sa.Column("address", sa.String(64)))
    op.create_index("login_from", "login", ["account", "address"])
