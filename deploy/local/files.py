"""Files that only their owner may read, written so that a reader sees the old content or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def private_directory(path: Path) -> Path:
    """Make `path` and its missing parents (mode 0700), and return it."""
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: str | bytes) -> None:
    """Replace `path` (mode 0600) in one step, and on disk before it returns."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_if_changed(path: Path, content: str | bytes) -> bool:
    """Write like write_private when the content differs; True when it wrote."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data:
        path.chmod(0o600)
        return False
    write_private(path, data)
    return True


def ensure_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in `path`; where there is none yet, `make` gives it and it is kept."""
    if path.exists():
        path.chmod(0o600)
        kept = path.read_text(encoding="utf-8").strip()
        if kept:
            return kept
    secret = make()
    write_private(path, secret + "\n")
    return secret
