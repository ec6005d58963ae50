"""How many threads a training is worth: where operations are small, waking a thread takes longer than its work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WORK_PER_THREAD = 8e6
"""Floating point operations of a tensor operation below which one more thread costs more than it brings.

Measured by bench/threads.py, with threads that wait without spinning.
"""


def worthwhile_threads(network: nn.Module, shape: Sequence[int], batch_size: int, available: int) -> int:
    """Return from 1 to `available`: how many threads a network trains fastest with, on a CPU.

    shape: of one input. batch_size: inputs in a step.
    Decided by what the network computes and not by a measurement: the same network, shape and batch size give the same
    number wherever so many threads are available, and so the same sums in the same order.
    """
    if available == 1:
        return 1
    return max(1, min(available, int(mean_work(network, shape) * batch_size / WORK_PER_THREAD)))


def mean_work(network: nn.Module, shape: Sequence[int]) -> float:
    """Return the floating point operations of a mean tensor operation, for one input of a shape going forward.

    Only the work of convolutions and matrix products is counted, but it is shared out over all operations, since each
    of them wakes the threads. The network stays as it is.
    """
    weight = next(network.parameters())
    example = torch.zeros(1, *shape, device=weight.device)
    if len(shape) == 3:
        example = example.to(memory_format=torch.channels_last)
    training = [module for module in network.modules() if module.training]
    counter = _WorkCounter()
    try:
        with torch.no_grad(), counter:
            network.eval()(example)
    finally:
        for module in training:
            module.training = True
    return counter.work / counter.operations


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch compute on so many threads within a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts what goes through torch's dispatcher, and its work as torch.utils.flop_counter does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.work, self.operations = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.operations += not func.is_view
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.work += count(*args, **kwargs, out_val=result)
        return result
