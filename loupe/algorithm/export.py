"""From a network of torch to an ONNX model with the same answers, from raw pixels on."""

from __future__ import annotations

import copy
import io
import itertools
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.onnx_model import (
    LARGEST_FOLDED,
    PREDICT_BATCH,
    answering,
    batched,
    replace_output,
    with_constants_folded,
)

OPSET = 20


@dataclass(frozen=True)
class Preprocessing:
    """How pixels 0..255 become the network's input: (pixel / 255 - mean) / std, with three of each, for R, G and B."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class PictureNetwork(nn.Module):
    """Takes uint8 [N, H, W, 3] pictures to what `network` makes of the normalised [N, 3, H, W]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", _one_if_equal(1.0 / (255.0 * std)), persistent=False)
        self.register_buffer("shift", _one_if_equal(-mean / std), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.network(pictures.permute(0, 3, 1, 2).float() * self.scale + self.shift)
        return answers


def _one_if_equal(channels: torch.Tensor) -> torch.Tensor:
    """Return [1, 1, 1, 1] for [1, 3, 1, 1] of equal numbers: onnxruntime multiplies by one number much faster."""
    first = channels[:, :1]
    return first if bool((channels == first).all()) else channels


def predict_torch(
    network: nn.Module, preprocessing: Preprocessing, pictures: np.ndarray, indices: np.ndarray, device: torch.device
) -> np.ndarray:
    """Return float32 [M, C], the network's answers for pictures[indices], computed in float32 on the device.

    pictures: uint8 [N, H, W, 3], normalised here as preprocessing says. indices: int64 [M].
    """
    whole = PictureNetwork(network, preprocessing).to(device).eval()
    batches = []
    with torch.inference_mode():
        for batch in batched(indices, PREDICT_BATCH if device.type == "cpu" else 256):
            batches.append(whole(torch.from_numpy(pictures[batch]).to(device)).float().cpu())
    return torch.cat(batches).numpy() if batches else np.zeros((0, 0), np.float32)


def ready_for_inference(network: nn.Module, height: int, width: int) -> nn.Module:
    """Return a copy on the CPU with batch norms folded into their convolutions, which exports thrice as fast.

    Neighbours in the module tree are taken to follow each other in the computation; where that turns out wrong
    on noise pictures, the copy is returned unfolded. Folding: Jacob et al., "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2.
    """
    plain = copy.deepcopy(network).cpu().float().eval()
    for module in plain.modules():
        if hasattr(module, "inplace"):
            # In-place activations are decomposed node by node while exporting.
            module.inplace = False  # type: ignore[assignment]  # to mypy every attribute of a Module is a Module
    folded = copy.deepcopy(plain)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, first), (name, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and _foldable(first, second):
                _fold(first, second)
                # timm's BatchNormAct2d brings its activation along.
                rest = [part for part in (getattr(second, "drop", None), getattr(second, "act", None)) if part]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = plain(noise), folded(noise)
    same = torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folded if same else plain


def export_onnx(network: nn.Module, preprocessing: Preprocessing, output: str = "logits") -> Any:
    """Return an onnx.ModelProto from `pictures` uint8 [batch, H, W, 3] to `output` float32 [batch, D], of any batch.

    It is traced, which takes a quarter to a tenth of the time of torch.export (bench/export.py); torch.export does it
    where a trace is impossible or gives other answers than the network on noise (docs/decisions/0008). What a trace
    computes anew for each batch is folded, where that gives the same answers.
    """
    height, width = preprocessing.height, preprocessing.width
    whole = PictureNetwork(ready_for_inference(network, height, width), preprocessing).eval()
    if (model := _trace(whole, height, width, output)) is None:
        return export_with_torch(whole, height, width, output)
    # Three pictures, as the trace saw two: what it took for a constant shows.
    noise = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(noise)).numpy()
    if answering(model, noise, expected, threads=1) is None:
        return export_with_torch(whole, height, width, output)
    replace_output(model.graph, output, expected.shape[1])
    if model.ByteSize() > LARGEST_FOLDED:
        return model
    folded = with_constants_folded(model)
    return model if answering(folded, noise, expected, threads=1) is None else folded


def _trace(whole: PictureNetwork, height: int, width: int, output: str) -> Any | None:
    import onnx

    written = io.BytesIO()
    try:
        with warnings.catch_warnings(), _without_stdout(), torch.no_grad():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in its __all__
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                whole,
                (_example(height, width),),
                written,  # type: ignore[arg-type]  # a trace is written to any file; the annotation is torch.export's
                dynamo=False,
                dynamic_axes={"pictures": {0: "batch"}, output: {0: "batch"}},
                input_names=["pictures"],
                output_names=[output],
                opset_version=OPSET,
            )
    except Exception:
        return None  # sizes are tensors in a trace, over which any network's code may stumble
    return onnx.load_from_string(written.getvalue())


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Drop what the block prints: where a trace is impossible, torch's C++ prints the whole graph."""
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def export_with_torch(whole: PictureNetwork, height: int, width: int, output: str) -> Any:
    """Do what export_onnx does by torch.export, which is slower and understands more networks."""
    with torch.no_grad():
        program = torch.onnx.export(
            whole,
            (_example(height, width),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["pictures"],
            output_names=[output],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _example(height: int, width: int) -> torch.Tensor:
    # With a batch of one, torch.export takes the batch for a constant.
    return torch.zeros(2, height, width, 3, dtype=torch.uint8)


def _foldable(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return convolution.out_channels == norm.num_features and norm.running_mean is not None and norm.affine


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.bias = bias
