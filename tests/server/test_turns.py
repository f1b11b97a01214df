"""Turns of connections: in order, and the loop reads from sockets between long ones."""

import asyncio
import time
from collections.abc import Callable

from cairnkv.limits import TURNS_SECONDS
from cairnkv.server.turns import Turns


def long(order: list[str], name: str) -> Callable[[], None]:
    def turn() -> None:
        order.append(name)
        time.sleep(2 * TURNS_SECONDS)

    return turn


async def iterations(order: list[str], count: int) -> list[str]:
    """Note each iteration of the loop, and return the notes."""
    for _ in range(count):
        await asyncio.sleep(0)
        order.append("loop")
    return order


async def test_loop_goes_on_between_long_turns() -> None:
    turns, order = Turns(), list[str]()
    for name in "abc":
        turns.add(long(order, name))
    assert await iterations(order, 3) == ["a", "loop", "b", "loop", "c", "loop"]


async def test_turn_that_a_turn_adds_comes_after_an_iteration() -> None:
    turns, order = Turns(), list[str]()

    def again() -> None:
        order.append("again")
        if order.count("again") < 3:
            turns.add(again)

    turns.add(again)
    assert await iterations(order, 3) == ["again", "loop", "again", "loop", "again", "loop"]


async def test_turn_waits_behind_a_long_one_of_the_same_iteration() -> None:
    turns, order = Turns(), list[str]()
    turns.run(long(order, "long"), lambda: order.append("never"))
    turns.run(lambda: order.append("never"), lambda: turns.add(lambda: order.append("later")))
    assert await iterations(order, 1) == ["long", "later", "loop"]
    turns.run(lambda: order.append("at once"), lambda: order.append("never"))
    assert order[-1] == "at once"


async def test_failed_turn_does_not_affect_other_turns() -> None:
    turns, order, failures = Turns(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail() -> None:
        raise ValueError("a fault")

    turns.add(fail)
    turns.add(lambda: order.append("next"))
    assert await iterations(order, 2) == ["loop", "next", "loop"]
    assert [str(failure) for failure in failures] == ["a fault"]
