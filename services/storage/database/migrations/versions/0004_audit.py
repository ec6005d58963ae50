"""Calls that change something leave a row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from loupe.audit_log import audit_log_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the audit log; what happened before is not in it."""
    audit_log_table(sa.MetaData()).create(op.get_bind())
