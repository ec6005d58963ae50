"""What auth's tables are declared on. Each room declares its own; times are seconds since 1970 (UTC)."""

from __future__ import annotations

import sqlalchemy as sa

from loupe.audit_log import audit_log_table
from loupe.idempotency import request_log_table

metadata = sa.MetaData()

request_log = request_log_table(metadata)
audit_log = audit_log_table(metadata)

policy_revision = sa.Table(
    "policy_revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
)
"""One row (id 1): the number of the policy's newest change. Its lock puts all writers in order."""
