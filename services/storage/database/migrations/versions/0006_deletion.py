"""Data sets, models and their versions can be deleted, restored for a time, and are purged then."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

from loupe.storage.v1.model_pb2 import ModelVersion

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DELETABLE = ("datasets", "dataset_versions", "models", "model_versions")


def upgrade() -> None:
    """Add when things were deleted, what keeps a data set version, and what waits for collection."""
    for table in _DELETABLE:
        op.add_column(table, sa.Column("delete_time", sa.Float(), nullable=True))
        op.add_column(table, sa.Column("expire_time", sa.Float(), nullable=True))
        op.add_column(table, sa.Column("purged", sa.SmallInteger(), nullable=False, server_default="0"))
    op.add_column("model_versions", sa.Column("released", sa.Boolean(), nullable=False, server_default=sa.false()))
    for origin in ("dataset_version", "base_model"):
        op.add_column("model_versions", sa.Column(origin, sa.Text(), nullable=False, server_default=""))
        op.create_index(f"model_versions_by_{origin}", "model_versions", [origin], unique=False)
    op.add_column("packs", sa.Column("dead", sa.BigInteger(), nullable=False, server_default="0"))
    # What is there already was used now, for all that is known.
    op.add_column("blobs", sa.Column("use_time", sa.Float(), nullable=False, server_default=str(time.time())))
    op.create_table(
        "picture_marks",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project", "digest"),
    )
    op.create_table(
        "held_pictures",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("project", "kind", "holder", "filename"),
    )
    op.create_index("held_pictures_by_digest", "held_pictures", ["project", "digest"], unique=False)
    _read_documents()


def _read_documents() -> None:
    """Fill in what only the documents of model versions said until now, some versions at a time."""
    connection = op.get_bind()
    names = ("project", "model", "number", "document", "released", "dataset_version", "base_model")
    versions = sa.table("model_versions", *map(sa.column, names))
    keys = connection.execute(sa.select(*versions.c["project", "model", "number"])).all()
    for project, model, number in keys:
        key = (versions.c.project == project) & (versions.c.model == model) & (versions.c.number == number)
        said = ModelVersion.FromString(connection.execute(sa.select(versions.c.document).where(key)).scalar_one())
        made_from = {"dataset_version": said.lineage.dataset_version, "base_model": said.lineage.base_model}
        connection.execute(versions.update().where(key).values(released=said.released, **made_from))
        holder = {"project": project, "holder": said.name}
        for file in said.files:
            if not _known(connection, "blobs", project, file.digest):
                _hold(connection, "pictures", holder | {"kind": "model", "filename": file.filename}, file.digest)
        for name, digest in json.loads(said.lineage.parameters_json or "{}").items():
            if isinstance(digest, str):
                table = "blobs" if _known(connection, "blobs", project, digest) else "pictures"
                _hold(connection, table, holder | {"kind": "parameters", "filename": name}, digest)


def _known(connection: sa.Connection, table: str, project: str, digest: str) -> bool:
    columns = sa.table(table, sa.column("project"), sa.column("digest")).c
    query = sa.select(columns.digest).where(columns.project == project, columns.digest == digest)
    return connection.execute(query).first() is not None


def _hold(connection: sa.Connection, table: str, holder: Mapping[str, str], digest: str) -> None:
    """Keep a blob or a picture that is there while a model version names it."""
    if _known(connection, table, holder["project"], digest):
        held = sa.table(f"held_{table}", *map(sa.column, ("project", "kind", "holder", "filename", "digest")))
        connection.execute(held.insert().values(**holder, digest=digest))
