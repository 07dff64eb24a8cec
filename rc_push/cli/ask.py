"""How does a command change what handlers do? Through the running daemon, or in the journal where none runs.

Knows the names of the operations; what they do stands in `rc_push.operations`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.cli.journal import reader, writer
from rc_push.config.values import Mistake
from rc_push.config.where import check_where
from rc_push.errors import NotRunning, RcPushError, RoutingError
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.dispatch.replay import Selection
    from rc_push.envelope import Envelope
    from rc_push.journal.fates import HandlerRow, ParkedRow
    from rc_push.journal.reader import Reader


def live_handlers(settings: Settings) -> list[dict[str, Any]]:
    """Return what the running daemon knows of its handlers; nothing where none runs."""
    from rc_push.control.client import call, stranger

    try:
        found = call(settings.control_path(), "handlers")
    except NotRunning:
        return []
    if not isinstance(found, list):
        raise stranger(settings.control_path())
    return found


def ask(settings: Settings, op: str, **fields: Any) -> Any:
    """Let the running daemon do *op*, or do it on the journal where none runs; a dict also says which (`isLive`)."""
    from rc_push.control.client import call

    try:
        result = call(settings.control_path(), op, **fields)
    except NotRunning:
        return _tell(_offline(settings, op, fields), is_live=False)
    return _tell(result, is_live=True)


def _tell(result: Any, *, is_live: bool) -> Any:
    return result | {"isLive": is_live} if isinstance(result, dict) else result


def _offline(settings: Settings, op: str, fields: dict[str, Any]) -> Any:
    from rc_push.operations import OfflineOperations

    with writer(settings) as store:
        return OfflineOperations(store).run(op, fields)


def change_parked(settings: Settings, op: str, handler: str, positions: Sequence[int] | None) -> int:
    """Do *op* on what *handler* has parked at *positions* (None: all of it); return how many."""
    from rc_push.operations import POSITIONS_AT_ONCE

    if positions is None:
        return int(ask(settings, op, handler=handler, positions=None))
    count = 0
    for first in range(0, max(1, len(positions)), POSITIONS_AT_ONCE):
        count += ask(settings, op, handler=handler, positions=positions[first : first + POSITIONS_AT_ONCE])
    return count


def parked_positions(settings: Settings, handler: str, where: str | None) -> list[int]:
    """Return the positions of what *handler* has parked, and for which *where* is true."""
    with reader(settings) as journal:
        return [row.row.position for row in parked_in(journal, handler, where)]


def handler_rows_in(journal: Reader) -> list[HandlerRow]:
    """Return all handlers that the journal knows."""
    from rc_push.journal.fates import handler_rows

    with journal.snapshot() as db:
        return handler_rows(db)


def parked_in(journal: Reader, handler: str | None, where: str | None) -> Iterator[ParkedRow]:
    """Yield what is parked, and for which *where* is true; what it cannot be applied to is told of at the end.

    Raises RcPushError for a handler that nobody knows.
    """
    from rc_push.dispatch.replay import Selection
    from rc_push.journal.fates import parked_rows

    check_option_where(where)
    if handler is not None and handler not in {row.handler for row in handler_rows_in(journal)}:
        raise RcPushError(f"there is no handler {printable(handler)}; see rc-push handlers")
    with journal.snapshot() as db:
        rows = list(parked_rows(db, handler))
    if where is None:
        yield from rows
        return
    selection, strange = Selection(where=where), Strange()
    for row in rows:
        events = journal.after(row.row.position - 1, 1)
        if events and events[0].position == row.row.position and strange.means(selection, events[0]):
            yield row
    if strange.count:
        click.echo(f"{events_counted(strange.count)} left out: {strange.why}", err=True)


class Strange:
    """Counts the events that an expression cannot be applied to, which are not meant; *why* is the first reason."""

    def __init__(self) -> None:
        self.count = 0
        self.why = ""

    def means(self, selection: Selection, event: Envelope) -> bool:
        """Say whether *event* is one of *selection*."""
        try:
            return selection.matches(event)
        except RoutingError as exc:
            self.count += 1
            self.why = self.why or printable(str(exc))
            return False


def check_option_where(where: str | None) -> None:
    """Raise a usage error where no event can be asked *where*."""
    if where is None:
        return
    try:
        check_where(where)
    except Mistake as mistake:
        raise click.BadParameter(f"{mistake.found}; {mistake.remedy}", param_hint="--where") from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere it takes --yes."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("this cannot be undone: say --yes")
    click.confirm(question, abort=True)


def events_counted(count: int) -> str:
    """Return the number with its noun."""
    return "1 event" if count == 1 else f"{count} events"
