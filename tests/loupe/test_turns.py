"""Fair turns at a few places."""

from __future__ import annotations

import asyncio

import pytest

from loupe.errors import Throttled
from loupe.turns import Turns


class Line:
    """Callers at one set of places; each keeps its place until it is told to go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.came: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}

    async def _visit(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.came.append(name)
            await self.leave[name].wait()

    async def send(self, name: str) -> asyncio.Task[None]:
        """Let one come; its source is its first letter."""
        self.leave[name] = asyncio.Event()
        task = asyncio.create_task(self._visit(name))
        await asyncio.sleep(0)
        return task


async def test_sources_are_served_in_turn_and_not_in_order_of_arrival() -> None:
    line = Line(Turns(range(1)))
    tasks = [await line.send(name) for name in ("a0", "a1", "a2", "a3", "b1", "c1")]
    for each in line.leave.values():
        each.set()
    await asyncio.gather(*tasks)
    assert line.came == ["a0", "a1", "b1", "c1", "a2", "a3"]


async def test_more_than_may_wait_are_told_so_and_nobody_else() -> None:
    line = Line(Turns(range(1), each=1, waiting=2))
    here = [await line.send(name) for name in ("a0", "a1", "b1")]
    for source in ("a2", "c1"):
        with pytest.raises(Throttled):
            await (await line.send(source))
    here.pop().cancel()
    await asyncio.sleep(0)
    here.append(await line.send("c2"))
    for each in line.leave.values():
        each.set()
    await asyncio.gather(*here)
    assert line.came == ["a0", "a1", "c2"]


async def test_a_place_that_came_just_when_its_caller_went_goes_to_the_next() -> None:
    line = Line(Turns([7]))
    first, gone, next_one = [await line.send(name) for name in ("a0", "b1", "c1")]
    line.leave["a0"].set()
    await first
    gone.cancel()
    line.leave["c1"].set()
    await next_one
    assert line.came[-1] == "c1"
    async with line.turns.turn("d") as number:
        assert number == 7


async def test_who_asks_for_one_thing_gets_it_next_after_hundreds_that_others_wait_for() -> None:
    turns = Turns([7])
    order: list[str] = []

    async def use(whose: str) -> None:
        async with turns.turn(whose):
            order.append(whose)
            await asyncio.sleep(0)

    greedy = [asyncio.create_task(use("greedy")) for _ in range(100)]
    await asyncio.sleep(0)
    modest = [asyncio.create_task(use("modest")) for _ in range(2)]
    gone = asyncio.create_task(use("gone"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(*greedy, *modest)
    assert [place for place, whose in enumerate(order) if whose == "modest"] <= [3, 5]
    assert len(order) == 102
    async with turns.turn("anybody") as number:
        assert number == 7
