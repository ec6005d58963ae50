"""Where a mesh is reached, for a terminal, a tool or a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import DeployError
from deploy.local.state import StateDirectory


@dataclass(frozen=True)
class MeshEndpoints:
    """What a terminal or a test needs to reach a mesh."""

    auth: str
    """host:port where terminals log in; TLS by `ca`. Empty where the mesh has no auth process."""
    public: Mapping[str, str]
    """host:port for terminals, by service."""
    internal: Mapping[str, str]
    """host:port for mutual TLS, by process."""
    ca: Path
    """PEM of the mesh's certificate authority."""
    tls: Path
    """Folder with <process>.pem and <process>.key; `deploy` is the certificate for tools like this one."""
    consul_url: str
    nats_url: str
    admin_password_file: Path
    """File that auth wrote the first administrator's password to, or that the operator put there before."""

    @classmethod
    def of(cls, state: StateDirectory, processes: Sequence[str], ports: Mapping[str, int]) -> MeshEndpoints:
        """Return where these processes are reached at the settled ports; ports that are not settled are left out."""

        def places(suffix: str) -> dict[str, str]:
            return {
                name: f"127.0.0.1:{port}" for name in processes if (port := ports.get(f"{name}-{suffix}")) is not None
            }

        public = places("public")
        return cls(
            auth=public.get("auth", ""),
            public=public,
            internal=places("internal"),
            ca=state.tls / "ca.pem",
            tls=state.tls,
            consul_url=f"http://127.0.0.1:{ports['consul-http']}" if "consul-http" in ports else "",
            nats_url=f"tls://127.0.0.1:{ports['nats']}" if "nats" in ports else "",
            admin_password_file=state.secret("admin-password"),
        )

    @property
    def admin_password(self) -> str:
        """The first administrator's password; DeployError while auth has not written it."""
        try:
            return self.admin_password_file.read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise DeployError(f"auth has not written {self.admin_password_file} yet") from error

    def document(self) -> dict[str, object]:
        """Return what mesh.json says about them."""
        return {
            "auth": self.auth,
            "public": dict(self.public),
            "internal": dict(self.internal),
            "consul": self.consul_url,
            "nats": self.nats_url,
            "ca": str(self.ca),
        }
