"""How do calls that block run beside the event loop? One at a time, in a thread that holds nothing up.

asyncio's own threads are shared by all, and joined when the process ends: a plug-in that hangs would take them one by
one, and keep the daemon from stopping. This one is the handler's own, and is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

type_of_job = tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]


class CallThread:
    """Runs the blocking calls of one handler in order. The thread begins with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[type_of_job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return what *call* returns, or raise what it raises.

        Cancelled before its turn, the call is left out; cancelled while it runs, it goes on to its end, and the next
        one waits for it.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"handler-{self._name}", daemon=True)
            self._thread.start()
        answer = asyncio.get_running_loop().create_future()
        self._jobs.put((call, args, answer))
        return await answer

    def _work(self) -> None:
        while True:
            call, args, answer = self._jobs.get()
            if answer.cancelled():
                continue
            result, failure = None, None
            try:
                result = call(*args)
            except BaseException as exc:  # noqa: BLE001 - whatever it is belongs to whoever waits
                failure = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended without waiting for us
                answer.get_loop().call_soon_threadsafe(_answer, answer, result, failure)


def _answer(answer: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if answer.done():  # cancelled meanwhile
        return
    if isinstance(failure, StopIteration):  # a future cannot carry it
        failure = RuntimeError("the call raised StopIteration")
    if failure is not None:
        answer.set_exception(failure)
    else:
        answer.set_result(result)
