"""Whether a packed file is an algorithm image that may join the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loupe.algorithm import image, manifest
from loupe.errors import BadAlgorithm, InvalidArgument
from loupe.names import AlgorithmVersionName
from services.storage.files.chunks import Measured, measure


@dataclass(frozen=True)
class VerifiedImage:
    """An image that is one: its name, its manifest, that as text, and what its bytes are."""

    name: AlgorithmVersionName
    manifest: manifest.Manifest
    manifest_toml: str
    measured: Measured


def verify(packed: Path, tree: Path) -> VerifiedImage:
    """Unpack the image into a folder that is thrown away: what unpacks here unpacks on a trainer.

    Raises BadAlgorithm.
    """
    try:
        with packed.open("rb") as archive:
            found = image.unpack(archive, tree)
        text = (tree / manifest.FILE_NAME).read_text(encoding="utf-8")
        name = AlgorithmVersionName.parse(str(AlgorithmVersionName(found.name, found.version)), "version")
    except image.BadImage as error:
        raise BadAlgorithm(f"the image is refused: {error}", problem="archive") from error
    except manifest.BadManifest as error:
        raise BadAlgorithm(f"the image is refused: {error}", entry=manifest.FILE_NAME, problem="manifest") from error
    except InvalidArgument as error:
        raise BadAlgorithm(f"the image is refused: {error.message}", problem="version") from error
    if name.version == "latest":
        message = 'the image is refused: "latest" is no version; it stands for the newest one'
        raise BadAlgorithm(message, entry=manifest.FILE_NAME, problem="version")
    return VerifiedImage(name, found, text, measure(packed))
