"""Whether bfloat16 is chosen where it is quicker: training steps in both precisions, as oneDNN may use more or less.

    python -m bench.precision [--limits DEFAULT AVX512_CORE_BF16] [--networks detect resnet18] [--rounds 5]

Each limit, a value of ONEDNN_MAX_CPU_ISA, stands for processors that have no more; it is read once, so each has a
process of its own. There steps in float32 and in bfloat16 take turns on one thread, and CPU time is compared. Prints a
row for each limit and network as JSON: how much quicker bfloat16 is, and what `loupe.algorithm.precision` chooses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from bench.detection_loop import part_of_detect
from bench.figures import median_ratio
from loupe.algorithm.process import training_environment

LIMITS = ("DEFAULT", "AVX512_CORE_FP16", "AVX512_CORE_BF16", "AVX512_CORE", "AVX2")
NETWORKS = ("detect", "resnet18", "resnet50", "tf_efficientnet_lite0")
SIZE, BATCH, CLASSES = 96, 16, 6

Loss = Callable[[Any], Any]
"""Takes a precision, a context, to the loss of a step."""


def prepare(name: str) -> tuple[Any, Any, Loss]:
    """Return a network, the context that is chosen for it, and what computes its loss."""
    import timm
    import torch
    from torch.nn import functional

    from loupe.algorithm.precision import autocast

    torch.manual_seed(0)
    cpu, pictures = torch.device("cpu"), torch.randn(BATCH, 3, SIZE, SIZE)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    if name == "detect":
        detector = part_of_detect("variants").LIGHT.build(SIZE, CLASSES).to(memory_format=torch.channels_last)
        truth = [(torch.tensor([[10.0, 10.0, 50.0, 50.0]]), torch.tensor([1]))] * BATCH
        detection_loss = part_of_detect("loss").detection_loss

        def detect(precision: Any) -> Any:
            with precision:
                logits, boxes = detector.raw(pictures)
            return detection_loss(logits, boxes, detector.points, truth)

        return detector, detector.trunk.precision(cpu), detect
    classifier = timm.create_model(name, num_classes=CLASSES).to(memory_format=torch.channels_last)
    classes = torch.arange(BATCH) % CLASSES

    def classify(precision: Any) -> Any:
        with precision:
            logits = classifier(pictures)
        return functional.cross_entropy(logits.float(), classes)

    return classifier, autocast(cpu, classifier), classify


def measure(name: str, rounds: int) -> dict[str, object]:
    """Train a network in both precisions in turns."""
    import torch

    network, chosen, loss = prepare(name)
    network.train()
    optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], lr=1e-4, fused=True)
    precisions = {"float32": nullcontext(), "bfloat16": torch.autocast("cpu", dtype=torch.bfloat16)}
    seconds: dict[str, list[float]] = {each: [] for each in precisions}
    for _ in range(1 + rounds):
        for each, precision in precisions.items():
            began = time.thread_time()
            optimizer.zero_grad()
            loss(precision).backward()
            optimizer.step()
            seconds[each].append(time.thread_time() - began)
    faster = median_ratio(*(seconds[each][1:] for each in precisions))
    return {
        "network": name,
        "bfloat16_speed": faster,
        "chosen": "float32" if isinstance(chosen, nullcontext) else "bfloat16",
    }


def main() -> None:
    """Measure under each limit in a process of its own, or under that of this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", nargs="*", default=LIMITS)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for limit in asked.limits:
        environment = {**os.environ, **training_environment(1), "ONEDNN_MAX_CPU_ISA": limit}
        command = [sys.executable, "-m", "bench.precision", "--limits", "--networks", *asked.networks]
        subprocess.run([*command, "--rounds", str(asked.rounds)], env=environment, check=True)
    if not asked.limits:
        for name in asked.networks:
            print(json.dumps({"limit": os.environ["ONEDNN_MAX_CPU_ISA"], **measure(name, asked.rounds)}), flush=True)


if __name__ == "__main__":
    main()
