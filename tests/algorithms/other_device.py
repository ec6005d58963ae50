"""A device that no machine has: it computes on the CPU, and refuses as a GPU does to mix its tensors with the CPU's."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class OnOtherDevice(torch.Tensor):
    """A tensor that says it is on the device "meta", and keeps its values in one of the CPU."""

    held: torch.Tensor
    is_meta = False  # Modules load nothing into what is.

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnOtherDevice:
        made: OnOtherDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch lacks it
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=OtherDevice.DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]  # torch's own is no method
        return OtherDevice.compute(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Within it, what is made on or moved to DEVICE has values there, which torch.inference_mode does not know."""

    DEVICE = torch.device("meta")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.compute(func, args, kwargs or {})

    @classmethod
    def compute(cls, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute with values of the CPU, and put the result where the operation or its tensors say."""
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        ours = [isinstance(each, OnOtherDevice) for each in tensors]
        wanted = kwargs.get("device")
        moves = func is torch.ops.aten.copy_.default or wanted is not None
        if any(ours) and not moves:
            strays = [each for each, own in zip(tensors, ours, strict=True) if not own and each.dim()]
            assert not strays, f"{func} got tensors of two devices, one of the CPU: {tuple(strays[0].shape)}"
        if wanted is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        there = torch.device(wanted) == cls.DEVICE if wanted is not None else any(ours)
        result = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        if not there:
            return result
        given = {id(_value(each)): each for each in tensors}
        return tree_map(lambda each: _placed(each, given), result)


def _value(each: Any) -> Any:
    return each.held if isinstance(each, OnOtherDevice) else each


def _placed(each: Any, given: dict[int, torch.Tensor]) -> Any:
    """Put a tensor on the other device; one that an operation in place returns stays the one that it was given."""
    if not isinstance(each, torch.Tensor):
        return each
    return given[id(each)] if id(each) in given else OnOtherDevice(each)
