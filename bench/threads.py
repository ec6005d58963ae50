"""Whether a network trains as fast as it can with the number of threads that Loupe picks for it.

    python -m bench.threads [--threads 2] [--seconds 4]

Trains networks of different sizes with one thread, with all, and with the picked number, in turns, step by step, and
prints for each the pictures a second, and the speed with the picked number as a part of the best; the target is for the
worst of the networks.
"""

from __future__ import annotations

import argparse
import statistics
import time

from bench.figures import print_worst
from loupe.algorithm.process import restart_for_training

NETWORKS = (
    ("squeezenet1_1", 32),
    ("squeezenet1_1", 128),
    ("mobilenet_v3_small", 64),
    ("mobilenet_v3_small", 224),
    ("efficientnet_b0", 64),
    ("efficientnet_b0", 128),
    ("resnet18", 32),
    ("resnet18", 64),
)
BATCH, TARGET = 32, 0.9


def measure(name: str, size: int, threads: int, seconds: float) -> dict[str, object]:
    """Train one network in turns with each number of threads, for so many seconds."""
    import torch
    import torchvision

    from loupe.algorithm.threads import on_threads, worthwhile_threads

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=6).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    pictures = torch.randn(BATCH, 3, size, size).to(memory_format=torch.channels_last)
    classes = torch.randint(6, (BATCH,))

    def step() -> float:
        began = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(network(pictures), classes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        return BATCH / (time.perf_counter() - began)

    picked = worthwhile_threads(network, (3, size, size), BATCH, threads)
    rates: dict[int, list[float]] = {count: [] for count in sorted({1, picked, threads})}
    step()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for count, seen in rates.items():
            with on_threads(count):
                seen.append(step())
    speed = {count: statistics.median(seen) for count, seen in rates.items()}
    return {
        "network": f"{name}@{size}",
        "picked": picked,
        "pictures_per_second": {str(count): round(value) for count, value in speed.items()},
        "of_the_best": round(speed[picked] / max(speed.values()), 3),
    }


def main() -> None:
    """Measure all networks and print the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="per network")
    options = parser.parse_args()
    restart_for_training("bench.threads", options.threads)
    rows = (measure(*network, options.threads, options.seconds) for network in NETWORKS)
    print_worst("threads", rows, "of_the_best", TARGET)


if __name__ == "__main__":
    main()
