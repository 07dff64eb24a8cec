"""What can be seen of the running daemon? How it stands, and the events as they come.

Answers what the control socket asks. Knows the journal and what the parts know of themselves; changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, envelope_to_dict
from rc_push.errors import JournalError, RoutingError
from rc_push.journal import Journal
from rc_push.journal.facts import Facts, facts
from rc_push.routing import Route
from rc_push.status import AppStatistics, status_from

READ_AT_ONCE = 256


class _Tail(msgspec.Struct, forbid_unknown_fields=True):
    """Events behind the position *after* (None: what comes from now on), by the rules of a handler."""

    after: int | None = None
    types: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    where: str | None = None

    def route(self) -> Route:
        """Return the rules. Raises ConfigError."""
        rules = HandlerConfig("tail", "tail", self.types, self.events, self.subscriptions, self.where)
        return Route(rules)


class Views:
    """What the running daemon shows."""

    def __init__(
        self,
        statistics: Callable[[], AppStatistics],
        journal: Journal,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.statistics = statistics
        self._journal = journal
        self._wall = wall
        self._facts: asyncio.Future[Facts] | None = None

    def table(self) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """Return the operations by name."""
        return {"status": self._status, "tail": self._tail}

    async def facts(self) -> Facts:
        """Return what the journal says. Many who ask at once cost one read. Raises JournalError."""
        if self._facts is None or self._facts.done():
            read = partial(facts, path=self._journal.path, now_ms=round(self._wall() * 1000))
            self._facts = asyncio.ensure_future(self._journal.look(read))
        # Shielded: one who asks no more must not take it from the others.
        return await asyncio.shield(self._facts)

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        try:
            found = await self.facts()
        except JournalError as exc:
            return status_from(self.statistics(), None, str(exc))
        return status_from(self.statistics(), found)

    async def _tail(self, fields: dict[str, Any]) -> AsyncIterator[Any]:
        asked = msgspec.convert(fields, _Tail)
        return self._events(self._journal.head if asked.after is None else asked.after, asked.route())

    async def _events(self, position: int, route: Route) -> AsyncIterator[Any]:
        """Yield what comes behind *position*, each as `{"event": …}`; what *route* cannot judge with the reason."""
        while True:
            head = await self._journal.wait_past(position)
            events = await self._journal.read(position, READ_AT_ONCE)
            for event in events:
                if answer := _answer(event, route):
                    yield answer
            position = events[-1].position if events else head  # none: they are removed already
            await asyncio.sleep(0)  # what is not wanted is passed without a wait, and the daemon has more to do


def _answer(event: Envelope, route: Route) -> dict[str, Any] | None:
    try:
        return {"event": envelope_to_dict(event)} if route.matches(event) else None
    except RoutingError as exc:
        return {"position": event.position, "why": str(exc)}
