"""What an attempt asks for, checked before anything runs."""

from __future__ import annotations

import pytest

from loupe.errors import BadParameter, QuotaExceeded
from services.trainer.attempts.events import Failed
from tests.trainer.fakes import MemoryAttempt, Rig


@pytest.mark.parametrize("parameters", [{"rounds": "many"}, {"unknown": 1}])
async def test_a_parameter_that_the_manifest_does_not_allow_fails_the_attempt(plain_rig: Rig, parameters: dict) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters=parameters))[-1].what
    assert isinstance(last, Failed)
    assert (last.reason, last.retryable) == (BadParameter.reason_name(), False)


async def test_a_missing_file_fails_the_attempt(plain_rig: Rig) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters={"weights": "9" * 64}))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("NOT_FOUND", False)


async def test_a_project_that_is_full_fails_the_attempt_and_keeps_its_checkpoint(
    plain_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another attempt would find no more room: the failure says what is full, and is final."""
    save = MemoryAttempt.save_checkpoint
    saved: list[list] = []

    async def second_is_refused(self: MemoryAttempt, files: list) -> None:
        if saved:
            raise QuotaExceeded("projects/line-7 is full", project="projects/line-7", quota="bytes", used=9, limit=9)
        saved.append(files)
        await save(self, files)

    monkeypatch.setattr(MemoryAttempt, "save_checkpoint", second_is_refused)
    code = """
def train(host):
    for number in range(2):
        folder = host.work / f"c{number}"
        folder.mkdir()
        (folder / "state.json").write_text(str(number))
        host.save_checkpoint(folder)
"""
    last = (await plain_rig.run(code))[-1].what
    assert isinstance(last, Failed)
    assert (last.reason, last.message, last.retryable) == ("QUOTA_EXCEEDED", "projects/line-7 is full", False)
    assert [files for _, files in plain_rig.storage.checkpoints.values()] == [{"state.json": b"0"}]
