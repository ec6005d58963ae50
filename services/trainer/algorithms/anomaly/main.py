"""The algorithm image `anomaly`: what good parts look like, and how far from it another picture is."""

from __future__ import annotations

import numpy as np
import torch

from loupe.algorithm import Context, Outcome
from loupe.algorithm.anomaly.rules import good_class
from loupe.algorithm.export import Preprocessing, export_onnx
from loupe.algorithm.onnx_model import OnnxModel, batched

from .memory import Inspector, remember
from .trunk import Flat, Trunk, pretrained

BATCH = 32
PATCHES = 200_000
"""How many patches of good training pictures are looked at at most; pictures are drawn by the seed."""


def train(context: Context) -> None:
    """Remember the good training pictures, and finish with what compares others to them. Raises Stopped."""
    chosen, data = context.parameters, context.data
    generator = torch.Generator().manual_seed(context.seed)
    trunk = pretrained(chosen["backbone"])
    good = data.train[data.classes[data.train] == good_class(data, chosen["good"])]
    with torch.inference_mode():
        depth, grid, _ = trunk(torch.zeros(1, 3, chosen["size"], chosen["size"]))[0].shape[1:]
    most = max(2, PATCHES // grid**2)
    rows = good[torch.randperm(len(good), generator=generator)[:most].sort().values.numpy()]
    flat = _features(context, trunk, rows)
    patches = flat[:, :-depth].reshape(len(flat), depth, grid**2).transpose(1, 2).contiguous()
    wholes = flat[:, -depth:].contiguous()
    context.report("memory", message=f"choosing from {patches.shape[0] * patches.shape[1]} patches of good parts")
    memory = remember(patches, wholes, trunk.depths, chosen["patches"], generator)
    context.stop_if_asked()
    context.finish_inspector(
        Inspector(trunk, memory, grid).eval(),
        size=chosen["size"],
        mean=trunk.mean,
        std=trunk.std,
        architecture=f"{chosen['backbone']} + nearest of {len(memory.patches)} patches",
        outcome=Outcome.TARGET_REACHED,
        false_alarms=chosen["false_alarms"],
        notes={
            "backbone": chosen["backbone"],
            "good_training_pictures": len(good),
            "patches": len(memory.patches),
            "wholes": len(memory.wholes),
        },
    )


def _features(context: Context, trunk: Trunk, rows: np.ndarray) -> torch.Tensor:
    """Return the answers of a Flat trunk for some pictures, float32 [M, D h w + D]. Raises Stopped.

    onnxruntime computes them, about thrice as fast as torch on a CPU.
    """
    size = context.parameters["size"]
    pictures = context.data.images(size)
    exported = export_onnx(Flat(trunk), Preprocessing(size, size, trunk.mean, trunk.std), "features")
    run = OnnxModel(exported, context.threads)
    parts: list[torch.Tensor] = []
    batches = batched(rows, BATCH)
    for number, batch in enumerate(batches, start=1):
        parts.append(torch.from_numpy(run(pictures[batch])))
        if context.report_due() or number == len(batches):
            context.report("features", step=number, total_steps=len(batches))
            context.stop_if_asked()
    return torch.cat(parts)
