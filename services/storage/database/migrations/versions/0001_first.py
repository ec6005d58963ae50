"""The first schema of storage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from loupe.idempotency import request_log_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    request_log_table(sa.MetaData()).create(op.get_bind())
    op.create_table(
        "algorithm_versions",
        sa.Column("algorithm", sa.String(63), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("piece_digests", sa.LargeBinary(), nullable=False),
        sa.Column("newest", sa.Boolean(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("algorithm", "version"),
        sa.UniqueConstraint("sequence"),
    )
    op.create_index("algorithm_digests", "algorithm_versions", ["digest"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "fences",
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "projects",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("creator", sa.String(128), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project"),
    )
    op.create_table(
        "blobs",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("piece_digests", sa.LargeBinary(), nullable=False),
        sa.Column("job", sa.String(160), nullable=True),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.project"],
        ),
        sa.PrimaryKeyConstraint("project", "digest"),
    )
    op.create_table(
        "datasets",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.project"],
        ),
        sa.PrimaryKeyConstraint("project", "dataset"),
    )
    op.create_table(
        "models",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("latest_released", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.project"],
        ),
        sa.PrimaryKeyConstraint("project", "model"),
    )
    op.create_table(
        "packs",
        sa.Column("pack", sa.String(32), nullable=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.project"],
        ),
        sa.PrimaryKeyConstraint("pack"),
    )
    op.create_index("ix_packs_project", "packs", ["project"], unique=False)
    op.create_table(
        "dataset_versions",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "dataset"],
            ["datasets.project", "datasets.dataset"],
        ),
        sa.PrimaryKeyConstraint("project", "dataset", "number"),
        sa.UniqueConstraint("project", "dataset", "digest"),
        sa.UniqueConstraint("uid"),
    )
    op.create_table(
        "held_blobs",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "digest"],
            ["blobs.project", "blobs.digest"],
        ),
        sa.PrimaryKeyConstraint("project", "kind", "holder", "filename"),
    )
    op.create_index("held_blobs_by_digest", "held_blobs", ["project", "digest"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
        ),
        sa.PrimaryKeyConstraint("project", "model", "number"),
        sa.UniqueConstraint("job"),
    )
    op.create_table(
        "pictures",
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("pack", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("perceptual_hash", sa.LargeBinary(8), nullable=True),
        sa.Column("thumbnail", sa.LargeBinary(256), nullable=True),
        sa.ForeignKeyConstraint(
            ["pack"],
            ["packs.pack"],
        ),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.project"],
        ),
        sa.PrimaryKeyConstraint("project", "digest"),
    )
    op.create_index(
        "pictures_to_decode",
        "pictures",
        ["project"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_table(
        "dataset_items",
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("split", sa.SmallInteger(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"],
            ["dataset_versions.uid"],
        ),
        sa.PrimaryKeyConstraint("version", "position"),
        sqlite_with_rowid=False,
    )
