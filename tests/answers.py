"""A stand-in for a write of the journal's: what it answers is waited for, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from rc_push.waiting import Promise


def answered(work: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Promise[Any]]:
    """Let the coroutine function *work* give a `Promise`, which no cancellation reaches."""

    @functools.wraps(work)
    def begin(*args: Any) -> Promise[Any]:
        answer: Promise[Any] = Promise()

        def pass_on(done: asyncio.Task[Any]) -> None:
            failure = asyncio.CancelledError() if done.cancelled() else done.exception()
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(done.result())

        asyncio.ensure_future(work(*args)).add_done_callback(pass_on)
        return answer

    return begin
