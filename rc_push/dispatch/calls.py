"""How is a handler called? Within its time, and so that nothing it raises is taken for ours.

Knows tasks and time-outs; knows nothing of events or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

from rc_push.handlers.hand_over import Fork, end_fork

T = TypeVar("T")


class Caller:
    """Calls a handler from one task, one call after another. Use it as a context manager within that task.

    One timer serves all calls: it is armed anew only when it fires, which costs a call next to nothing.
    """

    def __init__(self, timeout_s: float, may_stop: Callable[[], bool] = lambda: True) -> None:
        """*may_stop*: whether a cancellation can be ours at the moment. Else the handler has cancelled itself."""
        self._timeout_s = timeout_s
        self._may_stop = may_stop
        self._loop = asyncio.get_running_loop()
        self._began_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_expired = False
        self._fork_depth = Fork.depth

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are made from a task")
        self._task = task
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    async def call(self, handle: Callable[[T], Awaitable[None]], what: T) -> None:
        """Call *handle*. Raises an Exception for all that it does wrong; CancelledError is our own stop."""
        self._began_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._began_at + self._timeout_s, self._look)
        try:
            await handle(what)
        except BaseException as exc:
            judged = self._judged(exc)
            if judged is exc:
                raise
            raise judged from exc
        finally:
            if Fork.depth != self._fork_depth:
                end_fork()
            self._began_at = None
            if self._has_expired or self._task.cancelling():
                await self._forget_cancellations()

    def _judged(self, exc: BaseException) -> BaseException:
        """Return what *exc*, which the handler has raised, is to us."""
        if not self._loop.is_running():  # the loop is gone, and this coroutine is being closed
            return exc
        if self._task.cancelling() > self._has_expired and self._may_stop():  # however the handler has answered it
            return asyncio.CancelledError()
        if self._has_expired and isinstance(exc, (asyncio.CancelledError, TimeoutError)):
            return TimeoutError(f"not done within {self._timeout_s:g} s")
        if isinstance(exc, Exception):
            return exc
        # Taken as ours, it would end the loop in silence, or the daemon.
        return RuntimeError(f"the handler raised {type(exc).__name__}")

    async def _forget_cancellations(self) -> None:
        """Take back what is not our stop, also where the call has ended before it could arrive."""
        others = int(self._has_expired) if self._may_stop() else max(1, self._task.cancelling())
        self._has_expired = False
        if not others:
            return
        for _ in range(others):
            self._task.uncancel()
        if self._task.cancelling() == 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if self._task.cancelling():  # our stop, at this very moment
                raise asyncio.CancelledError

    def _look(self) -> None:
        """Cut the call that takes too long, or look again when the one under way would."""
        self._timer = None
        if self._began_at is None:
            return
        due_at = self._began_at + self._timeout_s
        if self._loop.time() < due_at:
            self._timer = self._loop.call_at(due_at, self._look)
            return
        self._has_expired = True
        self._task.cancel()
