"""What may an operator ask for? The operations on handlers: by the running daemon, or on a journal that nobody uses.

`Operations` answers what the control socket asks of a daemon; `OfflineOperations` does the same to the journal itself,
and the next start goes on from there. Both take the same names and fields. Knows dispatchers and the journal; knows
nothing of commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from rc_push.dispatch import Dispatcher, DispatcherStatistics
from rc_push.dispatch.replay import Selection, split_retry
from rc_push.errors import RcPushError
from rc_push.journal import Journal, ProgressRows, Replay, Store

# Positions of one request: it stays well below what the control socket takes.
POSITIONS_AT_ONCE = 4000
# What SQLite takes for a number.
_Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _OneHandler(msgspec.Struct, forbid_unknown_fields=True):
    handler: str


class _Parked(msgspec.Struct, forbid_unknown_fields=True):
    """*positions*: None = all that are parked."""

    handler: str
    positions: list[_Number] | None = None


class _Replay(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Either *positions*, or what was received from *sinceMs* up to before *untilMs* (None: until now)."""

    handler: str
    positions: list[_Number] | None = None
    since_ms: _Number = 0
    until_ms: _Number | None = None
    types: tuple[str, ...] = ()
    where: str | None = None
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def selection(self) -> Selection:
        """Return which events of the span are meant. Raises ConfigError where that cannot be told."""
        positions = None if self.positions is None else frozenset(self.positions)
        selection = Selection(positions, self.types, self.where)
        selection.check()  # it is kept, and would end the handler at every start
        return selection

    def span(self, received: tuple[int, int]) -> tuple[int, int]:
        """Return the positions behind which, and up to which, they lie; *received* is that of the times."""
        if not self.positions:
            return received
        return min(self.positions) - 1, min(max(self.positions), received[1])


class Operations:
    """What the running daemon does for commands. *in_file*: the names of all handlers in its file, at work or not."""

    def __init__(self, dispatchers: Sequence[Dispatcher], journal: Journal, in_file: Collection[str]) -> None:
        self._journal = journal
        self.use(dispatchers, in_file)

    def use(self, dispatchers: Sequence[Dispatcher], in_file: Collection[str]) -> None:
        """Speak of *dispatchers* from now on: a reload has exchanged some."""
        self._dispatchers = {dispatcher.name: dispatcher for dispatcher in dispatchers}
        self._in_file = frozenset(in_file)

    def table(self) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """Return the operations by name, each a coroutine function of the request's fields."""
        return {
            "handlers": self._handlers,
            "handlers.pause": self._pause,
            "handlers.resume": self._resume,
            "handlers.retry": self._retry,
            "handlers.forget": self._forget,
            "parked.drop": self._drop,
            "replay": self._replay,
        }

    async def _handlers(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [handler_to_dict(dispatcher.statistics()) for dispatcher in self._dispatchers.values()]

    async def _pause(self, fields: dict[str, Any]) -> None:
        await (await self._find(msgspec.convert(fields, _OneHandler).handler)).pause()

    async def _resume(self, fields: dict[str, Any]) -> None:
        await (await self._find(msgspec.convert(fields, _OneHandler).handler)).resume()

    async def _retry(self, fields: dict[str, Any]) -> int:
        asked = msgspec.convert(fields, _Parked)
        return await (await self._find(asked.handler)).retry(asked.positions)

    async def _drop(self, fields: dict[str, Any]) -> int:
        asked = msgspec.convert(fields, _Parked)
        if asked.handler in self._dispatchers:
            return await self._dispatchers[asked.handler].drop(asked.positions)
        return await self._journal.change_progress(lambda rows: _drop(rows, asked))

    async def _forget(self, fields: dict[str, Any]) -> None:
        name = msgspec.convert(fields, _OneHandler).handler
        if name in self._dispatchers or name in self._in_file:
            raise RcPushError(f"the handler {name} is in the daemon's file; take it out of the file and reload first")
        await self._journal.change_progress(lambda rows: _forget(rows, name))

    async def _replay(self, fields: dict[str, Any]) -> dict[str, Any]:
        asked = msgspec.convert(fields, _Replay)
        dispatcher = await self._find(asked.handler)
        span = asked.span(await self._journal.positions_before(asked.since_ms, asked.until_ms))
        return _replay_to_dict(await dispatcher.replay(span, asked.selection(), asked.rate))

    async def _find(self, name: str) -> Dispatcher:
        if name in self._dispatchers:
            return self._dispatchers[name]
        if name in await self._journal.change_progress(lambda rows: rows.names()):
            remedy = "enable it, or put it back into the file, and restart"
            raise RcPushError(f"the handler {name} does not run; {remedy}")
        raise _unknown(name, self._dispatchers)


class OfflineOperations:
    """The same on a journal that no daemon uses. What has to be handed over is, at the next start."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, op: str, fields: dict[str, Any]) -> Any:
        """Do *op* in one transaction. Raises RcPushError, JournalError."""
        table: dict[str, Callable[[], Any]] = {
            "handlers.pause": lambda: self._pause(fields, is_paused=True),
            "handlers.resume": lambda: self._pause(fields, is_paused=False),
            "handlers.retry": lambda: self._retry(fields),
            "handlers.forget": lambda: _forget(self._store.progress, msgspec.convert(fields, _OneHandler).handler),
            "parked.drop": lambda: _drop(self._store.progress, msgspec.convert(fields, _Parked)),
            "replay": lambda: self._replay(fields),
        }
        with self._store.transaction():
            return table[op]()

    def _pause(self, fields: dict[str, Any], *, is_paused: bool) -> None:
        self._store.progress.pause(self._known(msgspec.convert(fields, _OneHandler).handler), is_paused=is_paused)

    def _retry(self, fields: dict[str, Any]) -> int:
        asked, rows = msgspec.convert(fields, _Parked), self._store.progress
        parked = rows.parked_positions(self._known(asked.handler))
        wanted = sorted(parked if asked.positions is None else parked.intersection(asked.positions))
        few, many = split_retry(wanted, rows.position(asked.handler))
        if many:
            selection = Selection(None if asked.positions is None else frozenset(many), is_retry=True)
            rows.add_replay(asked.handler, (many[0] - 1, many[-1]), selection.to_json(), None, _now_ms())
        return rows.retry_parked(asked.handler, few, _now_ms()) + len(many)

    def _replay(self, fields: dict[str, Any]) -> dict[str, Any]:
        asked = msgspec.convert(fields, _Replay)
        span = asked.span(self._store.positions_before(asked.since_ms, asked.until_ms))
        handler = self._known(asked.handler)
        selection = asked.selection().to_json()
        return _replay_to_dict(self._store.progress.add_replay(handler, span, selection, asked.rate, _now_ms()))

    def _known(self, name: str) -> str:
        return _known(self._store.progress, name)


def handler_to_dict(statistics: DispatcherStatistics) -> dict[str, Any]:
    """Return *statistics* as JSON has it. The counts are those since the start of the daemon."""
    names = ("handler", "state", "position", "waiting", "failed", "replays")
    return {
        **{name: getattr(statistics, name) for name in names},
        "inHand": statistics.in_hand,
        "lastError": statistics.last_error,
        "nextTryAtMs": None if statistics.next_try_at is None else round(statistics.next_try_at * 1000),
    }


def _drop(rows: ProgressRows, asked: _Parked) -> int:
    return rows.drop_parked(_known(rows, asked.handler), asked.positions)


def _forget(rows: ProgressRows, name: str) -> None:
    rows.forget(_known(rows, name))


def _known(rows: ProgressRows, name: str) -> str:
    if name not in rows.names():
        raise _unknown(name, rows.names())
    return name


def _unknown(name: str, known: Mapping[str, object] | Sequence[str]) -> RcPushError:
    return RcPushError(f"there is no handler {name[:100]!r}; there are: {', '.join(sorted(known)) or 'none'}")


def _replay_to_dict(replay: Replay) -> dict[str, Any]:
    return {"id": replay.id, "handler": replay.handler, "after": replay.position, "until": replay.until}


def _now_ms() -> int:
    return round(time.time() * 1000)
