"""The commands that read the journal: events, gaps, unreadable. Read-only, with or without a running daemon."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rc_push.cli import Settings
from rc_push.cli.show import Since, event_line, json_line, time_of_day
from rc_push.envelope import Envelope
from rc_push.errors import EXIT_FAILED
from rc_push.journal.progress import Attempt, Unfinished
from rc_push.journal.reader import Reader
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.journal.store import Store

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@contextlib.contextmanager
def reader(settings: Settings) -> Iterator[Reader]:
    """Open the journal that the configuration names."""
    opened = Reader(Path(settings.journal_path()))
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def writer(settings: Settings) -> Iterator[Store]:
    """Open the journal that the configuration names to change it, while no daemon runs. Makes none."""
    from rc_push.journal.store import Store

    with reader(settings) as opened:
        path = opened.path
    with contextlib.closing(Store(path)) as store:
        yield store


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--since", type=Since(), default=0, help="Only events received since: 10m, 2h, 3d, or an ISO time.")
@click.option("--type", "type_glob", default="*", help="Only events of this type; a glob such as 'post.*'.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, the newest.")
@json_option
@click.pass_obj
def events(settings: Settings, id_: str | None, since: int, type_glob: str, limit: int, *, as_json: bool) -> None:
    """List the newest events, or show the one with this position or uuid."""
    if id_ is not None:
        _refuse_beside_id("since", "type_glob", "limit")
    with reader(settings) as journal:
        if id_ is None:
            newest = journal.newest(limit, since_ms=since, type_glob=type_glob)
            for envelope in newest:
                click.echo(json_line(envelope) if as_json else event_line(envelope, with_date=True))
            if not newest and not as_json:
                click.echo("no such events are stored", err=True)
            return
        found = journal.find(id_)
        for envelope in found:
            click.echo(json_line(envelope) if as_json else _story(envelope, journal))
    if not found:
        click.echo(f"no event {printable(id_)} in the journal", err=True)
        raise SystemExit(EXIT_FAILED)


def _refuse_beside_id(*names: str) -> None:
    """Raise a usage error where one of the options *names* is given: they choose among all events."""
    ctx = click.get_current_context()
    if any(ctx.get_parameter_source(name) is not ParameterSource.DEFAULT for name in names):
        raise click.UsageError("--since, --type and --limit are for a list: leave them out, or the ID")


@click.command()
@click.option("--since", type=Since(), default=0, help="Only gaps that reach behind: 10m, 2h, 3d, or an ISO time.")
@json_option
@click.pass_obj
def gaps(settings: Settings, since: int, *, as_json: bool) -> None:
    """List the times of which events are, or may be, missing."""
    with reader(settings) as journal:
        found = list(journal.gaps(since_ms=since))
    for gap in found:
        fields = gap.to_dict()
        if as_json:
            click.echo(json.dumps(fields))
            continue
        until = fields["until"] or "still open"
        colour = "red" if gap.certainty == "certain" else "yellow"
        span = f"{fields['since']} → {until}"
        click.echo(
            f"{span:<53} {click.style(f'{gap.certainty:<8}', fg=colour)} {gap.subscription}  {printable(gap.reason)}"
        )
    if not found and not as_json:
        click.echo("no gaps are known", err=True)


@click.command()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, the newest.")
@json_option
@click.pass_obj
def unreadable(settings: Settings, limit: int, *, as_json: bool) -> None:
    """List the messages that could not be read, with the reason and their raw text."""
    with reader(settings) as journal:
        found = journal.unreadables(limit)
    for row in found:
        if as_json:
            click.echo(json.dumps(row.to_dict()))
            continue
        beginning = printable(row.raw[:60].decode("utf-8", "replace"))
        when = time_of_day(row.received_at_ms)
        about = f"{printable(row.reason)}  ({len(row.raw)} bytes: {beginning})"
        click.echo(f"{row.id:>5}  {when}  {row.subscription}  {about}")
    if not found and not as_json:
        click.echo("nothing unreadable was received", err=True)


def _story(envelope: Envelope, journal: Reader) -> str:
    """Return all that is known of one event."""
    from rc_push.journal.fates import fates_of

    body: Any = json.dumps(envelope.body, indent=2, ensure_ascii=False)
    lines = [
        event_line(envelope, with_date=True),
        f"  uuid           {printable(envelope.uuid)}",
        f"  event          {printable(envelope.event)}",
        f"  sent           {printable(envelope.timestamp)}",
        f"  received       {envelope.received_at.isoformat(timespec='milliseconds')} ({envelope.origin})",
        f"  account        {envelope.account}, owner {printable(envelope.owner_id or '-')}",
        f"  subscription   {envelope.subscription} over {envelope.transport}",
        f"  their id of it {printable(envelope.subscription_id or '-')}",
    ]
    with journal.snapshot() as db:
        for fate in fates_of(db, envelope.position):
            lines += _fate_lines(*fate)
    lines += [f"  {printable(line)}" for line in f"body {body}".splitlines()]
    return "\n".join(lines)


def _fate_lines(handler: str, fate: str, row: Unfinished | None, attempts: list[Attempt]) -> Iterator[str]:
    words = {"finished": "done, or not wanted", "pending": "not handed over yet"}.get(fate, fate)
    if row and row.due_at_ms:
        words += f", next try at {time_of_day(row.due_at_ms)}"
    if row and row.reason:
        words += f": {printable(row.reason)}"
    yield f"  handler        {handler}: {words}"
    for call in attempts:
        error = f": {printable(call.error)}" if call.error else ""
        yield f"    call {call.number:<3}     {time_of_day(call.began_at_ms)}  {call.took_ms} ms  {call.outcome}{error}"
        yield from (f"      {printable(line)}" for line in call.detail.splitlines())
