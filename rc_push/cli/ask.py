"""How does a command change what handlers do? Through the running daemon, or in the journal where none runs.

Knows the names of the operations; what they do stands in `rc_push.operations`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.cli.journal import reader
from rc_push.cli.show import printable
from rc_push.config.values import Mistake
from rc_push.config.where import compile_where
from rc_push.errors import NotRunning, RcPushError

if TYPE_CHECKING:
    from rc_push.journal.fates import HandlerRow, ParkedRow
    from rc_push.journal.reader import Reader


def live_handlers(settings: Settings) -> list[dict[str, Any]]:
    """Return what the running daemon knows of its handlers; nothing where none runs."""
    from rc_push.control.client import call

    try:
        found: list[dict[str, Any]] = call(settings.control_path(), "handlers")
    except NotRunning:
        return []
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
    from rc_push.journal.store import Store
    from rc_push.operations import OfflineOperations

    with reader(settings):  # there has to be a journal: this is no command that makes one
        pass
    with closing(Store(settings.journal_path())) as store:
        return OfflineOperations(store).run(op, fields)


def change_parked(settings: Settings, op: str, handler: str, where: str | None) -> int:
    """Do *op* on what *handler* has parked, all of it or that for which *where* is true; return how many."""
    from rc_push.operations import POSITIONS_AT_ONCE

    if where is None:
        return int(ask(settings, op, handler=handler, positions=None))
    with reader(settings) as journal:
        positions = [row.row.position for row in parked_in(journal, handler, where)]
    count = 0
    for first in range(0, max(1, len(positions)), POSITIONS_AT_ONCE):
        count += ask(settings, op, handler=handler, positions=positions[first : first + POSITIONS_AT_ONCE])
    return count


def handler_rows_in(journal: Reader) -> list[HandlerRow]:
    """Return all handlers that the journal knows."""
    from rc_push.journal.fates import handler_rows

    with journal.snapshot() as db:
        return handler_rows(db)


def parked_in(journal: Reader, handler: str | None, where: str | None) -> Iterator[ParkedRow]:
    """Yield what is parked, and for which *where* is true. Raises RcPushError for a handler that nobody knows."""
    from rc_push.journal.fates import parked_rows

    matches = compiled_where(where)
    if handler is not None and handler not in {row.handler for row in handler_rows_in(journal)}:
        raise RcPushError(f"there is no handler {printable(handler)}; see rc-push handlers")
    with journal.snapshot() as db:
        rows = list(parked_rows(db, handler))
    for row in rows:
        if matches is None:
            yield row
            continue
        events = journal.after(row.row.position - 1, 1)
        if events and events[0].position == row.row.position and matches(events[0].to_dict()) is True:
            yield row


def compiled_where(where: str | None) -> Callable[[Any], Any] | None:
    """Return *where*, compiled; a usage error where it cannot be."""
    if where is None:
        return None
    try:
        return compile_where(where)
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
