"""What `loupe train` and `loupe job …` are told of a job: options, and what the texts in them mean."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.frame import Cli, within
from loupe.terminal.commands.lazy import errors
from loupe.terminal.progress import send_bar

if TYPE_CHECKING:
    from loupe.terminal.client import Terminal

MAX_INT32, MAX_INT64 = (1 << 31) - 1, (1 << 63) - 1
MAX_MINUTES = 527_040.0
"""A year; `loupe.terminal.jobs` checks the same without loading typer."""

TARGET_HELP = (
    "When training is done: 0.97 of the validation pictures are right; or balanced_accuracy=0.95; or "
    "lowest_recall=0.9: of each class so many are found; or recall[crack]=0.99: of that one. Of a detector, 0.7 or "
    "map50=0.7: the mean average precision; or map=0.4, ap50[crack]=0.8."
)
PRIORITY_HELP = (
    "Orders the jobs of one project, a higher one first; at most your group's permission parameter. "
    "Projects take turns."
)
within_seeds = within(-MAX_INT64 - 1, MAX_INT64)
within_priorities = within(0, 100)
within_minutes = within(0.1, MAX_MINUTES)

LabelsOption = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="Finds the job again: line=7; repeatable."),
]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Follow the job to its end; exit 3 below the target.")]
NoInstallOption = Annotated[
    bool, typer.Option("--no-install", help="With --watch: do not bring the released model to this machine.")
]


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Read name=value pairs: numbers, true and false as such, everything else as text. Raises InvalidArgument.

    >>> parse_parameters(["epochs=20", "freeze=true", "backbone=resnet18"])
    {'epochs': 20, 'freeze': True, 'backbone': 'resnet18'}
    """
    exact = 1 << 53  # the contract carries numbers as doubles
    parameters: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise errors.invalid("param", text, "NAME=VALUE, for example --param epochs=20")
        parameters[name] = value
        with contextlib.suppress(ValueError, RecursionError):
            read = json.loads(value)
            if isinstance(read, int) and abs(read) > exact:
                raise errors.invalid("param", text, f"a whole number from -{exact} to {exact}")
            if isinstance(read, (int, bool)) or (isinstance(read, float) and math.isfinite(read)):
                parameters[name] = read
    return parameters


def parse_changes(texts: list[str]) -> dict[str, Any]:
    """Read name=value pairs as parse_parameters does, and `name-`, which is None. Raises InvalidArgument.

    >>> parse_changes(["size=128", "epochs-"])
    {'epochs': None, 'size': 128}
    """
    taken = {text.removesuffix("-"): None for text in texts if _takes_away(text)}
    return taken | parse_parameters([text for text in texts if not _takes_away(text)])


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Read key=value pairs. Raises InvalidArgument.

    >>> parse_labels(["line=7", "shift=late"])
    {'line': '7', 'shift': 'late'}
    """
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise errors.invalid("label", text, "KEY=VALUE, for example line=7")
        if labels.setdefault(key, value) != value:
            raise errors.invalid("label", text, f"one value of {key}")
    return labels


def relabelled(labels: Mapping[str, str], texts: list[str]) -> dict[str, str]:
    """Return labels with changes: key=value sets one, `key-` takes one away. Raises InvalidArgument.

    >>> relabelled({"line": "6", "old": "x"}, ["line=7", "old-"])
    {'line': '7'}
    """
    given = parse_labels([text for text in texts if not _takes_away(text)])
    taken = {text.removesuffix("-") for text in texts if _takes_away(text)}
    for key in taken & given.keys():
        raise errors.invalid("label", f"{key}-", f"either {key}=VALUE or {key}-")
    return {key: value for key, value in labels.items() if key not in taken} | given


def _takes_away(text: str) -> bool:
    return "=" not in text and len(text) > 1 and text.endswith("-")


async def with_files(
    cli: Cli, loupe: Terminal, project: str, algorithm_version: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return parameters with the digest of each file that is named as "@FILE"; the files are pushed."""
    from loupe.tasks import DEFAULT
    from loupe.terminal.file_parameters import named_files, push_named_files

    if not named_files(parameters):
        return dict(parameters)
    algorithm = await loupe.algorithms.version(algorithm_version or f"algorithms/{DEFAULT.algorithm}/versions/latest")
    with send_bar(cli.messages, cli.watched) as show:
        return await push_named_files(loupe.blobs, project, algorithm, parameters, show)
