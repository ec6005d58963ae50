"""The first schema of auth."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from loupe.idempotency import request_log_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table and the one row that holds the policy's revision."""
    _policy_tables()
    _account_tables()
    _session_tables()
    request_log_table(sa.MetaData()).create(op.get_bind())


def _policy_tables() -> None:
    op.create_table(
        "casbin_rule",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("ptype", sa.String(1), nullable=False),
        sa.Column("v0", sa.String(255), nullable=False),
        sa.Column("v1", sa.String(255), nullable=False),
        *(sa.Column(f"v{number}", sa.String(255)) for number in range(2, 6)),
    )
    for name, columns, kind in (
        ("casbin_rule_one_level", ["v0"], "p"),
        ("casbin_rule_one_group", ["v2", "v0"], "g"),
    ):
        where = sa.text(f"ptype = '{kind}'")
        op.create_index(name, "casbin_rule", columns, unique=True, sqlite_where=where, postgresql_where=where)
    op.create_index("casbin_rule_subject", "casbin_rule", ["v0"])
    op.create_index("casbin_rule_role", "casbin_rule", ["v1", "v0"])
    revisions = op.create_table(
        "policy_revision",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.bulk_insert(revisions, [{"id": 1, "revision": 1}])
    op.create_table(
        "policy_change",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
    op.create_table(
        "threshold",
        sa.Column("action", sa.String(63), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )


def _account_tables() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("uid", sa.String(36), nullable=False, unique=True),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "project",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("uid", sa.String(64), nullable=False, unique=True),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "account_group",
        sa.Column("project", sa.String(63), sa.ForeignKey("project.id"), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("uid", sa.String(36), nullable=False, unique=True),
        sa.Column("create_time", sa.Float, nullable=False),
    )


def _session_tables() -> None:
    op.create_table(
        "login",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("account", sa.String(63), sa.ForeignKey("account.id"), nullable=False, index=True),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("expire_time", sa.Float, nullable=False, index=True),
        sa.Column("revoke_time", sa.Float, index=True),
    )
    op.create_table(
        "refresh_token",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("login", sa.String(36), sa.ForeignKey("login.id"), nullable=False, index=True),
        sa.Column("expire_time", sa.Float, nullable=False),
        sa.Column("use_time", sa.Float),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", sa.String(36), primary_key=True),
        sa.Column("private", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
