"""How do calls that block run beside the event loop? In threads that hold nothing up.

The threads of asyncio and of `concurrent.futures` are joined when the process ends: one call that hangs, and the daemon
cannot stop. These are left behind. Knows nothing of what is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from rc_push.errors import UnreachableError

type_of_job = tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]


class CallThreads:
    """Runs blocking calls, in order, at most *count* at the same time. The threads begin with the first call."""

    def __init__(self, name: str, count: int = 1) -> None:
        self._name = name
        self._count = count
        self._jobs: queue.SimpleQueue[type_of_job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_stopped = False

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return what *call* returns, or raise what it raises.

        Cancelled before its turn, the call is left out; cancelled while it runs, it goes on to its end, and the next
        one waits for it. Raises UnreachableError after `stop`: nobody would answer.
        """
        if self._is_stopped:
            raise UnreachableError(f"{self._name}: stopped", phase="closed")
        if len(self._threads) < self._count:
            self._start_thread()
        answer = asyncio.get_running_loop().create_future()
        self._jobs.put((contextvars.copy_context().run, (call, *args), answer))
        return await answer

    def stop(self) -> None:
        """Let the threads end when they have nothing left to do, and take nothing more. Waits for nothing."""
        self._is_stopped = True
        for _ in self._threads:
            self._jobs.put(None)

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


def _work(jobs: queue.SimpleQueue[type_of_job | None]) -> None:
    while job := jobs.get():
        call, args, answer = job
        if answer.cancelled():
            continue
        result, failure = None, None
        try:
            result = call(*args)
        except BaseException as exc:  # noqa: BLE001 - whatever it is belongs to whoever waits
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended without waiting for us
            answer.get_loop().call_soon_threadsafe(_answer, answer, result, failure)
        del job, call, args, answer, result, failure  # while it waits for the next one, it keeps nothing alive


def _answer(answer: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if answer.done():  # cancelled meanwhile
        return
    if isinstance(failure, (StopIteration, GeneratorExit)):  # a future cannot carry these
        name, cause = type(failure).__name__, failure
        failure = RuntimeError(f"the call raised {name}")
        failure.__cause__ = cause
    if failure is not None:
        answer.set_exception(failure)
    else:
        answer.set_result(result)
