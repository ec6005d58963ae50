"""What each project holds, counted, and its quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COUNT = """
UPDATE projects SET
  pictures = (SELECT COUNT(*) FROM pictures WHERE pictures.project = projects.project),
  picture_bytes = (SELECT COALESCE(SUM(size), 0) FROM pictures WHERE pictures.project = projects.project),
  blobs = (SELECT COUNT(*) FROM blobs WHERE blobs.project = projects.project),
  blob_bytes = (SELECT COALESCE(SUM(size), 0) FROM blobs WHERE blobs.project = projects.project)
"""


def upgrade() -> None:
    """Add the columns, and count what is there."""
    for counter in ("pictures", "picture_bytes", "blobs", "blob_bytes"):
        op.add_column("projects", sa.Column(counter, sa.BigInteger(), nullable=False, server_default="0"))
    for quota in ("max_pictures", "max_bytes"):
        op.add_column("projects", sa.Column(quota, sa.BigInteger(), nullable=True))
    op.execute(_COUNT)
