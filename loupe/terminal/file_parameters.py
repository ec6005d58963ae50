"""Parameters of a job that are files: pushed, and given by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loupe.algorithm.manifest import BadManifest, parse_manifest
from loupe.errors import BadAlgorithm
from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
from loupe.terminal.blobs import Blobs, Show

MARK = "@"


def named_files(parameters: Mapping[str, Any]) -> dict[str, Path]:
    """Return the parameters that look like files, "@weights.safetensors"; which are, the algorithm says."""
    return {
        name: Path(value.removeprefix(MARK))
        for name, value in parameters.items()
        if isinstance(value, str) and value.startswith(MARK) and value != MARK
    }


async def push_named_files(
    blobs: Blobs, project: str, algorithm: AlgorithmVersion, parameters: Mapping[str, Any], show: Show
) -> dict[str, Any]:
    """Push each "@FILE" given for a parameter of type "file", and return the parameters with its digest instead.

    Other texts may begin with the mark, and stay as they are. Raises as Blobs.push does, and BadAlgorithm.
    """
    try:
        declared = parse_manifest(algorithm.manifest_toml).parameters
    except BadManifest as error:
        raise BadAlgorithm(f"{algorithm.name}: {error}", problem="manifest") from error
    files = {
        name: path
        for name, path in named_files(parameters).items()
        if name in declared and declared[name].type == "file"
    }
    pushed = await blobs.push(project, list(files.values()), show=show) if files else []
    return {**parameters, **{name: one.digest for name, one in zip(files, pushed, strict=True)}}
