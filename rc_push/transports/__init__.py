"""How do events reach us? What every way to receive offers to the receive loop."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from rc_push.envelope import Batch, Cursor

State = Literal["connecting", "subscribing", "recovering", "live", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a link knows about its subscription: the *state*, and why we say so."""

    state: State
    why: str


class Link(Protocol):
    """One live connection."""

    evidence: Evidence

    async def read(self) -> Batch:
        """Wait until there is something; return all that is there.

        Calling it again says that the last batch is stored. Raises what ended the connection, after all that came
        before the end has been returned. Safe to cancel: nothing is lost.
        """
        ...

    async def close(self) -> Batch:
        """End the connection in agreement with the server; return the last of what it sent. Called at most once."""
        ...


class Transport(Protocol):
    """A way to receive the events of one subscription."""

    name: str
    # How long the server keeps what it could not deliver, in seconds.
    recovery_window_s: float

    def connect(self, cursor: Cursor | None) -> AbstractAsyncContextManager[Link]:
        """Make a connection that goes on at *cursor*. Leaving the context ends it, agreed or not.

        Raises RefusedError where trying again cannot help; everything else is worth another try.
        """
        ...
