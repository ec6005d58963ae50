"""Settings of the auth service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from loupe.settings import ServiceSettings


class AuthSettings(ServiceSettings):
    """What auth reads from its environment."""

    access_seconds: int = Field(default=600, ge=10)
    """Lifetime of an access token."""

    refresh_seconds: int = Field(default=30 * 86_400, ge=60)
    """Lifetime of a refresh token, counted anew at each refresh."""

    attempt_seconds: int = Field(default=86_400, ge=60)
    """Lifetime of a training attempt's token."""

    signing_key_seconds: int = Field(default=90 * 86_400, ge=3600)
    """Age at which a signing key is followed by a new one; it goes on verifying until its last token has expired."""

    admin_password_file: Path | None = None
    """File with the first administrator's password; written at the first start when it is not there."""

    public_nats_url: str = ""
    """URL under which terminals reach NATS; `nats_url` when empty."""

    nats_callout_seed_file: Path | None = None
    """File with the nkey seed (SA…) that signs NATS users. None: this process answers no auth callout."""

    nats_xkey_file: Path | None = None
    """File with the curve25519 private key (64 hex digits) that NATS seals its questions for."""

    nats_account: str = "LOUPE"
    """NATS account that terminals land in."""

    nats_sys_user: str = ""
    """User of NATS' system account, which cuts connections whose right is gone."""

    nats_sys_password_file: Path | None = None
    """File with the password of `nats_sys_user`."""

    keep_deleted_days: float = Field(default=30.0, ge=0, le=36_500)
    """How many days accounts can be restored once they are deleted."""

    collect_seconds: float = Field(default=3600.0, gt=0)
    """How far apart the passes are that purge what was deleted; the first one comes that long after the start."""

    audit_days: int = Field(default=400, ge=1)
    """How many days the rows of the audit log are kept."""
