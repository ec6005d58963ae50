"""Annotations of pictures, and the pictures' sizes.

Versions of before have none, and their digests stay. Pictures that are decoded already are measured in the background.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index by which pictures without a size are found."""
    for table in ("dataset_items", "dataset_tested_pictures"):
        op.add_column(table, sa.Column("annotations", sa.Text(), nullable=False, server_default=""))
    for side in ("width", "height"):
        op.add_column("pictures", sa.Column(side, sa.Integer(), nullable=True))
    unmeasured = sa.text("state = 1 AND width IS NULL")
    op.create_index(
        "pictures_to_measure", "pictures", ["project"], sqlite_where=unmeasured, postgresql_where=unmeasured
    )
