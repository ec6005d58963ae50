"""Which part of a picture an answer rests on, by occlusion: a grey patch wanders over it, and the probability falls.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2. It needs nothing of the
model but its answers: at most MOST_PATCHES + 1 of them a picture, in the classifier's batches.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe import picture
from loupe.terminal.classifier import Classifier
from loupe.terminal.decoding import read_picture
from loupe.terminal.model_folder import BATCH

if TYPE_CHECKING:
    from PIL import Image

STEPS = 12
"""How often the patch moves across a picture, and down; it is a sixth of the picture wide and high."""
MOST_PATCHES = (STEPS + 1) ** 2
SHOWN_SIDES = (256, 1024)
"""The longer side of an explanation in pixels: at least, at most."""
LONGEST_STEM = 50
"""The characters of a file name that its explanation keeps: names are at most 255 bytes long."""
FAINTEST = 0.01
"""A fall of the probability below this is not coloured in: it means nothing."""
TURNED = (5, 6, 7, 8)
"""The values of EXIF's orientation for which height and width change places."""
HOT = np.array([255.0, 40.0, 0.0], np.float32)


@dataclass(frozen=True)
class Saliency:
    """What an answer rests on.

    heat: float32 [height, width] of the model's input, how far the probability of the answer falls when a pixel's
    surroundings are hidden, averaged over the patches that hide it; never below 0. greatest: the largest fall that one
    patch causes, 0 to 1.
    """

    heat: np.ndarray
    greatest: float


def saliency(classifier: Classifier, pixels: np.ndarray) -> Saliency:
    """Return what the classifier's answer rests on, for uint8 [height, width, 3] of the model's size.

    The patch has the picture's own mean colour: black or white would be a feature of their own.
    """
    height, width = pixels.shape[:2]
    whole = classifier.probabilities(pixels[None])[0]
    answer = int(whole.argmax())
    mean = pixels.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    boxes = _boxes(height, width)
    falls = np.zeros(len(boxes), np.float32)
    for start in range(0, len(boxes), BATCH):
        part = boxes[start : start + BATCH]
        hidden = np.repeat(pixels[None], len(part), axis=0)
        for one, (top, bottom, left, right) in zip(hidden, part, strict=True):
            one[top:bottom, left:right] = mean
        falls[start : start + len(part)] = whole[answer] - classifier.probabilities(hidden)[:, answer]
    total, times = np.zeros((2, height, width), np.float32)
    for fall, (top, bottom, left, right) in zip(falls, boxes, strict=True):
        total[top:bottom, left:right] += max(0.0, float(fall))
        times[top:bottom, left:right] += 1
    return Saliency(total / np.maximum(times, 1), max(0.0, float(falls.max())))


def _boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return where the patches are: top, bottom, left, right. Together they hide every pixel."""
    return [(top, bottom, left, right) for top, bottom in _spans(height) for left, right in _spans(width)]


def _spans(side: int) -> list[tuple[int, int]]:
    reach = max(1, math.ceil(side / STEPS))
    middles = sorted({round(step * side / STEPS) for step in range(STEPS + 1)})
    spans = {(max(0, middle - reach), min(side, middle + reach)) for middle in middles}
    return sorted(spans)


def explained(path: Path, found: Saliency) -> Image.Image:
    """Return the picture, upright and in grey, with what the answer rests on in red over it.

    Where nothing mattered much, nothing is coloured in. Raises BadPicture and OSError.
    """
    share = np.float32(0.7 if found.greatest >= FAINTEST else 0.0)
    return overlaid(path, share * (found.heat / max(float(found.heat.max()), FAINTEST)))


def overlaid(path: Path, strength: np.ndarray) -> Image.Image:
    """Return the picture, upright and in grey, with red over it. strength: of the red, float32 [h, w], 0 to 1.

    It is as large as the picture itself within SHOWN_SIDES. Raises BadPicture and OSError.
    """
    from PIL import Image

    data = read_picture(path)
    height, width = _shown_size(data)
    shown = picture.decode(data, height, width).astype(np.float32)
    heat = Image.fromarray(strength).resize((width, height), Image.Resampling.BILINEAR)
    red = np.asarray(heat, np.float32)[..., None].clip(0.0, 1.0)
    grey = shown.mean(axis=2, keepdims=True) * np.ones(3, np.float32)
    return Image.fromarray((grey * (1 - red) + HOT * red).round().clip(0, 255).astype(np.uint8))


def _shown_size(data: bytes) -> tuple[int, int]:
    """Return height and width of an explanation, with the picture's own proportions."""
    from PIL import ExifTags, Image

    picture.check_header(data)
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
        width, height = (image.height, image.width) if turned else image.size
    scale = min(1.0, SHOWN_SIDES[1] / max(height, width)) * max(1.0, SHOWN_SIDES[0] / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class Explanations:
    """Writes the explanations of pictures into a folder, each under a name of its own. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: dict[str, Path] = {}

    def write(self, classifier: Classifier, path: Path) -> Path | None:
        """Write why a picture got its answer, and return where; None for one that can no longer be read."""
        try:
            pixels = picture.decode(read_picture(path), classifier.height, classifier.width)
            drawn = explained(path, saliency(classifier, pixels))
        except (OSError, picture.BadPicture):
            return None
        return self.keep(path, drawn)

    def keep(self, path: Path, drawn: Image.Image) -> Path:
        """Write what was drawn over a picture, and return where."""
        target = self._folder / self._name(path)
        partial = target.with_name(f".{target.name}.part")
        drawn.save(partial, "PNG")
        partial.replace(target)
        return target

    def _name(self, path: Path) -> str:
        """Return "part.explained.png", with a number where a picture of another folder has that name."""
        stem, number = path.stem[:LONGEST_STEM], 1
        name = f"{stem}.explained.png"
        while self._names.setdefault(name, path) != path:
            number += 1
            name = f"{stem}.{number}.explained.png"
        return name
