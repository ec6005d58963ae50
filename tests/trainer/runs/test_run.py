"""A run that breaks the rules of its sandbox."""

from __future__ import annotations

import pytest

from loupe.tasks.objective import Objective
from services.trainer.attempts.events import Failed, Logged
from tests.trainer.fakes import Rig

RAW = """
import json, os, struct, time
import numpy as np
def send(host, body):
    host._pipe.sendall(struct.pack(">I", len(body)) + body)
def train(host):
    TESTS = np.count_nonzero(host.spec().dataset.splits == 2)
    {action}
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("send(host, b'no json')", "not JSON"),
        ("send(host, b'[]')", "not a JSON object"),
        ("send(host, b'[' * 200_000)", "not JSON"),
        ("host._pipe.sendall(struct.pack('>I', 1 << 30))", "at most 1048576"),
        ("send(host, json.dumps({'type': 'root'}).encode())", "unknown type 'root'"),
        ("host._call('shell', command='id')", "unknown method 'shell'"),
        ("host._call('finish', outcome='plateau', artifacts={'x': '../../etc/shadow'}, report={})", "inside the work"),
        ("os.symlink('/etc/hostname', host.work / 'x'); host._call('finish', outcome='plateau', "
         "artifacts={'x': 'x'}, report={})", "is a link"),
        ("host.reveal_test(np.zeros(TESTS)); host.reveal_test(np.zeros(TESTS))", "asked for twice"),
        ("host.reveal_test(np.zeros(TESTS + 1))", "answers for"),
        ("host.reveal_test(np.full(TESTS, 7))", "an answer is class 7 of 2"),
        ("host._call('reveal_test')", "0 answers for"),
        ("host._call('reveal_test', answers='?')", "must be base64"),
        ("(host.work / 'c').mkdir(); (host.work / 'c' / 'x.json').touch(); host.reveal_test(np.zeros(TESTS)); "
         "host.save_checkpoint(host.work / 'c')", "after the test labels"),
        ("(host.work / 'c').mkdir(); (host.work / 'c' / 'x.pkl').touch(); host.save_checkpoint(host.work / 'c')",
         "only .safetensors, .json"),
        ("host.pictures(100_000, 4)", "from 1 to 1024"),
    ],
)  # fmt: skip
async def test_a_run_that_breaks_the_rules_ends_with_the_reason(plain_rig: Rig, action: str, words: str) -> None:
    """Each breach ends that one attempt with a clear message, and another attempt would not help."""
    last = (await plain_rig.run(RAW.format(action=action)))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("ALGORITHM_FAILED", False), last
    assert words in last.message


async def test_a_run_learns_by_which_metric_it_is_judged(plain_rig: Rig) -> None:
    """The target metric comes through the job folder to the host of the sandbox."""
    code = "def train(host):\n    spec = host.spec()\n    host.log(f'{spec.objective.metric} {spec.objective.bound}')\n"
    events = await plain_rig.run(code, objective=Objective("lowest_recall", 0.8))
    assert Logged("lowest_recall 0.8") in [event.what for event in events]
