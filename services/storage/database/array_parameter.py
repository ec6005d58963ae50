"""Queries over thousands of digests at once: one bound array instead of thousands of parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from services.storage.database.session import Session

# Built once: SQLAlchemy takes longer to build such a query than SQLite to answer it.
_JSON = sa.func.json_each(sa.bindparam("array", type_=sa.Text)).table_valued("value", name="listed")
_ARRAY = sa.func.unnest(sa.bindparam("array", type_=postgresql.ARRAY(sa.Text))).table_valued("value", name="listed")
_LISTED = {"sqlite": _JSON, "postgresql": _ARRAY.render_derived()}
_VALUES = {dialect: sa.select(listed.c.value) for dialect, listed in _LISTED.items()}


class ArrayParameter:
    """A list of values inside a query: `column.in_(array.values)`, run with `array.parameters`."""

    def __init__(self, session: Session, values: Sequence[str]) -> None:
        dialect = session.connection.dialect.name
        self.values = _VALUES[dialect]
        self.value = _LISTED[dialect].c.value
        self.parameters = {"array": json.dumps(list(values)) if dialect == "sqlite" else list(values)}
