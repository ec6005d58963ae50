"""How fast the INT8 model is beside the one in FP32 on this machine, and how often it answers otherwise.

    python -m bench.int8 [--data FOLDER] [--threads 2] [--sizes 64 128 224]

FOLDER holds splits.csv (path,label,split) and the pictures that it names; without it, tiles of photographs are made.
For each picture size EfficientNet-Lite0 gets a linear head, is exported as Loupe does it and quantized. The two models
take turns, with one picture at a time and with batches; the ratio is that of the batches. Where the CPU does not
multiply bytes, it may be below 1, and terminals go on with FP32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench.figures import median_ratio, print_worst
from loupe.algorithm.process import restart_for_training

ROUNDS, BATCH, WANTED = 15, 32, 1.3


def measure(data: Path, size: int, threads: int) -> dict[str, object]:
    """Make both models for a picture size, and run them in turns."""
    import numpy as np
    import torch
    from torch import nn

    from bench.neu_baseline import pretrained, probe, read
    from loupe.algorithm.export import Preprocessing, export_onnx
    from loupe.algorithm.onnx_model import OnnxModel, append_linear, append_softmax, batched
    from loupe.algorithm.quantization import CALIBRATION_PICTURES, agreement, quantize

    pixels, classes, splits, outputs = read(data, size)
    trunk: nn.Module = pretrained()
    exported = export_onnx(trunk, Preprocessing(size, size, (0.5,) * 3, (0.5,) * 3), "features")
    train, test = np.flatnonzero(splits == 0), np.flatnonzero(splits == 2)
    features = torch.from_numpy(OnnxModel(exported, threads).predict(pixels, train))
    head = probe(features, torch.from_numpy(classes[train]), outputs)
    weights = head.weight.detach().numpy(), head.bias.detach().numpy()
    model = append_softmax(append_linear(exported, *weights), 1.0)
    batches = batched(np.random.default_rng(0).permutation(train)[:CALIBRATION_PICTURES], 8)
    began = time.perf_counter()
    quantized = quantize(model, lambda number: pixels[batches[number]] if number < len(batches) else None, threads)
    seconds = time.perf_counter() - began
    runs = {"fp32": OnnxModel(model, threads), "int8": OnnxModel(quantized, threads)}

    def rates(count: int) -> dict[str, list[float]]:
        seen: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 + ROUNDS):
            for name, run in runs.items():
                start = time.perf_counter()
                run(pixels[:count])
                seen[name].append(count / (time.perf_counter() - start))
        return {name: each[1:] for name, each in seen.items()}

    single, many = rates(1), rates(BATCH)
    answers = {name: run.predict(pixels, test) for name, run in runs.items()}
    return {
        "network": f"tf_efficientnet_lite0@{size}",
        "pictures_per_second": {name: round(float(np.median(each))) for name, each in many.items()},
        "one_at_a_time": {name: round(float(np.median(each))) for name, each in single.items()},
        "ratio_one_at_a_time": median_ratio(single["int8"], single["fp32"]),
        "ratio": median_ratio(many["int8"], many["fp32"]),
        "agreement": agreement(answers["fp32"], answers["int8"], classes[test]),
        "bytes": {"fp32": model.ByteSize(), "int8": quantized.ByteSize()},
        "seconds_to_quantize": round(seconds, 2),
    }


def main() -> None:
    """Measure all sizes and print the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with splits.csv; tiles of photographs if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    options = parser.parse_args()
    restart_for_training("bench.int8", options.threads)
    from bench.folder_to_model import write_default

    with tempfile.TemporaryDirectory(prefix="loupe-surfaces-") as own:
        data = options.data or write_default(Path(own))
        print_worst("int8", (measure(data, size, options.threads) for size in options.sizes), "ratio", WANTED)


if __name__ == "__main__":
    main()
