"""Who blocks the event loop? A thread that asks it for a sign of life, and tells where it hangs while it hangs.

Everything shares one loop: a handler that computes or sleeps in it holds up receiving, too. Knows loops, tasks and
frames; knows nothing of what they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType

import structlog

log = structlog.get_logger()

STALLED_AFTER_S = 1.0
# How often a loop that answers is asked.
ASK_EVERY_S = 0.5
# Where the process itself was stopped, the loop gets this long to answer before it is blamed.
LATE_S = 0.1
FRAMES_MAX = 30
# What the tasks of a handler are named; the part behind it is the handler's name.
HANDLER_TASK = "handler-"


@contextlib.contextmanager
def watching_stalls(*, stalled_after_s: float = STALLED_AFTER_S) -> Iterator[None]:
    """Watch the running loop inside: log `loop_stalled` while it hangs, and `loop_goes_on` when it goes on."""
    watch = _Watch(stalled_after_s)
    thread = threading.Thread(target=watch.run, name="stall-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.is_over.set()


class _Watch:
    """Watches the loop of the thread that makes it."""

    def __init__(self, stalled_after_s: float) -> None:
        self.is_over = threading.Event()
        self._stalled_after_s = stalled_after_s
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()

    def run(self) -> None:
        """Ask for ever; ends with its loop, or when `is_over` is set."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while not self.is_over.wait(ASK_EVERY_S):
                answered, asked_at = threading.Event(), time.monotonic()
                self._loop.call_soon_threadsafe(answered.set)
                if answered.wait(self._stalled_after_s) or answered.wait(LATE_S):
                    continue
                self._tell(asked_at)
                while not answered.wait(ASK_EVERY_S) and not self.is_over.is_set():
                    pass  # it has been told; what is left to tell is when it goes on
                log.warning("loop_goes_on", stalled_s=round(time.monotonic() - asked_at, 1))

    def _tell(self, asked_at: float) -> None:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the one way to see another thread
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task else ""
        log.error(
            "loop_stalled",
            handler=name.removeprefix(HANDLER_TASK) if name.startswith(HANDLER_TASK) else None,
            stalled_s=round(time.monotonic() - asked_at, 1),
            stack=stack_of(frame),
            remedy="a handler must not compute or wait in the loop: make it a plain function, which runs in a thread",
        )


def stack_of(frame: FrameType | None) -> str:
    """Return where *frame* is, one `file:line function` a line, the innermost last: no values, and no source."""
    if frame is None:  # the thread has ended
        return ""
    entries = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=FRAMES_MAX, lookup_lines=False)
    return "\n".join(f"{entry.filename}:{entry.lineno} {entry.name}" for entry in reversed(entries))
