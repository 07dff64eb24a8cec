"""How does the event loop run to its end, whatever plug-ins do to it? In place of `asyncio.run`, which they can end.

`sys.exit()` in a task of a plug-in's own, or in a callback, leaves the loop through everything that runs in it; and
what a plug-in has left running in threads would hold up its end. Knows loops; knows nothing of what runs in them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger()

# Tasks that are left over when all is closed get this long to end.
LEFT_OVER_S = 3.0


class Loop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose clock is read without a call in Python: a lone event would pay for a dozen of these."""

    time = staticmethod(time.monotonic)


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* in a loop of its own, and return what it returns or raise what it raises; nothing else ends it."""
    loop = Loop()
    try:
        return _run(loop, main)
    finally:
        try:
            _run(loop, _end_tasks())
            _run(loop, loop.shutdown_asyncgens())
        finally:
            loop.close()


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    task = loop.create_task(main)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except BaseException as exc:
            if not task.done():  # it is not the task's own, which goes on
                remedy = "a plug-in must not end the process or stop the loop: let it raise an Exception in handle()"
                log.error("loop_left", error=type(exc).__name__, exc_info=exc, remedy=remedy)
    return task.result()


async def _end_tasks() -> None:
    """Cancel the tasks that others have left behind. One that does not obey is left to itself."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, running = await asyncio.wait(left, timeout=LEFT_OVER_S)
        for task in running:
            log.warning("task_left_behind", task=task.get_name())
