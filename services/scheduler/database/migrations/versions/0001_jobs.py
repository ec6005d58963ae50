"""Jobs, their events, and the answers to requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from loupe.idempotency import request_log_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    metadata = sa.MetaData()
    sa.Table(
        "jobs",
        metadata,
        sa.Column("uid", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("job", sa.String(63), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("state_message", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("trainer", sa.String(200)),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("start_time", sa.BigInteger),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("result", sa.LargeBinary),
        sa.Column("failure", sa.LargeBinary),
        sa.Column("progress", sa.LargeBinary),
        sa.Column("placement", sa.LargeBinary),
        sa.Column("finished", sa.LargeBinary),
        sa.Column("trainer_sequence", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "job", name="jobs_by_name"),
        sa.Index("jobs_by_state", "state"),
        sa.Index("jobs_by_age", "project", "create_time", "uid"),
    )
    sa.Table(
        "events",
        metadata,
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("uid", sa.String(32), sa.ForeignKey("jobs.uid"), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.Boolean, nullable=False),
        sa.UniqueConstraint("uid", "sequence", name="events_by_job"),
        sa.Index(
            "events_unpublished",
            "position",
            sqlite_where=sa.text("published = 0"),
            postgresql_where=sa.text("published = false"),
        ),
    )
    request_log_table(metadata)
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    """Drop the tables."""
    for table in ("request_log", "events", "jobs"):
        op.drop_table(table)
