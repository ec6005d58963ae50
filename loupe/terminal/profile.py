"""What a terminal remembers between commands: where the mesh is, its authority, and the tokens of one login."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from loupe.errors import FailedPrecondition, Unauthenticated
from loupe.terminal.locks import file_lock
from loupe.terminal.whole_files import write_whole

VARIABLE = "LOUPE_PROFILE"
LARGEST = 1 << 20
"""The bytes of a profile: tokens and a few certificates."""


@dataclass(frozen=True)
class Profile:
    """One login at one mesh.

    server: "host:port" of auth's public door; the others are asked from it. ca: PEM text of the mesh's authority.
    account: "accounts/{account}". project: the default project's id. access_expires: seconds since the epoch by this
    machine's clock. Empty tokens: logged out. refresh_request: the id of a refresh whose answer has not come.
    """

    server: str
    ca: str
    account: str = ""
    project: str = ""
    access_token: str = ""
    access_expires: float = 0.0
    refresh_token: str = ""
    refresh_request: str = ""

    def __repr__(self) -> str:
        # Tokens must not reach logs or tracebacks.
        return f"Profile(server={self.server!r}, account={self.account!r}, project={self.project!r})"

    def logged_out(self) -> Profile:
        """Return the same profile without its tokens."""
        return replace(self, access_token="", access_expires=0.0, refresh_token="", refresh_request="")


def default_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return $LOUPE_PROFILE, or profile.json in the user's configuration folder."""
    if chosen := environment.get(VARIABLE):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_config_dir("loupe")) / "profile.json"


def _parse(data: bytes) -> Profile:
    """Read a profile's bytes. Raises ValueError, TypeError or AttributeError for what is none."""
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    known = {field.name: field for field in fields(Profile)}
    values = {key: value for key, value in json.loads(data.decode("utf-8")).items() if key in known}
    for key, value in values.items():
        if not isinstance(value, (int, float) if key == "access_expires" else str):
            raise TypeError(f"{key} is {value!r}")
    return Profile(**values)


class ProfileStore:
    """Keeps a profile in a file that only its owner can read."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def load(self) -> Profile:
        """Return the profile.

        Raises Unauthenticated when there is none, FailedPrecondition when others may read it, or it cannot be read, or
        it is no profile.
        """
        try:
            data = self._read()
        except FileNotFoundError as error:
            raise Unauthenticated(
                f"not logged in: {self.path} does not exist; run `loupe login --server HOST:PORT --ca FILE ACCOUNT`",
                problem="no_profile",
            ) from error
        except OSError as error:
            raise FailedPrecondition(
                f"{self.path} cannot be read ({(error.strerror or str(error)).lower()}); "
                "name another file with --profile or $LOUPE_PROFILE",
                resource=self.path,
                state="unreadable",
            ) from error
        try:
            return _parse(data)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise FailedPrecondition(
                f"{self.path} is not a Loupe profile; remove it and log in again, or name another file with --profile",
                resource=self.path,
                state="damaged",
            ) from error

    def _read(self) -> bytes:
        # A pipe that nobody writes to must not be waited for.
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no file"
                raise FailedPrecondition(
                    f"{self.path} is {kind}; name the file of the login with --profile or $LOUPE_PROFILE",
                    resource=self.path,
                    state=kind,
                )
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise FailedPrecondition(
                    f"{self.path} holds tokens and can be read by others (mode {mode:04o}); "
                    f"run `chmod 600 {self.path}`, then log in again",
                    resource=self.path,
                    state=f"mode {mode:04o}",
                )
            return file.read(LARGEST + 1)

    def save(self, profile: Profile) -> None:
        """Write the profile, mode 0600: readers see the old one or the new one, never half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.path, json.dumps(asdict(profile)))

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Keep other processes of this machine from refreshing the same login at the same time."""
        return file_lock(self.path.with_name(f"{self.path.name}.lock"))
