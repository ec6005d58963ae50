"""How long a thing is there: until it is deleted, then for as long as it can be restored, then by its name only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from loupe.lifetimes import THERE

READING_SECONDS = 7 * 24 * 3600.0
"""For how long what is deleted stays at least once a training attempt has begun to read it."""


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """When a thing was deleted and until when it can be restored, in wall-clock seconds; None: it is not deleted."""

    delete_time: float | None = None
    expire_time: float | None = None
    purged: int = THERE

    @property
    def deleted(self) -> bool:
        """Whether it is deleted, purged or not."""
        return self.delete_time is not None

    @property
    def restorable(self) -> bool:
        """Whether it is deleted and can still be restored."""
        return self.deleted and self.purged == THERE

    def visible(self, *, show_deleted: bool) -> bool:
        """Say whether a reader sees it."""
        return self.purged == THERE and (show_deleted or not self.deleted)


def lifetime_columns() -> list[sa.Column[Any]]:
    """Declare the columns of a Lifetime, for a table of things that can be deleted."""
    return [
        sa.Column("delete_time", sa.Float),
        sa.Column("expire_time", sa.Float),
        sa.Column("purged", sa.SmallInteger, nullable=False, default=THERE, server_default="0"),
    ]


def visible(table: sa.Table, *, show_deleted: bool) -> sa.ColumnElement[bool]:
    """Return the condition on what a reader sees."""
    return table.c.purged == THERE if show_deleted else table.c.delete_time.is_(None)


def list_scope(listed: str, *, show_deleted: bool) -> str:
    """Return the scope of page tokens: pages with and without deleted things are those of two lists."""
    return f"{listed}, deleted ones too" if show_deleted else listed
