"""Clearing old versions of a model away, so that a terminal that follows for years does not fill its disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from loupe.errors import Unavailable
from loupe.names import ModelName, ModelVersionName
from loupe.terminal.installed import MODEL_FILE, Installed, installed_versions, record_of
from loupe.terminal.locks import file_lock, unused


@dataclass
class Cleared:
    """The versions that were removed, and those that had to stay, each with why."""

    removed: list[ModelVersionName] = field(default_factory=list)
    kept: list[tuple[ModelVersionName, str]] = field(default_factory=list)


async def clear(model: ModelName, keep: int) -> Cleared:
    """Remove the released versions of a model from this machine, but the newest `keep`, which is at least 1.

    What was not released, and what somebody asked for by its number, was wanted, and is neither counted nor removed.
    What a `Classifier` of any process uses, or is being pulled, stays until the next time.
    """
    cleared = Cleared()
    for one in _old(await asyncio.to_thread(installed_versions, model), keep):
        try:
            why = await _remove(one)
        except OSError as error:
            why = error.strerror or str(error)
        if why:
            cleared.kept.append((one.name, why))
        else:
            cleared.removed.append(one.name)
    return cleared


def _old(versions: Sequence[Installed], keep: int) -> Sequence[Installed]:
    return [one for one in versions if one.released and not one.named][keep:]


async def _remove(version: Installed) -> str:
    """Remove a version, its record last; return why it stays, empty when it is gone. Raises OSError."""
    folder = version.folder
    leaving = folder.with_name(f".{folder.name}.old")
    try:
        async with file_lock(folder.with_name(f".{folder.name}.lock"), seconds=0.0):
            with unused(folder / MODEL_FILE) as free:
                if not free:
                    return "it is in use"
                shutil.rmtree(leaving, ignore_errors=True)
                folder.rename(leaving)
            await asyncio.to_thread(shutil.rmtree, leaving)
            record_of(folder).unlink(missing_ok=True)
    except Unavailable:
        return "it is being pulled"
    return ""
