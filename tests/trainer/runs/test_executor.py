"""What an attempt asks for, checked before anything runs."""

from __future__ import annotations

import pytest

from loupe.errors import BadParameter
from services.trainer.attempts.events import Failed
from tests.trainer.fakes import Rig


@pytest.mark.parametrize("parameters", [{"rounds": "many"}, {"unknown": 1}])
async def test_a_parameter_that_the_manifest_does_not_allow_fails_the_attempt(plain_rig: Rig, parameters: dict) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters=parameters))[-1].what
    assert isinstance(last, Failed)
    assert (last.reason, last.retryable) == (BadParameter.reason_name(), False)


async def test_a_missing_file_fails_the_attempt(plain_rig: Rig) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters={"weights": "9" * 64}))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("NOT_FOUND", False)
