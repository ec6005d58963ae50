"""Nothing phones home: onnxruntime writes no ids and asks for no host, whichever part of Loupe imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What imports onnxruntime, or is imported by whatever does: the terminal, what images are written against, services.
PARTS = ("loupe.terminal", "loupe.algorithm", "services.trainer.app")
USE = "import onnxruntime; onnxruntime.SessionOptions(); onnxruntime.get_available_providers()"


def written(code: str, home: Path) -> list[str]:
    """Run code with a home of its own and return the files that it left there."""
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(one.relative_to(home).as_posix() for one in home.rglob("*") if one.is_file())


@pytest.fixture(scope="session")
def tells(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where this onnxruntime leaves nothing behind even when nobody forbids it: then nothing can be seen."""
    if not any("onnxruntime" in one for one in written(USE, tmp_path_factory.mktemp("control") / "home")):
        pytest.skip("this onnxruntime writes no ids")


@pytest.mark.usefixtures("tells")
@pytest.mark.parametrize("part", PARTS)
def test_no_ids_are_written(part: str, tmp_path: Path) -> None:
    assert written(f"import {part}; {USE}", tmp_path / "home") == []


@pytest.mark.usefixtures("tells")
def test_an_environment_that_allows_it_is_overruled(tmp_path: Path) -> None:
    code = f"import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import loupe; {USE}"
    assert written(code, tmp_path / "home") == []


def test_the_setting_comes_first_in_all_of_loupe() -> None:
    """It stands in the package's own module, which Python runs before anything below it."""
    code = (
        "import os, sys, loupe; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1' and 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_services_reach_it_through_loupe() -> None:
    """A service that imported onnxruntime before loupe would escape the setting: none imports it itself."""
    own = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "services").rglob("*.py")
        if any(line.split()[:2] in (["import", "onnxruntime"], ["from", "onnxruntime"]) for line in path.open())
    ]
    assert own == []
