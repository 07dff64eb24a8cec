"""How do events reach us? What every way to receive offers to the receive loop."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from rc_push.envelope import Batch, Cursor

State = Literal["connecting", "subscribing", "recovering", "live", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class Expiries:
    """When what a connection rests on ends, in epoch seconds: the server's certificate, and the subscription there.

    None where that is not known. RingCentral renews what is renewed in time.
    """

    certificate_at: float | None = None
    subscription_at: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a link knows about its subscription: the *state*, and why we say so.

    *proven_at* (epoch seconds) is when the server last showed that it serves the subscription: it confirmed it, or sent
    an event of it. `live` without a younger proof than *good_for_s* is not live (`at`). *is_served*: `degraded` means
    no more than that some filters are refused; the others are served, unless *is_all_refused*. *rotations* counts the
    connections of this link that took over from the one before.
    """

    state: State
    why: str
    proven_at: float | None = field(default=None, compare=False)
    good_for_s: float = field(default=math.inf, compare=False)
    rotations: int = field(default=0, compare=False)
    expiries: Expiries = field(default=Expiries(), compare=False)
    is_served: bool = field(default=False, compare=False)
    is_all_refused: bool = field(default=False, compare=False)

    @classmethod
    def served(
        cls,
        why: str,
        refused: str,
        proven_at: float,
        *,
        is_all_refused: bool = False,
        good_for_s: float = math.inf,
        expiries: Expiries = Expiries(),
    ) -> Evidence:
        """Return that the server serves the subscription, but for what it has *refused* (empty = nothing)."""
        state: State = "degraded" if refused else "live"
        return cls(
            state,
            refused or why,
            proven_at,
            good_for_s,
            expiries=expiries,
            is_served=True,
            is_all_refused=is_all_refused,
        )

    @property
    def good_until(self) -> float:
        """When the last proof is too old, in epoch seconds; inf where there is none that could be."""
        return math.inf if self.proven_at is None else self.proven_at + self.good_for_s

    def at(self, now: float) -> Evidence:
        """Return what it is worth at *now* (epoch seconds)."""
        is_good = self.state == "live" or self.is_served
        if not is_good or self.proven_at is None or now <= self.good_until:
            return self
        why = f"no proof for {now - self.proven_at:.0f} s that RingCentral serves the subscription"
        return replace(self, state="degraded", why=why, is_served=False)


# How long `leave` may wait for RingCentral, in seconds: its limits must hold up nobody else.
LEAVE_WITHIN_S = 3.0


class Stream(Protocol):
    """What the receive loop needs of one subscription that is being received."""

    @property
    def evidence(self) -> Evidence:
        """What is known now."""
        ...

    async def read(self) -> Batch:
        """Wait until there is something; return all that is there.

        Calling it again says that the last batch is stored. Raises what ended the connection, after all that came
        before the end has been returned. Safe to cancel: nothing is lost. An empty batch says that what is known has
        changed, or may have.
        """
        ...

    async def close(self) -> Batch:
        """End the connection in agreement with the server; return the last of what it sent. Called at most once.

        The server keeps the subscription, as long as it keeps those that nobody listens to.
        """
        ...

    async def leave(self) -> Batch:
        """Like `close`, and end the subscription at the server, so that nothing is kept. In place of `close`."""
        ...


class Link(Stream, Protocol):
    """One connection, from which another can take over (`rotation.py`)."""

    @property
    def subscription_id(self) -> str:
        """The server's id of the subscription; empty where there is none yet."""
        ...

    @property
    def is_proven(self) -> bool:
        """Say whether the server has shown, after it confirmed the subscription, that it serves it."""
        ...

    @property
    def served_until_ms(self) -> int | None:
        """Until when the server has shown to have served the subscription, in ms since 1970; None where not known."""
        ...

    @property
    def outlived(self) -> str:
        """Why another connection should take over from this one; empty = there is no need."""
        ...

    @property
    def suspicion(self) -> str:
        """Why this connection may be deaf though nothing else says so; empty = it is not suspected."""
        ...

    @property
    def overlap_s(self) -> float:
        """How long this connection, once proven, should run beside the one from which it takes over, in seconds."""
        ...

    def wake(self) -> None:
        """Let the waiting `read`, or else the next one, return even where there is nothing."""
        ...


class Transport(Protocol):
    """A way to receive the events of one subscription."""

    @property
    def name(self) -> str:
        """What it is called in the file."""
        ...

    @property
    def recovery_window_s(self) -> float:
        """How long the server keeps what it could not deliver, in seconds."""
        ...

    def connect(self, cursor: Cursor | None) -> AbstractAsyncContextManager[Stream]:
        """Make a connection that goes on at *cursor*; None = as if there had been none. Leaving the context ends it.

        Raises RefusedError where trying again cannot help; everything else is worth another try.
        """
        ...


class LinkTransport(Transport, Protocol):
    """A transport of single connections."""

    def connect(self, cursor: Cursor | None) -> AbstractAsyncContextManager[Link]:
        """Make one (see `Transport.connect`)."""
        ...
