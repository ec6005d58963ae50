"""Jobs have labels and a note, and are found by their labels; a list of some states reads the index alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, the table and the index; jobs of before have no labels and no note."""
    op.add_column("jobs", sa.Column("labels", sa.Text, nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("note", sa.Text, nullable=False, server_default=""))
    op.drop_index("jobs_by_age", "jobs")
    op.create_index("jobs_by_age", "jobs", ["project", "create_time", "uid", "state"])
    op.create_table(
        "job_labels",
        sa.Column("uid", sa.String(32), sa.ForeignKey("jobs.uid"), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(63), nullable=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_index("job_labels_by_age", "job_labels", ["project", "key", "value", "create_time", "uid"])
