"""The tables of auth; times are seconds since 1970 (UTC)."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from loupe.idempotency import request_log_table


class Base(DeclarativeBase):
    """Carries the metadata of all tables."""

    metadata = MetaData()


class PolicyRule(Base):
    """A row of Casbin's policy, in the columns that casbin-async-sqlalchemy-adapter expects.

    p rows: v0 = role, v1 = level. g rows: v0 = user, v1 = role, v2 = project. The partial indexes make a group with
    two levels, and an account in two groups of a project, impossible.
    """

    __tablename__ = "casbin_rule"
    __table_args__ = (
        Index("casbin_rule_one_level", "v0", unique=True, sqlite_where=text("ptype = 'p'"),
              postgresql_where=text("ptype = 'p'")),
        Index("casbin_rule_one_group", "v2", "v0", unique=True, sqlite_where=text("ptype = 'g'"),
              postgresql_where=text("ptype = 'g'")),
        Index("casbin_rule_subject", "v0"),
        Index("casbin_rule_role", "v1", "v0"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    ptype: Mapped[str] = mapped_column(String(1))
    v0: Mapped[str] = mapped_column(String(255))
    v1: Mapped[str] = mapped_column(String(255))
    v2: Mapped[str | None] = mapped_column(String(255))
    v3: Mapped[str | None] = mapped_column(String(255))
    v4: Mapped[str | None] = mapped_column(String(255))
    v5: Mapped[str | None] = mapped_column(String(255))


_metadata = Base.metadata

policy_revision = Table(
    "policy_revision",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", Integer, nullable=False),
)
"""One row (id 1): the number of the newest change. Its lock puts policy changes in order."""

policy_change = Table(
    "policy_change",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", Integer, nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("project", String(63), nullable=False),
    Column("key", String(63), nullable=False),
    Column("time", Float, nullable=False),
)
"""What each revision changed, so that a process in memory follows without reading everything again."""

account = Table(
    "account",
    _metadata,
    Column("id", String(63), primary_key=True),
    Column("uid", String(36), nullable=False, unique=True),
    Column("display_name", String(200), nullable=False),
    Column("password_hash", String(200), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("create_time", Float, nullable=False),
)

project = Table(
    "project",
    _metadata,
    Column("id", String(63), primary_key=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("create_time", Float, nullable=False),
)

account_group = Table(
    "account_group",
    _metadata,
    Column("project", String(63), ForeignKey("project.id"), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("uid", String(36), nullable=False, unique=True),
    Column("create_time", Float, nullable=False),
)
"""Groups; their permission parameter is the level of their p row, their members are their g rows."""

threshold = Table(
    "threshold",
    _metadata,
    Column("action", String(63), primary_key=True),
    Column("value", Integer, nullable=False),
)
"""Thresholds that differ from the contract's default."""

login = Table(
    "login",
    _metadata,
    Column("id", String(36), primary_key=True),
    Column("account", String(63), ForeignKey("account.id"), nullable=False, index=True),
    Column("create_time", Float, nullable=False),
    Column("expire_time", Float, nullable=False, index=True),
    Column("revoke_time", Float, index=True),
)

refresh_token = Table(
    "refresh_token",
    _metadata,
    Column("digest", String(64), primary_key=True),
    Column("login", String(36), ForeignKey("login.id"), nullable=False, index=True),
    Column("expire_time", Float, nullable=False),
    Column("use_time", Float),
)
"""Refresh tokens by their sha256; a used one stays, so that a replay is recognised."""

signing_key = Table(
    "signing_key",
    _metadata,
    Column("kid", String(36), primary_key=True),
    Column("private", LargeBinary, nullable=False),
    Column("create_time", Float, nullable=False),
)
"""Ed25519 private keys, 32 bytes each; the newest signs, the others still verify."""

request_log = request_log_table(_metadata)
