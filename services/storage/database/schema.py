"""The tables of the storage service."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from loupe.idempotency import request_log_table

metadata = MetaData()

request_log = request_log_table(metadata)

projects = Table(
    "projects",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("creator", String(128), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("create_time", Float, nullable=False),
)

packs = Table(
    "packs",
    metadata,
    Column("pack", String(32), primary_key=True),
    Column("project", ForeignKey("projects.project"), nullable=False, index=True),
    # length is where the last indexed picture ends; what lies behind it in the file was never acknowledged.
    Column("length", BigInteger, nullable=False),
    Column("sealed", Boolean, nullable=False),
)

pictures = Table(
    "pictures",
    metadata,
    Column("project", ForeignKey("projects.project"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("pack", ForeignKey("packs.pack"), nullable=False),
    Column("position", BigInteger, nullable=False),
    # state: 0 not decoded yet, 1 whole, 2 broken as it came, 3 damaged here.
    Column("state", SmallInteger, nullable=False),
    Column("problem", Text, nullable=False, default=""),
    Column("perceptual_hash", LargeBinary(8)),
    Column("thumbnail", LargeBinary(256)),
    Index(
        "pictures_to_decode",
        "project",
        sqlite_where=text("state = 0"),
        postgresql_where=text("state = 0"),
    ),
)

blobs = Table(
    "blobs",
    metadata,
    Column("project", ForeignKey("projects.project"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # piece_digests are the sha256 of every piece of 1 MiB, one after the other: what is read is checked piece by piece.
    Column("piece_digests", LargeBinary, nullable=False),
    # job is set while only a training attempt of that job has uploaded it; such a blob goes with its checkpoint.
    Column("job", String(160)),
)

datasets = Table(
    "datasets",
    metadata,
    Column("project", ForeignKey("projects.project"), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("latest", Integer, nullable=False, default=0),
    Column("create_time", Float, nullable=False),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    # document is the loupe.storage.v1.DatasetVersion, encoded; it never changes.
    Column("document", LargeBinary, nullable=False),
    UniqueConstraint("project", "dataset", "digest"),
    ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.dataset"]),
)

dataset_items = Table(
    "dataset_items",
    metadata,
    Column("version", ForeignKey("dataset_versions.uid"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("label", Text, nullable=False),
    Column("split", SmallInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", Integer, nullable=False),
    sqlite_with_rowid=False,
)

algorithm_versions = Table(
    "algorithm_versions",
    metadata,
    Column("algorithm", String(63), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("sequence", Integer, nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("piece_digests", LargeBinary, nullable=False),
    # newest is true for one version of each algorithm.
    Column("newest", Boolean, nullable=False),
    # document is the loupe.storage.v1.AlgorithmVersion, encoded.
    Column("document", LargeBinary, nullable=False),
    Index("algorithm_digests", "digest"),
)

models = Table(
    "models",
    metadata,
    Column("project", ForeignKey("projects.project"), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("latest", Integer, nullable=False),
    Column("latest_released", Integer, nullable=False),
    Column("create_time", Float, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("job", String(160), nullable=False, unique=True),
    # document is the loupe.storage.v1.ModelVersion, encoded.
    Column("document", LargeBinary, nullable=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
)

# held_blobs says which blobs are part of something: of a checkpoint ("checkpoint", job) or a model ("model", its name).
held_blobs = Table(
    "held_blobs",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("holder", String(200), primary_key=True),
    Column("filename", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    ForeignKeyConstraint(["project", "digest"], ["blobs.project", "blobs.digest"]),
    Index("held_blobs_by_digest", "project", "digest"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job", String(160), primary_key=True),
    # document is the loupe.storage.v1.Checkpoint, encoded.
    Column("document", LargeBinary, nullable=False),
)

fences = Table(
    "fences",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("attempt", Integer, nullable=False),
)
