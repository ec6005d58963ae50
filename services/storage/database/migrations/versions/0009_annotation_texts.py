"""Annotations stand once, where a version is the first to have them; versions that are derived of it refer to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Both of SQLite and PostgreSQL. The numbers of versions that come later are far above these.
_NUMBERED = """
SELECT i.version, i.position, i.annotations, v.project, v.dataset,
       row_number() OVER (ORDER BY i.version, i.position) AS number
FROM dataset_items AS i JOIN dataset_versions AS v ON v.uid = i.version
WHERE i.annotations <> ''
"""


def upgrade() -> None:
    """Make the table and move the annotations of all items there."""
    op.create_table(
        "annotation_texts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.dataset"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("annotation_texts_of_dataset", "annotation_texts", ["project", "dataset"])
    op.add_column("dataset_items", sa.Column("annotation", sa.BigInteger(), nullable=True))
    op.execute(
        f"INSERT INTO annotation_texts (id, project, dataset, text) "
        f"SELECT number, project, dataset, annotations FROM ({_NUMBERED}) AS numbered"
    )
    op.execute(
        f"UPDATE dataset_items SET annotation = numbered.number FROM ({_NUMBERED}) AS numbered "
        "WHERE dataset_items.version = numbered.version AND dataset_items.position = numbered.position"
    )
    op.drop_column("dataset_items", "annotations")
