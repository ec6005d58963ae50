"""Settings that every service reads the same way: from environment variables named LOUPE_<FIELD>."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What all four services need; each adds its own fields in its settings.py."""

    model_config = SettingsConfigDict(env_prefix="LOUPE_", frozen=True, extra="ignore")

    state: Path
    """Folder that belongs to this process alone: database, files, caches."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    advertise: str = ""
    """Host name or address that others reach this process under; `host` when empty."""

    public_port: int = 0
    """Port for terminals: TLS and a bearer token. 0: this process has no public door (trainers)."""

    internal_port: int
    """Port for services: mutual TLS, the client certificate's URI names the caller."""

    metrics_port: int = 0
    """Port of the Prometheus page, loopback only. 0: none."""

    tls_ca: Path
    """PEM of the certificate authority that signed every certificate of this mesh."""

    tls_cert: Path
    """PEM chain of this process; SAN URI `loupe://service/<name>` or `loupe://trainer/<cluster>/<trainer>`, and SAN DNS
    `<name>.service.loupe.internal` or `<trainer>.<cluster>.trainer.loupe.internal`, by which its callers know it."""

    tls_key: Path
    """PEM private key of `tls_cert`."""

    consul_url: str = "http://127.0.0.1:8500"
    """Base URL of the Consul agent."""

    consul_token_file: Path | None = None
    """File with this process's Consul ACL token; None where Consul runs without ACLs."""

    nats_url: str = "nats://127.0.0.1:4222"
    """URL of the NATS server."""

    nats_user: str = ""
    """This process's NATS user."""

    nats_password_file: Path | None = None
    """File with the password of `nats_user`."""

    database_url: str = ""
    """SQLAlchemy async URL; a SQLite file inside `state` when empty."""

    log_level: str = "info"
    """debug, info, warning or error."""

    log_json: bool = True
    """One JSON object a line; False gives coloured text for a person."""

    drain_seconds: float = Field(default=5.0, ge=0)
    """How long a stopping server lets running RPCs end."""

    @property
    def advertised(self) -> str:
        """The host that others use."""
        return self.advertise or self.host

    def secret(self, file: Path | None) -> str | None:
        """Return a secret file's content without surrounding white space; None for None."""
        return file.read_text(encoding="utf-8").strip() if file else None
