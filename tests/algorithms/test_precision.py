"""The precision of a training: bfloat16 only where processor, process and network make it the quicker one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from loupe.algorithm.precision import autocast, has_fast_bfloat16

CPU = torch.device("cpu")
ZEN_4 = {"avx512_f": True, "avx512_bf16": True}
SAPPHIRE_RAPIDS = {**ZEN_4, "amx_tile": True, "amx_bf16": True}


@pytest.fixture(autouse=True)
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have AMX, and the kernel lend it."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: SAPPHIRE_RAPIDS)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)


def test_a_processor_with_amx_computes_in_bfloat16() -> None:
    assert has_fast_bfloat16()
    with autocast(CPU, nn.Conv2d(3, 8, 3)):
        assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16


@pytest.mark.parametrize("known", [{}, {"avx2": True}, ZEN_4])
def test_one_without_amx_computes_in_float32(known: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert not has_fast_bfloat16()
    assert isinstance(autocast(CPU), nullcontext)


def test_amx_that_the_kernel_denies_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: False)
    assert not has_fast_bfloat16()


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "fast"),
    [
        ("AVX2", False),
        ("avx512_core", False),
        ("AVX512_CORE_BF16", False),
        ("AVX512_CORE_FP16", False),
        ("AVX10_1_512", False),
        ("AVX512_CORE_AMX", True),
        ("DEFAULT", True),
        ("no such set", True),
    ],
)
def test_what_one_dnn_may_not_use_does_not_count(
    variable: str, limit: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, limit)
    assert has_fast_bfloat16() == fast


@pytest.mark.parametrize(
    ("part", "bfloat16"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=8, stride=2), False),
        (nn.Conv2d(8, 8, 5, groups=8), False),
        (nn.Conv2d(8, 8, 5, groups=8).requires_grad_(False), True),
        (nn.Conv2d(8, 8, 5, stride=2), True),
    ],
    ids=["depthwise", "strided depthwise", "large depthwise", "frozen depthwise", "dense"],
)
def test_a_network_that_bfloat16_slows_down_computes_in_float32(part: nn.Module, bfloat16: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), part)
    assert isinstance(autocast(CPU, network), torch.autocast) == bfloat16


@pytest.mark.parametrize(("supported", "kind"), [(True, torch.autocast), (False, nullcontext)])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    supported: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert isinstance(autocast(torch.device("cuda"), nn.Conv2d(8, 8, 5, groups=8)), kind)
