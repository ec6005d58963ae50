"""How fast the terminal finds things in pictures, beside a bare loop of onnxruntime with the same network and decoder.

    python -m bench.detection_terminal [--threads 2] [--sizes 320 640] [--pictures 64]

A small network with non-maximum suppression and weights by chance is made, and JPEG files of 1280 by 960. Two
pairs take turns: `ratio_answering` is `Detector.boxes`, which looks at every answer, beside the bare session, both
on decoded pictures; `ratio` is `Detector.detect` beside a loop that decodes each batch in as many threads and then
answers it, from files to boxes. The target is for the worst of the sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.figures import median_ratio, print_worst
from loupe import picture
from loupe.letterbox import FILL
from loupe.tasks.detection import Detection
from loupe.terminal.boxes import OUTPUTS
from loupe.terminal.detector import GOLDEN_ARRAYS, Detector

ROUNDS, WANTED = 7, 0.95
CHANNELS = (3, 16, 32, 64, 64, 64)
STRIDE = 2 ** (len(CHANNELS) - 1)
LABELS = ("scratch", "dent", "crack")
THRESHOLD = 0.55


def network(size: int) -> Any:
    """Return an onnx.ModelProto as a detector has it: strided convolutions, a box at each place, the surest ones."""
    from onnx import TensorProto, helper, numpy_helper

    draw, side, classes = np.random.default_rng(0), size // STRIDE, len(LABELS)
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def on(kind: str, *inputs: Any, to: str = "", **attributes: Any) -> str:
        names = [one if isinstance(one, str) else f"constant_{len(nodes)}_{at}" for at, one in enumerate(inputs)]
        constants.update(
            {name: np.asarray(one) for name, one in zip(names, inputs, strict=True) if not isinstance(one, str)}
        )
        nodes.append(helper.make_node(kind, names, [to or f"value_{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def convolved(values: str, before: int, after: int, kernel: int, stride: int) -> str:
        weights = draw.normal(0, (2 / (before * kernel**2)) ** 0.5, (after, before, kernel, kernel))
        return on("Conv", values, weights.astype(np.float32), strides=[stride] * 2, pads=[kernel // 2] * 4)

    nodes.append(helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT))
    values = on("Div", on("Transpose", "floats", perm=[0, 3, 1, 2]), np.array([255.0], np.float32))
    for before, after in itertools.pairwise(CHANNELS):
        values = on("Relu", convolved(values, before, after, 3, 2))
    centres = (np.stack(np.meshgrid(*[np.arange(side)] * 2), -1).reshape(1, -1, 2) + 0.5) / side
    flat = np.array([0, -1, side * side], np.int64)
    halves = on("Sigmoid", on("Reshape", convolved(values, CHANNELS[-1], 2, 1, 1), flat))
    halves = on("Mul", on("Transpose", halves, perm=[0, 2, 1]), np.array([0.2], np.float32))
    low, high = (on(kind, centres.astype(np.float32), halves) for kind in ("Sub", "Add"))
    boxes = on("Clip", on("Concat", low, high, axis=2), np.array(0, np.float32), np.array(1, np.float32))
    scores = on("Sigmoid", on("Reshape", convolved(values, CHANNELS[-1], classes, 1, 1), flat))
    chosen = on(
        "NonMaxSuppression",
        boxes,
        scores,
        np.array([100], np.int64),
        np.array([0.5], np.float32),
        np.array([THRESHOLD], np.float32),
    )
    for place, name in ((0, "found_pictures"), (1, "classes")):
        on("Gather", chosen, np.array(place, np.int64), axis=1, to=name)
    on("GatherND", boxes, on("Gather", chosen, np.array([0, 2], np.int64), axis=1), to="boxes")
    on("GatherND", scores, chosen, to="scores")
    kinds = {"found_pictures": TensorProto.INT64, "classes": TensorProto.INT64}
    outputs = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in OUTPUTS]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size, size, 3])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small_detector", [pixels], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_folder(folder: Path, size: int) -> None:
    """Write the network as a model folder, with what it finds in two pictures as golden boxes."""
    import onnxruntime

    model = network(size).SerializeToString()
    pictures = np.random.default_rng(1).integers(0, 255, (2, size, size, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS), {"pixels": pictures})
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "golden.npz", pictures=pictures, **dict(zip(GOLDEN_ARRAYS, found, strict=True)))
    shape = {
        "height": size,
        "width": size,
        "channels": "RGB",
        "type": "uint8",
        "fit": "letterbox",
        "fill": FILL,
    }
    document = {
        "format": "loupe-model/1",
        "task": Detection.name,
        "labels": LABELS,
        "input": shape,
        "min_confidence": THRESHOLD,
        "files": {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()},
    }
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write smooth JPEG files of 1280 by 960 pixels, and return where."""
    draw, paths = np.random.default_rng(2), [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(draw.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        coarse.resize((1280, 960), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def measure(size: int, threads: int, count: int) -> dict[str, object]:
    """Measure both pairs at one size of the network's input."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="loupe-detection-") as own:
        folder, place = Path(own) / "model", Path(own) / "pictures"
        folder.mkdir()
        place.mkdir()
        write_folder(folder, size)
        paths = write_pictures(place, count)
        detector = Detector(folder, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        decoded = [decode(path, size) for path in paths]
        pixels = np.stack(decoded)

        def answer(pictures: Sequence[np.ndarray]) -> None:
            session.run(list(OUTPUTS), {"pixels": np.stack(pictures)})

        def bare() -> None:
            for start in range(0, count, detector.batch):
                answer(pixels[start : start + detector.batch])  # type: ignore[arg-type]  # an array is its rows

        def bare_with_files() -> None:
            with ThreadPoolExecutor(threads) as pool:
                for start in range(0, count, detector.batch):
                    answer(list(pool.map(lambda path: decode(path, size), paths[start : start + detector.batch])))

        ways: dict[str, Callable[[], object]] = {
            "boxes": lambda: detector.boxes(pixels),
            "bare": bare,
            "detect": lambda: list(detector.detect(paths)),
            "bare_with_files": bare_with_files,
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(1 + ROUNDS):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                rates[name].append(count / (time.perf_counter() - began))
        found = sum(len(one.found) for one in detector.detect(paths))
    rates = {name: each[1:] for name, each in rates.items()}
    return {
        "network": f"small_detector@{size}",
        "pictures_per_second": {name: round(float(np.median(each)), 1) for name, each in rates.items()},
        "boxes_per_picture": round(found / count, 1),
        "ratio_answering": median_ratio(rates["boxes"], rates["bare"]),
        "ratio": median_ratio(rates["detect"], rates["bare_with_files"]),
    }


def decode(path: Path, size: int) -> np.ndarray:
    """Return a file's pixels as the detector sees them."""
    return picture.decode(path.read_bytes(), size, size, "letterbox")


def main() -> None:
    """Measure all sizes and print the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--pictures", type=int, default=64)
    options = parser.parse_args()
    rows = (measure(size, options.threads, options.pictures) for size in options.sizes)
    print_worst("detection_terminal", rows, "ratio", WANTED)


if __name__ == "__main__":
    main()
