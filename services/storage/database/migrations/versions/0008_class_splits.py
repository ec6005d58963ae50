"""Data sets whose whole classes are divided remember which of these are in test for good."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no data set is split by class yet."""
    op.add_column("datasets", sa.Column("test_classes", sa.Text(), nullable=False, server_default=""))
