"""`make lint`: style and format, the contract, who may import whom, and types. All run; the quick ones first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_PROTOS = "protos"


def main() -> int:
    """Run every check, also after one has failed; return 1 when any has."""
    failed = []
    for name, (program, *arguments) in checks().items():
        print(f"lint: {name}", file=sys.stderr, flush=True)
        if subprocess.run([_BIN / program, *arguments], cwd=ROOT, check=False).returncode:
            failed.append(name)
    for name in failed:
        print(f"lint: {name} failed", file=sys.stderr)
    return 1 if failed else 0


def checks() -> dict[str, list[str]]:
    """Return the command of every check by the check's name."""
    commands = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "buf lint": ["buf", "lint", _PROTOS],
    }
    if reference := _reference():
        against = f".git#ref={reference},subdir={_PROTOS}"
        commands[f"buf breaking against {reference}"] = ["buf", "breaking", _PROTOS, "--against", against]
    else:
        print(
            "lint: buf breaking is left out: neither origin/main nor main holds protos to compare with", file=sys.stderr
        )
    return commands | {
        "import-linter": ["lint-imports", "--no-logo"],
        "mypy": ["mypy"],
        "mypy of the tests": ["mypy", "--config-file", "tests/mypy.ini"],
    }


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
