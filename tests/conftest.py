"""What tests of every room share: certificates, settings of a service under test."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.certificates import Leaf, ensure_certificates
from loupe import database
from loupe.settings import ServiceSettings
from tests.ports import free_port

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A room's tests stay in one process: they share fixtures, user ids of sandboxes, and a machine of two cores."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).parts[0]))


def is_new(engine: AsyncEngine, device: int) -> bool:
    """Tell whether a database is a SQLite file on this device that nobody has opened yet."""
    file = Path(engine.url.database or "")
    new = engine.dialect.name == "sqlite" and file.parent.is_dir() and not file.exists()
    return new and file.parent.stat().st_dev == device


@pytest.fixture(scope="session", autouse=True)
def migrations_run_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever opens a SQLite database that is not there gets a copy of what the service's migrations make.

    Not on a file system of a test's own, where it matters what is in the database's log.
    """
    migrated: dict[Path, Path] = {}
    usual = tmp_path_factory.getbasetemp().stat().st_dev

    async def migrate(engine: AsyncEngine, migrations: Path) -> None:
        if not is_new(engine, usual):
            return await database.migrate(engine, migrations)
        if migrations not in migrated:
            folder = tmp_path_factory.mktemp("migrated")
            template = database.create_engine(database.sqlite_url(folder, "template"))
            await database.migrate(template, migrations)
            await template.dispose()
            migrated[migrations] = folder / "template.db"
        shutil.copy(migrated[migrations], str(engine.url.database))

    with pytest.MonkeyPatch.context() as patch:
        for service in ("auth", "scheduler", "storage"):
            if (session := sys.modules.get(f"services.{service}.database.session")) is not None:
                patch.setattr(session, "migrate", migrate)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once() -> Iterator[None]:
    """Typer builds all commands of an app anew at each call, which takes longer than most calls do."""
    with pytest.MonkeyPatch.context() as patch:
        if (testing := sys.modules.get("typer.testing")) is not None:
            patch.setattr(testing, "_get_command", functools.cache(testing._get_command))
        yield


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem and <name>.pem, <name>.key for every kind of process."""
    folder = tmp_path_factory.mktemp("tls")
    leaves = [Leaf(name, f"loupe://service/{name}") for name in ("auth", "storage", "scheduler", "deploy")]
    trainers = {"trainer-north-a": "north/a", "trainer-south-b": "south/b"}
    leaves += [Leaf(name, f"loupe://trainer/{trainer}") for name, trainer in trainers.items()]
    ensure_certificates(folder, leaves, datetime.now(UTC))
    return folder


@pytest.fixture
def service_settings(tls: Path, tmp_path: Path) -> Callable[..., Any]:
    """A function that makes settings for a process by its certificate's name; fields may be overridden."""

    def make(name: str, kind: type[Any] = ServiceSettings, **fields: Any) -> Any:
        state = tmp_path / name
        state.mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "state": state,
            "public_port": 0 if name.startswith("trainer") else free_port(),
            "internal_port": free_port(),
            "tls_ca": tls / "ca.pem",
            "tls_cert": tls / f"{name}.pem",
            "tls_key": tls / f"{name}.key",
            "drain_seconds": 0.2,
        }
        return kind(**{**values, **fields})

    return make
