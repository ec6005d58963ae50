"""How long it takes to write a network as ONNX, against torch.export, which torch recommends.

    python -m bench.export [--threads 2]

Both take the network as Loupe prepares it, batch norms folded; Loupe's time includes the check that the model answers
as the network does. They take turns, after one round that is not counted; the target is for the worst of the networks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from bench.figures import print_worst
from loupe.algorithm.process import restart_for_training

NETWORKS = (
    ("timm", "efficientnet_lite0", 64),
    ("torchvision", "squeezenet1_1", 96),
    ("torchvision", "mobilenet_v3_small", 96),
    ("torchvision", "resnet18", 96),
    ("torchvision", "efficientnet_b0", 96),
)
ROUNDS, TARGET = 3, 3.0


def measure(library: str, name: str, size: int) -> dict[str, object]:
    """Export one network both ways, in turns."""
    import timm
    import torch
    import torchvision

    from loupe.algorithm.export import (
        PictureNetwork,
        Preprocessing,
        export_onnx,
        export_with_torch,
        ready_for_inference,
    )

    torch.manual_seed(0)
    make: Callable[..., torch.nn.Module] = timm.create_model if library == "timm" else torchvision.models.get_model
    network = make(name, num_classes=6).eval()
    how = Preprocessing(size, size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def by_torch() -> None:
        export_with_torch(PictureNetwork(ready_for_inference(network, size, size), how).eval(), size, size, "logits")

    seconds: dict[str, list[float]] = {"loupe": [], "torch.export": []}
    for _ in range(1 + ROUNDS):
        for way, export in (("loupe", lambda: export_onnx(network, how)), ("torch.export", by_torch)):
            began = time.perf_counter()
            export()
            seconds[way].append(time.perf_counter() - began)
    medians = {way: statistics.median(each[1:]) for way, each in seconds.items()}
    return {
        "network": f"{name}@{size}",
        "seconds": {way: round(value, 2) for way, value in medians.items()},
        "times_faster": round(medians["torch.export"] / medians["loupe"], 1),
    }


def main() -> None:
    """Measure all networks and print the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    restart_for_training("bench.export", options.threads)
    print_worst("export", (measure(*network) for network in NETWORKS), "times_faster", TARGET)


if __name__ == "__main__":
    main()
