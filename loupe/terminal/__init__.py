"""The terminal of a factory: the SDK (`Terminal`), the CLI `loupe`, classifier, detector. No torch, no server packages.

    from pathlib import Path
    from loupe.names import DatasetName
    from loupe.terminal import Classifier, ProfileStore, Terminal

    async with Terminal.connect(ProfileStore()) as loupe:
        pushed = await loupe.datasets.push(DatasetName("line-7", "screws"), Path("pictures/"))
        job = await loupe.jobs.submit(pushed.version.name, target=0.97)
        async for event in loupe.jobs.watch(job.name):
            print(event)
        pulled = await loupe.models.pull("projects/line-7/models/screws/versions/latest")
    print(*Classifier(pulled.folder).classify([Path("part.png")]))

Names are loaded when they are first used, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loupe.terminal.classifier import Classifier
    from loupe.terminal.client import Terminal
    from loupe.terminal.detector import Detector
    from loupe.terminal.inspector import Inspector
    from loupe.terminal.picture_source import read_pictures
    from loupe.terminal.profile import Profile, ProfileStore

_HOMES = {
    "Terminal": "loupe.terminal.client",
    "ProfileStore": "loupe.terminal.profile",
    "Profile": "loupe.terminal.profile",
    "Classifier": "loupe.terminal.classifier",
    "Detector": "loupe.terminal.detector",
    "Inspector": "loupe.terminal.inspector",
    "read_pictures": "loupe.terminal.picture_source",
}

__all__ = ["Classifier", "Detector", "Inspector", "Profile", "ProfileStore", "Terminal", "read_pictures"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
