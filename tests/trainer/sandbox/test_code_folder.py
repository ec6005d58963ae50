"""What is copied for sandboxes suffices for the built-in images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.sandbox.code_folder import make_code_folder

IMAGES = Path(__file__).parents[3] / "services" / "trainer" / "algorithms"
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from loupe.algorithm import warm
from loupe.algorithm.image import load_entry
import loupe
assert loupe.__file__.startswith(sys.argv[1]), loupe.__file__
load_entry(Path(sys.argv[2]), "main:train")
"""


@pytest.mark.parametrize("image", ["finetune", "scratch"])
def test_the_code_folder_has_all_that_a_built_in_image_imports(tmp_path: Path, image: str) -> None:
    code = make_code_folder(tmp_path / "code")
    command = [sys.executable, "-I", "-c", PROGRAM, str(code), str(IMAGES / image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
