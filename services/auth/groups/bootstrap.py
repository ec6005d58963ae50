"""The first start: the system's groups, and the first administrator."""

from __future__ import annotations

import os
import secrets
import uuid
from pathlib import Path

from loupe.names import SYSTEM
from services.auth.accounts.passwords import Passwords, check_strength
from services.auth.accounts.store import AccountRow, AccountTable
from services.auth.database.session import Database
from services.auth.groups.groups import add_project
from services.auth.groups.store import GroupTable
from services.auth.policy.delegation import ADMINISTRATORS
from services.auth.policy.store import RuleTable

ADMIN = "admin"
SYSTEM_GROUPS = {ADMINISTRATORS.group: 100, "staff": 30}
"""The groups of the system with their permission parameters."""


async def bootstrap(database: Database, passwords: Passwords, password_file: Path | None) -> str | None:
    """Make the system's groups and accounts/admin in its administrators, once.

    The password is what `password_file` holds; without such a file one is generated, written there with mode 0600
    and returned, so that it can be shown once.
    """
    async with database.read() as session:
        if await GroupTable(session).project_uid(SYSTEM) is not None:
            return None
    password, generated = _first_password(password_file)
    password_hash = await passwords.hash(password, ADMIN)
    async with database.write() as session:
        if await GroupTable(session).project_uid(SYSTEM) is not None:
            return None
        await add_project(session, SYSTEM, str(uuid.uuid4()), SYSTEM_GROUPS)
        row = AccountRow(ADMIN, str(uuid.uuid4()), "Administrator", password_hash, False, session.now)
        await AccountTable(session).add(row)
        await RuleTable(session).set_member(SYSTEM, ADMIN, ADMINISTRATORS.group)
    return password if generated else None


def _first_password(file: Path | None) -> tuple[str, bool]:
    """Return the password and whether it was made here; the file is durable before it is used."""
    if file is not None and file.exists():
        password = file.read_text(encoding="utf-8").strip()
        check_strength(password)
        return password, False
    password = secrets.token_urlsafe(18)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(password + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    return password, True
