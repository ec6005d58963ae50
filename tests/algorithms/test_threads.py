"""How many threads a network is worth: counted, not measured, and without touching it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from loupe.algorithm.threads import mean_work, on_threads, worthwhile_threads


def narrow() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Bare(nn.Module):
    """Computes without modules, as an image of a user's own may."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(512, 3 * 32 * 32))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return functional.linear(pictures.flatten(1), self.weight)


def test_the_work_is_that_of_convolutions_and_products_shared_by_all_operations() -> None:
    """8 filters of 27 over 30 x 30 places, multiplied and added, among a few operations; and products of no module."""
    convolution, product = 2 * 8 * 27 * 30 * 30, 2 * 512 * 3 * 32 * 32
    assert convolution / 8 < mean_work(narrow(), (3, 32, 32)) < convolution / 3
    assert mean_work(narrow(), (3, 62, 62)) == pytest.approx(mean_work(narrow(), (3, 32, 32)) * 4)
    assert product / 3 <= mean_work(Bare(), (3, 32, 32)) <= product


@pytest.mark.parametrize(
    ("network", "size", "batch", "available", "threads"),
    [
        (narrow(), 32, 32, 8, 1),  # 2 million in a mean operation
        (narrow(), 128, 32, 8, 4),  # 37 million
        (narrow(), 128, 32, 3, 3),  # no more than there are
        (narrow(), 128, 32, 1, 1),
    ],
)
def test_threads_grow_with_the_work_up_to_what_there_is(
    network: nn.Module, size: int, batch: int, available: int, threads: int
) -> None:
    assert worthwhile_threads(network, (3, size, size), batch, available) == threads


def test_counting_leaves_the_network_and_the_random_numbers_as_they_are() -> None:
    """Mode, weights, statistics, gradients and generator: a resumed run is to end like one that never stopped."""
    network = narrow().train()
    network[1].eval()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    mean_work(network, (3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in network] == [True, False, True, True, True]
    assert all(weight.grad is None for weight in network.parameters())


def test_threads_are_as_before_after_a_block_that_raised() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
