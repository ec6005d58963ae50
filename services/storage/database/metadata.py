"""The tables are declared here by their rooms; the answers to requests belong to no room."""

from __future__ import annotations

import sqlalchemy as sa

from loupe.audit_log import audit_log_table
from loupe.idempotency import request_log_table

metadata = sa.MetaData()

request_log = request_log_table(metadata)
audit_log = audit_log_table(metadata)
