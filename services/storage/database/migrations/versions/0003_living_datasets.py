"""What data sets that grow need: the pictures that were ever in test, and the hashes of a version's pictures.

Earlier versions were divided anew by each push, so that what was in test in one may have been trained on in the next.
Of a data set that exists, those count as tested that its newest version has in test, and those of earlier versions'
test splits that the newest does not have: taking in all others as well would leave little to train on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEST = 3


def upgrade() -> None:
    """Make the tables, and fill the one of tested pictures from the versions that exist."""
    tested = op.create_table(
        "dataset_tested_pictures",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.dataset"]),
        sa.PrimaryKeyConstraint("project", "dataset", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dataset_version_hashes",
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["dataset_versions.uid"]),
        sa.PrimaryKeyConstraint("version"),
    )
    op.execute(tested.insert().from_select(["project", "dataset", "digest", "label"], _tested()))


def _tested() -> sa.Select[tuple[str, str, str, str]]:
    datasets = sa.table("datasets", *map(sa.column, ("project", "dataset", "latest")))
    versions = sa.table("dataset_versions", *map(sa.column, ("project", "dataset", "number", "uid")))
    items = sa.table("dataset_items", *map(sa.column, ("version", "digest", "label", "split")))
    newest, there = versions.alias(), items.alias()
    trained = (
        sa.select(newest.c.project, newest.c.dataset, there.c.digest)
        .join(there, there.c.version == newest.c.uid)
        .join(
            datasets,
            (datasets.c.project == newest.c.project)
            & (datasets.c.dataset == newest.c.dataset)
            & (datasets.c.latest == newest.c.number),
        )
        .where(there.c.split != _TEST)
        .subquery()
    )
    return (
        sa.select(versions.c.project, versions.c.dataset, items.c.digest, sa.func.max(items.c.label))
        .join(items, items.c.version == versions.c.uid)
        .outerjoin(
            trained,
            (trained.c.project == versions.c.project)
            & (trained.c.dataset == versions.c.dataset)
            & (trained.c.digest == items.c.digest),
        )
        .where(items.c.split == _TEST, trained.c.digest.is_(None))
        .group_by(versions.c.project, versions.c.dataset, items.c.digest)
    )
