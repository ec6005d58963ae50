"""Keeping the pictures that no class was likely enough for: labelled and pushed, they make the next model better."""

from __future__ import annotations

import hashlib
from pathlib import Path

from loupe.terminal.classifier import Prediction


class UnknownPictures:
    """Copies pictures into a folder, byte for byte, each once and under its own name. Raises OSError.

    count: how many of them were met.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.count = 0

    def keep(self, prediction: Prediction) -> Path | None:
        """Copy the picture where its answer is unknown, and return where it is; None for every other answer."""
        if not prediction.unknown:
            return None
        data = prediction.path.read_bytes()
        self.count += 1
        target = self.folder / prediction.path.name
        if target.exists() and target.read_bytes() != data:
            # Another one of that name: what stands here already is never lost.
            target = target.with_name(f"{target.stem}.{hashlib.sha256(data).hexdigest()[:12]}{target.suffix}")
        if not target.exists():
            partial = target.with_name(f".{target.name}.part")
            partial.write_bytes(data)
            partial.replace(target)
        return target

    def told(self) -> str:
        """Say how many there are and what to do with them."""
        pictures = "1 unknown picture is" if self.count == 1 else f"{self.count} unknown pictures are"
        return f"{pictures} in {self.folder}: sort them into a folder per class, and push these with the others"
