"""A database from before anything could be deleted."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from loupe import database
from loupe.idempotency import RequestLog
from loupe.storage.v1.model_pb2 import ModelVersion
from services.storage.database.session import MIGRATIONS, Database

DATASET_VERSION = "projects/a/datasets/screws/versions/1"
PICTURE, BLOB = "d1", "d3"


BASE = "projects/a/models/m/versions/0"
ALGORITHM = "algorithms/detect/versions/1"
PARAMETERS = {"weights": BLOB, "look": PICTURE, "size": 128, "gone": "d9"}


def version(number: int, *, released: bool) -> bytes:
    """Encode a model version of which one file is a blob and one a picture; so it is with its parameters."""
    return ModelVersion(
        name=f"projects/a/models/m/versions/{number}",
        released=released,
        lineage={  # type: ignore[arg-type]
            "dataset_version": DATASET_VERSION,
            "base_model": BASE,
            "algorithm_version": ALGORITHM,
            "parameters_json": json.dumps(PARAMETERS),
        },
        files=[{"filename": "model.onnx", "digest": BLOB}, {"filename": "look.jpg", "digest": PICTURE}],  # type: ignore[list-item]
    ).SerializeToString()


async def test_the_migration_reads_what_model_versions_say(tmp_path: Path) -> None:
    """Which are released, what they were made from, which pictures they consist of; and nothing is deleted."""
    engine = database.create_engine(database.sqlite_url(tmp_path, "storage"))

    def before(connection: sa.Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0004")
        for statement in ROWS:
            connection.exec_driver_sql(statement)
        for number in (1, 2):
            document = version(number, released=number == 1)
            connection.exec_driver_sql(
                "INSERT INTO model_versions VALUES ('a', 'm', ?, ?, ?)", (number, f"j{number}", document)
            )

    async with database.transaction(engine) as connection:
        await connection.run_sync(before)
    tables = Database(engine, RequestLog())
    await tables.migrate()
    await tables.close()
    origins = "dataset_version, base_model, algorithm_version"
    found = f"SELECT number, released, {origins}, delete_time, purged FROM model_versions ORDER BY number"
    made_from = (DATASET_VERSION, BASE, ALGORITHM)
    assert select(tmp_path, found) == [(1, 1, *made_from, None, 0), (2, 0, *made_from, None, 0)]
    held = "SELECT kind, holder, filename, digest FROM {} ORDER BY holder, kind"
    names = [f"projects/a/models/m/versions/{number}" for number in (1, 2)]
    pictures = [("model", "look.jpg", PICTURE), ("parameters", "look", PICTURE)]
    assert select(tmp_path, held.format("held_pictures")) == [
        (each[0], n, *each[1:]) for n in names for each in pictures
    ]
    assert select(tmp_path, held.format("held_blobs")) == [("parameters", name, "weights", BLOB) for name in names]
    assert select(tmp_path, "SELECT COUNT(*) FROM blobs WHERE use_time < 1700000000") == [(0,)]


def select(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "storage.db")) as connection:
        return connection.execute(query).fetchall()


ROWS = (
    "INSERT INTO projects VALUES ('a', '0', '', 'accounts/anna', 1, 0, 1, 10, 1, 9, NULL, NULL)",
    "INSERT INTO packs VALUES ('k', 'a', 30, 0)",
    f"INSERT INTO pictures VALUES ('a', '{PICTURE}', 10, 'k', 0, 1, '', NULL, NULL)",
    f"INSERT INTO blobs VALUES ('a', '{BLOB}', 9, X'00', NULL)",
    "INSERT INTO models VALUES ('a', 'm', '0', 2, 1, 0)",
)
