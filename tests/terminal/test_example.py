"""The example of the README runs as it stands, against a mesh that answers at once."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh
from tests.terminal.test_pull import publish

ROOT = Path(__file__).resolve().parents[2]
JOB = "projects/line-7/jobs/j1"


def test_the_example_pushes_trains_watches_pulls_and_classifies(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    publish(mesh, make_model())
    mesh.events = [jobs.JobEvent(job=JOB, sequence=1, state_change=jobs.StateChange(state="JOB_STATE_SUCCEEDED"))]
    (tmp_path / "part.png").write_bytes(picture_bytes(1))
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    program = f"import asyncio\nasync def example():\n{textwrap.indent(example, '    ')}\nasyncio.run(example())\n"
    environment = {"LOUPE_PROFILE": str(store.path), "XDG_DATA_HOME": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    ended: Any = subprocess.run(
        [sys.executable, "-c", program], cwd=folder.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert (mesh.jobs[JOB].objective.at_least, mesh.jobs[JOB].objective.metric) == (0.97, "")
    assert "sequence: 1" in ended.stdout
    assert re.search(r"Prediction\(.*part\.png.*bright", ended.stdout), ended.stdout
