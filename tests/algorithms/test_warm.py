"""Getting warm: all that a first step takes, and nothing that it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNWANTED = ("torch._dynamo", "torch._inductor", "sklearn", "scipy.stats", "pandas")

TRAINS = """
import sys
import loupe.algorithm.warm
import timm, torch, torchvision
with torch.device("meta"):
    timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
torchvision.models.squeezenet1_1(weights=None, num_classes=3)
network = torch.nn.Linear(3, 2)
for name in ("AdamW", "SGD", "RMSprop"):
    optimizer = getattr(torch.optim, name)(network.parameters(), lr=1e-3)
    before = next(network.parameters()).detach().clone()
    optimizer.zero_grad()
    network(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, next(network.parameters())) and torch.is_grad_enabled()
"""
COMPILES = """
import torch
from torchvision.ops import roi_align
from torchvision.tv_tensors import wrap, Image
optimizer.step()
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
optimizer.zero_grad()
optimizer.step()
network(torch.ones(4, 3)).square().sum().backward()
torch.optim.AdamW(network.parameters()).step()
wrap(torch.zeros(3, 4, 4), like=Image(torch.zeros(3, 4, 4)))
roi_align(torch.zeros(1, 1, 4, 4), [torch.zeros(1, 4)], 2)
assert type(torch._dynamo).__name__ == "module" and sys.modules["torch._dynamo.utils"].__file__
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.attack
def test_neither_getting_warm_nor_training_loads_the_compiler_or_what_a_report_takes() -> None:
    pytest.importorskip("torch")
    loaded = f"\nprint([name for name in {UNWANTED} if name in sys.modules])"
    assert run("import sys, loupe.algorithm.warm\nassert 'sympy' not in sys.modules" + loaded).strip() == "[]"
    assert run(TRAINS + loaded).strip() == "[]"


@pytest.mark.attack
def test_the_compiler_is_there_for_who_asks_for_it() -> None:
    """An algorithm may still compile; optimizers and marked functions go on to work behind that."""
    pytest.importorskip("torch")
    run(TRAINS + COMPILES)


@pytest.mark.attack
def test_steps_are_the_same_as_with_the_compiler_loaded() -> None:
    """The optimizers' own code takes them, in the same order."""
    program = """
import torch
torch.manual_seed(0)
network = torch.nn.Linear(3, 2)
optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    network(torch.ones(4, 3)).square().sum().backward()
    optimizer.step(lambda: torch.zeros(()))
print(network.weight.tolist(), optimizer.state_dict()["state"][0]["step"].item())
"""
    assert run("import loupe.algorithm.warm" + program) == run("import torch._dynamo" + program)
