"""`make lock`: the lock files anew, every package that pyproject.toml may bring, pinned by hash, no index address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
BENCH_LOCK = "bench/requirements.lock"
_UV = Path(sys.executable).parent / "uv"
_OPTIONS = (
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--no-annotate",
    "--universal",
    "--python-version=3.11",
    "--quiet",
)


def main(arguments: list[str]) -> int:
    """Resolve both files; what they pin already stays unless `--upgrade` is an argument."""
    upgrade = ["--upgrade"] if "--upgrade" in arguments else []
    for options in (["--extra=dev", "-o", LOCK], ["--extra=bench", "-c", LOCK, "-o", BENCH_LOCK]):
        command: list[str | Path] = [_UV, "pip", "compile", "pyproject.toml", *_OPTIONS, *upgrade, *options]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
