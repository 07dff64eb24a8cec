"""Which call is this? What a handler may ask about the hand-over that it is in."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from rc_push.errors import EXIT_INTERNAL

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HandOver:
    """One call: the *handler* as the file names it, and the number of the *attempt*, from 1 on."""

    handler: str
    attempt: int = 1


_current: ContextVar[HandOver] = ContextVar("hand_over")


class Fork:
    """How many forks this process is away from the one that has loaded rc-push. Asking the system costs more."""

    depth = 0

    @classmethod
    def deepen(cls) -> None:
        """Note that this is a child. Called by Python, in it."""
        cls.depth += 1


os.register_at_fork(after_in_child=Fork.deepen)


def current_hand_over() -> HandOver:
    """Return the call that the handler is in, also in a thread that rc-push runs it in.

    Raises LookupError outside of one.
    """
    return _current.get()


def begin_hand_over(hand_over: HandOver) -> None:
    """Let `current_hand_over` return *hand_over* in this task from now on."""
    _current.set(hand_over)


def end_fork() -> None:
    """End this process: the handler has forked, and its child comes back as if it were the daemon.

    It would go on with the daemon's connections, and hold its locks beyond its end.
    """
    remedy = "run a program with subprocess, or end the child in the handler: os._exit"
    log.error("handler_forked", handler=current_hand_over().handler, remedy=remedy)
    os._exit(EXIT_INTERNAL)
