"""The code that runs inside a sandbox: copied out of the checkout, so that nothing else of it is seen there."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import loupe
from services.trainer.sandbox import decoder
from services.trainer.sandbox.leftovers import remove

PARTS = (
    *(
        "__init__.py",
        "escapes.py",
        "forecast.py",
        "job_kinds.py",
        "labels.py",
        "letterbox.py",
        "patterns.py",
        "picture.py",
        "picture_structure.py",
        "proportions.py",
    ),
    "algorithm",
    "tasks",
)


def make_code_folder(folder: Path) -> Path:
    """Fill `folder` anew with the parts of `loupe` that run inside, and the decoder; return it."""
    remove(folder)
    package = folder / "loupe"
    package.mkdir(parents=True)
    source = Path(loupe.__file__).parent
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / part, package / part)
    shutil.copyfile(Path(decoder.__file__), folder / "decoder.py")
    # Nothing inside may write here, so whatever is not compiled now would be compiled by every single process.
    compileall.compile_dir(str(folder), quiet=2)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
