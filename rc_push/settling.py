"""How is an answer waited for that decides what is known? To its end, however often the waiting is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any


async def settled(answer: asyncio.Future[Any]) -> bool:
    """Return when *answer* is there; say whether this was cancelled meanwhile, which has had to wait."""
    is_cancelled = False
    while not answer.done():
        waiter = asyncio.get_running_loop().create_future()

        def go_on(_: Any, waiter: asyncio.Future[None] = waiter) -> None:
            if not waiter.done():
                waiter.set_result(None)

        answer.add_done_callback(go_on)
        try:
            await waiter
        except asyncio.CancelledError:
            is_cancelled = True
    return is_cancelled
