"""A budget of bytes: nobody has more than a share, turns are fair, and nobody keeps what others need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import pytest

from loupe.byte_budget import ByteBudget, Hold, read_message
from loupe.errors import Unavailable

LINE, OTHER = ("projects/line-7", "accounts/anna"), ("projects/other", "accounts/eve")


async def waiting(budget: ByteBudget, parties: tuple[str, ...], size: int) -> asyncio.Task[Hold]:
    task = asyncio.create_task(budget.take(parties, size))
    await asyncio.sleep(0)
    return task


async def test_nobody_has_more_than_a_share() -> None:
    """A project waits for itself, and so does an account with many projects, while others are served."""
    budget = ByteBudget(100, 50)
    first = await budget.take(LINE, 40)
    second = await waiting(budget, LINE, 20)
    third = await waiting(budget, ("projects/mine-too", "accounts/anna"), 20)
    assert not second.done()
    assert not third.done()
    assert (await budget.take(OTHER, 50)).size == 50
    first.shrink(10)
    await second
    await third
    assert budget.taken == 10 + 20 + 20 + 50


async def test_more_than_a_share_is_a_share() -> None:
    """Who asks for too much does not wait for ever."""
    assert (await ByteBudget(100, 50).take(LINE, 1_000)).size == 50


async def test_who_holds_less_is_served_first() -> None:
    """A project with a hundred waiting streams does not keep another one's single stream waiting."""
    budget = ByteBudget(100, 90)
    held = [await budget.take(LINE, 20) for _ in range(4)]
    greedy = [await waiting(budget, LINE, 30) for _ in range(100)]
    modest = await waiting(budget, OTHER, 30)
    held[0].release()
    assert (await modest).parties == OTHER
    assert not any(each.done() for each in greedy)
    for each in greedy:
        each.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    for hold in (*held, await modest):
        hold.release()
    assert budget.taken == 0


async def test_equals_take_turns() -> None:
    """Two who wait for the same bytes get them alternately."""
    budget = ByteBudget(10, 10)
    hold = await budget.take(LINE, 10)
    served: list[str] = []

    async def one(parties: tuple[str, ...]) -> None:
        mine = await budget.take(parties, 10)
        served.append(parties[0])
        await asyncio.sleep(0)
        mine.release()

    tasks = [asyncio.create_task(one(parties)) for parties in (LINE, LINE, LINE, OTHER, OTHER, OTHER)]
    await asyncio.sleep(0)
    hold.release()
    await asyncio.gather(*tasks)
    assert served == [LINE[0], OTHER[0]] * 3


async def test_little_does_not_slip_past_who_waits_for_much() -> None:
    """Small wants do not starve a large one."""
    budget = ByteBudget(100, 80)
    hold = await budget.take(("a",), 60)
    large = await waiting(budget, ("b",), 80)
    small = await waiting(budget, ("c",), 10)
    assert not small.done()
    hold.release()
    await large
    await small


async def test_who_goes_away_leaves_nothing_behind() -> None:
    """A waiter that is cancelled, also with the bytes on their way to it, gives them to the next."""
    budget = ByteBudget(10, 10)
    hold = await budget.take(LINE, 10)
    first, second = await waiting(budget, LINE, 10), await waiting(budget, LINE, 10)
    hold.release()
    first.cancel()
    (await second).release()
    third = await waiting(budget, LINE, 10)
    third.cancel()
    await asyncio.gather(first, third, return_exceptions=True)
    (await third if not third.cancelled() else hold).release()
    assert budget.taken == 0


async def come_and_go(budget: ByteBudget, random: Random, held: set[Hold]) -> None:
    """Take some bytes for a while, again and again, and give them back in parts."""
    parties = (random.choice(("projects/a", "projects/b", "projects/c")), random.choice(("anna", "eve")))
    for _ in range(random.randint(1, 4)):
        hold = await budget.take(parties, random.randint(1, 60))
        held.add(hold)
        try:
            for _ in range(random.randint(0, 4)):
                await asyncio.sleep(0)
                hold.shrink(random.randint(0, 60))
        finally:
            held.discard(hold)
            hold.release()


@pytest.mark.parametrize("seed", range(40))
async def test_no_bytes_and_no_waiter_are_lost(seed: int) -> None:
    """Many come, some are cancelled at any moment: limits hold at every step, and all who stay are served."""
    random, budget, held = Random(seed), ByteBudget(100, 50, stalled_seconds=3_600), set[Hold]()
    tasks = [asyncio.create_task(come_and_go(budget, random, held)) for _ in range(40)]
    for _ in range(3_000):
        if random.random() < 0.05:
            random.choice(tasks).cancel()
        await asyncio.sleep(0)
        by_party = Counter[str]()
        for hold in held:
            by_party.update(dict.fromkeys(hold.parties, hold.size))
        assert sum(hold.size for hold in held) <= budget.taken <= 100
        assert max(by_party.values(), default=0) <= 50
        if all(task.done() for task in tasks):
            break
    waiting_for_ever = [task for task in tasks if not task.done()]
    for task in waiting_for_ever:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert not waiting_for_ever
    assert all(each is None or isinstance(each, asyncio.CancelledError) for each in outcomes)
    assert budget.taken == 0


class Message:
    def ByteSize(self) -> int:
        return 3


async def silence() -> AsyncIterator[Message]:
    yield Message()
    await asyncio.Event().wait()


async def test_a_peer_that_stalls_keeps_nothing_from_others() -> None:
    """While nobody waits it may take its time; when somebody does, it is ended with an error that may be retried."""
    budget = ByteBudget(10, 10, stalled_seconds=0.1)
    messages = silence()
    message, hold = await read_message(messages, budget, LINE, 10)
    assert (message.ByteSize(), hold.size) == (3, 3)
    hold.release()
    stalled = asyncio.create_task(read_message(messages, budget, LINE, 10))
    await asyncio.sleep(0.4)
    assert not stalled.done()
    async with asyncio.timeout(5):
        await budget.take(OTHER, 10)
        with pytest.raises(Unavailable):
            await stalled
    assert budget.taken == 10


async def test_a_call_that_is_cancelled_while_it_is_cut_is_cancelled() -> None:
    """Both in the same moment: whoever waits for a cancelled call is not told of an error instead."""
    hold = await ByteBudget(10, 10).take(LINE, 10)

    async def wait() -> None:
        with hold.waiting_for_peer():
            await asyncio.Event().wait()

    stalled = asyncio.create_task(wait())
    await asyncio.sleep(0)
    hold.evict()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_stream_that_ends_gives_its_room_back() -> None:
    """The end of a stream is no message."""

    async def nothing() -> AsyncIterator[Message]:
        none: tuple[Message, ...] = ()
        for message in none:
            yield message

    budget = ByteBudget(10, 10)
    with pytest.raises(StopAsyncIteration):
        await read_message(nothing(), budget, LINE, 10)
    assert budget.taken == 0
