"""The built-in algorithm images: a mesh that is brought up to date gets the new ones beside those that it has."""

from __future__ import annotations

import tomllib

from deploy.algorithms import BUILT_IN
from loupe.algorithm import image
from loupe.algorithm.reserved import is_reserved


def test_a_changed_built_in_image_has_a_version_of_its_own() -> None:
    """Storage takes no other image under a version that it has, so a mesh that has it could not be started again."""
    published = tomllib.loads((BUILT_IN / "published.toml").read_text(encoding="utf-8"))
    archives = [image.pack(path.parent) for path in BUILT_IN.glob("*/algorithm.toml")]
    assert len(archives) == len(published)
    for archive in archives:
        manifest, digest = image.inspect(archive), image.digest(archive)
        recorded = published[manifest.name].get(manifest.version)
        assert recorded == digest, f"{manifest.name}: needs a new version, and a line in published.toml with {digest}"


def test_the_names_of_built_in_images_are_reserved() -> None:
    """Or an account could take a version that the next Loupe ships."""
    for path in BUILT_IN.glob("*/algorithm.toml"):
        assert is_reserved(image.inspect(image.pack(path.parent)).name)
