"""How does one task wait for what others do? For an answer to its end, however often it is cancelled; or for a beat.

Both are here because asyncio's own ways take turns of the loop and calls that a trickle of events would pay for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


async def settled(answer: asyncio.Future[Any]) -> bool:
    """Return when *answer* is there; say whether this was cancelled meanwhile, which has had to wait."""
    if answer.done():
        return False
    try:
        await _Uncancelled(answer)
    except asyncio.CancelledError:
        return True
    return False


class _Uncancelled:
    """The end of *answer*, as a task can wait for it: a cancellation does not get at it, and comes when it is there.

    A task waits for whatever has `_asyncio_future_blocking`. Where `cancel` says no, it keeps the cancellation for its
    next step, which is when the answer has come: no turn of the loop is spent on this.
    """

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self._answer = answer
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[_Uncancelled, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._answer.get_loop()

    def add_done_callback(self, call: Callable[[_Uncancelled], object], *, context: Context | None = None) -> None:
        self._answer.add_done_callback(lambda _: call(self), context=context)

    def result(self) -> None:
        """Return nothing: what the answer is, a failure too, is for whoever asks for it."""

    def cancel(self, msg: object = None) -> bool:
        del msg
        return False


class Pulse:
    """Wakes all who wait at the moment of a beat; who comes later waits for the next one."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def beat(self) -> None:
        """Wake them."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next beat."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
