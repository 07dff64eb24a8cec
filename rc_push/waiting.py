"""How does one task wait for what others do? For an answer to its end, however often it is cancelled; or for a beat.

Both are here because asyncio's own ways take turns of the loop and calls that a trickle of events would pay for each.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


class Promise(asyncio.Future[T]):
    """What comes to an end by itself, and is waited for until then: no cancellation gets at it.

    Where `cancel` says no, a task that is cancelled meanwhile keeps that for its next step, which is when the answer
    is there: `await` raises CancelledError then, and `result` has it. No turn of the loop is spent on this. A time-out
    around it ends no sooner.
    """

    def cancel(self, msg: object = None) -> bool:
        """Say no."""
        del msg
        return False


async def settled(answer: Promise[Any]) -> bool:
    """Return when *answer* is there, a failure too, which is for whoever asks it.

    Say whether this was cancelled meanwhile, which has had to wait: who is told so has to go on with that.
    """
    try:
        await answer
    except asyncio.CancelledError:
        return True
    except BaseException:
        if not answer.done():
            raise
    return False


def is_cancelled() -> bool:
    """Say whether somebody has asked this task to stop; a CancelledError alone can be of what it calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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
        waiter: asyncio.Future[None] = asyncio.Future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
