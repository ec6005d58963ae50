"""Projects and versions of algorithms can be deleted, restored for a time, and are purged then."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from loupe.storage.v1.model_pb2 import ModelVersion

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when things were deleted, and what keeps a version of an algorithm."""
    for table in ("projects", "algorithm_versions"):
        op.add_column(table, sa.Column("delete_time", sa.Float(), nullable=True))
        op.add_column(table, sa.Column("expire_time", sa.Float(), nullable=True))
        op.add_column(table, sa.Column("purged", sa.SmallInteger(), nullable=False, server_default="0"))
    op.add_column("model_versions", sa.Column("algorithm_version", sa.Text(), nullable=False, server_default=""))
    op.create_index("model_versions_by_algorithm_version", "model_versions", ["algorithm_version"], unique=False)
    _read_documents()


def _read_documents() -> None:
    """Fill in what only the documents of model versions said until now, some versions at a time."""
    connection = op.get_bind()
    names = ("project", "model", "number", "document", "algorithm_version")
    versions = sa.table("model_versions", *map(sa.column, names))
    for project, model, number in connection.execute(sa.select(*versions.c["project", "model", "number"])).all():
        key = (versions.c.project == project) & (versions.c.model == model) & (versions.c.number == number)
        said = ModelVersion.FromString(connection.execute(sa.select(versions.c.document).where(key)).scalar_one())
        update = versions.update().where(key)
        connection.execute(update.values(algorithm_version=said.lineage.algorithm_version))
