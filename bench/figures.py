"""Figures as every bench makes and prints them."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def budget_arguments(about: str | None) -> argparse.ArgumentParser:
    """Make the arguments of a program that trains a model within a time: data, seconds, size, threads and seed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with splits.csv")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """Return the median of the quotients of neighbours: what slows the machine for a while slows both."""
    return round(statistics.median(one / other for one, other in zip(above, below, strict=True)), 3)


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the unordered values lie."""
    return sorted(values)[min(int(len(values) * fraction), len(values) - 1)]


def print_worst(bench: str, rows: Iterable[dict[str, Any]], figure: str, wanted: float) -> None:
    """Print each network's row to stderr as it comes, then all of them and the lowest `figure` as one JSON object."""
    seen = []
    for row in rows:
        seen.append(row)
        print(json.dumps(row), file=sys.stderr)
    worst = min(row[figure] for row in seen)
    print(json.dumps({"bench": bench, "networks": seen, "worst": worst, "wanted": wanted}))
