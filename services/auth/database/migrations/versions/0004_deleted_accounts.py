"""Accounts can be deleted, restored for a time, and are purged then."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when accounts were deleted, and the table of the groups that they come back into."""
    op.add_column("account", sa.Column("delete_time", sa.Float))
    op.add_column("account", sa.Column("expire_time", sa.Float))
    op.add_column("account", sa.Column("purged", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "deleted_membership",
        sa.Column("account", sa.String(63), primary_key=True),
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("group", sa.String(63), nullable=False),
    )
    op.create_index("deleted_membership_group", "deleted_membership", ["project", "group"])
