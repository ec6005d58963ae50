"""`make bench`: every program of this folder, one after the other, each printing what it measured as JSON.

A program can be run by itself with other arguments: `python -m bench.upload --help`. Figures are ratios measured side
by side in one run; keep the machine quiet meanwhile.
"""

from __future__ import annotations

import subprocess
import sys

PROGRAMS = (
    ("authorize",),
    ("audit",),
    ("placement",),
    ("progress",),
    ("upload",),
    ("derived_version",),
    ("annotation_import",),
    ("collection",),
    ("training_loop", "--threads", "1", "--contended"),
    ("training_loop",),
    ("detection_loop",),
    ("precision",),
    ("threads",),
    ("export",),
    ("int8",),
    ("detection_terminal",),
    ("anomaly",),
    ("evaluate",),
    ("first_step",),
    ("folder_to_model", "--target", "0.99", "--size", "64"),
)


def main() -> int:
    """Run them all, and return 1 when any of them broke or missed a target that it checks itself."""
    failed = []
    for program, *arguments in PROGRAMS:
        print(f"\n{program} {' '.join(arguments)}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", f"bench.{program}", *arguments], check=False)
        if done.returncode:
            failed.append(program)
    if failed:
        print(f"\nbroke or missed their target: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
