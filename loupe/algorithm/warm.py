"""Importing this makes a process ready for any image: the slow imports, and what torch loads late at its first use.

A trainer's waiting sandboxes import it before their job is known; a run then starts in tenths of a second. What only a
report needs is not here: a job may come before it is there.
"""

from __future__ import annotations

import importlib

import torch
from torch import nn

from loupe.algorithm.export import Preprocessing, export_onnx
from loupe.algorithm.onnx_model import OnnxModel, append_softmax
from loupe.algorithm.threads import mean_work
from loupe.algorithm.uncompiled import uncompiled

MODULES = ("timm", "torchvision", "onnx", "onnxruntime", "torch.optim.lbfgs", "loupe.algorithm.training")


def warm_up() -> None:
    """Import MODULES, take one training step and make one export, all tiny; torch's random state stays."""
    with uncompiled():
        for name in MODULES:
            importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        mean_work(network, (3, 8, 8))
        loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 8, 8)), torch.tensor([0, 1]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        half = (0.5, 0.5, 0.5)
        model = append_softmax(export_onnx(network, Preprocessing(8, 8, half, half)), 1.0)
        OnnxModel(model, threads=1)(torch.zeros(1, 8, 8, 3, dtype=torch.uint8).numpy())


warm_up()
