"""In which precision a training computes: bfloat16 where that is quicker, float32 elsewhere.

Decided by what processor and network are and not by a measurement, so that a resumed run computes the same.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def autocast(device: torch.device, network: nn.Module | None = None) -> AbstractContextManager[Any]:
    """Return a context, to be entered as often as needed, in which torch computes as is quickest on a device.

    network: what will learn in it; without one it is taken to have nothing that bfloat16 slows down.
    """
    slow = network is not None and any(_is_slow_in_bfloat16(part) for part in network.modules())
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and has_fast_bfloat16() and not slow
    return torch.autocast(device.type, dtype=torch.bfloat16) if fast else nullcontext()


def has_fast_bfloat16() -> bool:
    """Say whether this process trains quicker in bfloat16 on its CPU: whether that has AMX, and it may use it.

    With AVX-512 BF16 alone a training step takes as long as in float32 or longer (0.8 to 1.0 times the speed); with
    neither, oneDNN falls back to loops that are 2 to 20 times slower. A virtual machine may hide AMX, a kernel or a
    filter of system calls deny its registers, and oneDNN's environment variable keep it from being used.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not known.get("amx_bf16") or _limited_without_amx():
        return False
    return bool(torch.cpu._init_amx())


def _limited_without_amx() -> bool:
    """Say whether the environment keeps oneDNN below AMX; it heeds no name of an instruction set that it lacks."""
    limit = next((os.environ[name] for name in _LIMITS if name in os.environ), "").upper()
    return limit.startswith(("SSE", "AVX")) and "AMX" not in limit


def _is_slow_in_bfloat16(part: nn.Module) -> bool:
    """Say whether a module learns ten times slower in bfloat16 than in float32, even with AMX.

    In oneDNN strided depthwise convolutions do, and those with filters larger than 3 x 3.
    """
    if not isinstance(part, nn.Conv2d) or part.groups == 1 or part.groups != part.in_channels:
        return False
    return part.weight.requires_grad and (max(part.stride) > 1 or max(part.kernel_size) > 3)
