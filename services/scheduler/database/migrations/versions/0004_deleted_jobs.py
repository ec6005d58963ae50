"""Jobs can be deleted and restored, resume one another, and their checkpoints are collected."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of the jobs of before none is deleted, and each may have a checkpoint."""
    op.add_column("jobs", sa.Column("resumes", sa.String(63)))
    op.add_column("jobs", sa.Column("checkpoint", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("delete_time", sa.BigInteger))
    op.add_column("jobs", sa.Column("expire_time", sa.BigInteger))
    op.add_column("jobs", sa.Column("purged", sa.SmallInteger, nullable=False, server_default="0"))
    op.create_index("jobs_by_resumed", "jobs", ["project", "resumes"])
    op.create_index("jobs_by_checkpoint", "jobs", ["checkpoint", "end_time"])
    op.create_index("jobs_by_expiry", "jobs", ["purged", "expire_time"])
