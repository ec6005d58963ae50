"""Everything that `make lint` checks: style and format of the code, and the contract's style and compatibility."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_PROTOS = "protos"


def main() -> int:
    """Run every check, also after one has failed; 1 when any has."""
    checks = {
        "ruff check": [_BIN / "ruff", "check", "."],
        "ruff format": [_BIN / "ruff", "format", "--check", "."],
        "buf lint": [_BIN / "buf", "lint", _PROTOS],
    }
    against = _reference()
    if against is None:
        print(
            "lint: buf breaking is left out: neither origin/main nor main holds protos to compare with", file=sys.stderr
        )
    else:
        checks[f"buf breaking against {against}"] = [
            _BIN / "buf",
            "breaking",
            _PROTOS,
            "--against",
            f".git#ref={against},subdir={_PROTOS}",
        ]
    failed = [name for name, command in checks.items() if subprocess.run(command, cwd=ROOT, check=False).returncode]
    for name in failed:
        print(f"lint: {name} failed", file=sys.stderr)
    return 1 if failed else 0


def _reference() -> str | None:
    """Return the published main branch, or the local one in a clone without a remote; None without protos."""
    for reference in ("origin/main", "main"):
        found = subprocess.run(
            ["git", "cat-file", "-e", f"{reference}:{_PROTOS}"], cwd=ROOT, check=False, capture_output=True
        )
        if found.returncode == 0:
            return reference
    return None


if __name__ == "__main__":
    sys.exit(main())
