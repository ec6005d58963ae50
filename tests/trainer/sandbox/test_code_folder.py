"""What is copied for sandboxes suffices for the built-in images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.trainer.sandbox.code_folder import make_code_folder

IMAGES = Path(__file__).parents[3] / "services" / "trainer" / "algorithms"
PROGRAM = """
import os
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from loupe.algorithm import warm
from loupe.algorithm.image import load_entry
from loupe.algorithm.manifest import read_manifest
import loupe
assert loupe.__file__.startswith(sys.argv[1]), loupe.__file__
for image in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        load_entry(Path(image), read_manifest(Path(image)).entry)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, image
"""


def test_the_code_folder_has_all_that_a_built_in_image_imports(tmp_path: Path) -> None:
    """Each in a process of its own, in which torch is there as in a warm sandbox."""
    code = make_code_folder(tmp_path / "code")
    images = [manifest.parent for manifest in sorted(IMAGES.glob("*/algorithm.toml"))]
    assert len(images) > 1
    command = [sys.executable, "-I", "-c", PROGRAM, str(code), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
