"""The commands about handlers: how far they are, what they have given up on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rc_push.cli import Settings
from rc_push.cli.ask import (
    ask,
    change_parked,
    confirm,
    events_counted,
    handler_rows_in,
    live_handlers,
    parked_in,
    parked_positions,
)
from rc_push.cli.journal import json_option, reader
from rc_push.cli.show import time_of_day
from rc_push.errors import ConfigError, RcPushError
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.journal.fates import HandlerRow, ParkedRow
    from rc_push.journal.reader import Reader

STATES = {"running": "green", "paused": "yellow", "failing": "red", "trying": "yellow"}
COUNTS = ("delivered", "filtered", "pending", "waiting", "parked", "dropped")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def handlers(ctx: click.Context, *, as_json: bool) -> None:
    """Show how far each handler is; pause, resume, retry or forget one."""
    if ctx.invoked_subcommand is not None:
        _check_options_before(ctx, handlers.commands[ctx.invoked_subcommand])
        return
    settings: Settings = ctx.obj
    live = {one["handler"]: one for one in live_handlers(settings)}
    with reader(settings) as journal:
        rows = handler_rows_in(journal)
        lags = {row.handler: _lag_s(journal, row) for row in rows}
    for row in rows:
        known = live.get(row.handler, {})
        fields = row.to_dict() | {"lagS": lags[row.handler], "state": known.get("state", row.state)}
        fields |= {name: known.get(name) for name in ("inHand", "lastError", "nextTryAtMs")}
        click.echo(json.dumps(fields) if as_json else _handler_line(fields))
    if not rows and not as_json:
        click.echo("no handler has run yet", err=True)


def _check_options_before(ctx: click.Context, subcommand: click.Command) -> None:
    """Raise a usage error where options of the list stand before *subcommand*, which would not heed them."""
    given = [
        option.opts[0]
        for option in ctx.command.params
        if option.name and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if not given:
        return
    arguments = [param.human_readable_name for param in subcommand.params if isinstance(param, click.Argument)]
    kept = [f"{option} …" for param in subcommand.params for option in param.opts if option in given]
    written = " ".join([ctx.command_path, str(subcommand.name), *arguments, *kept])
    raise click.UsageError(f"{', '.join(given)} before {subcommand.name} is for the list alone; write: {written}")


def _handler_line(fields: dict[str, Any]) -> str:
    state = click.style(f"{fields['state']:<12}", fg=STATES.get(fields["state"], "white"))
    counts = "  ".join(f"{name} {fields[name]}" for name in COUNTS if fields[name] or name in ("delivered", "pending"))
    lag = f"  {fields['lagS']:.0f} s behind" if fields["lagS"] else ""
    next_try = f"  next try at {time_of_day(fields['nextTryAtMs'])}" if fields["nextTryAtMs"] else ""
    error = f"\n    {printable(fields['lastError'])}" if fields["lastError"] else ""
    return f"{fields['handler']:<16} {state} at {fields['position']}  {counts}{lag}{next_try}{error}"


def _lag_s(journal: Reader, row: HandlerRow) -> float:
    """Return how long the oldest event has been there that is not done with: not handed over, or to be once more."""
    after = row.position if row.oldest_waiting is None else min(row.position, row.oldest_waiting - 1)
    events = journal.after(after, 1) if row.pending else []
    return round(max(0.0, time.time() - events[0].received_at_ms / 1000), 1) if events else 0.0


@handlers.command()
@click.argument("name")
@click.pass_obj
def pause(settings: Settings, name: str) -> None:
    """Hand nothing over to NAME until it is resumed, also after a restart."""
    ask(settings, "handlers.pause", handler=name)
    click.echo(f"{name} is paused; its events wait: rc-push handlers resume {name}", err=True)


@handlers.command()
@click.argument("name")
@click.pass_obj
def resume(settings: Settings, name: str) -> None:
    """Let NAME go on."""
    ask(settings, "handlers.resume", handler=name)
    click.echo(f"{name} goes on", err=True)


@handlers.command()
@click.argument("name")
@click.option("--where", help="Only those for which this JMESPath expression is true.")
@click.pass_obj
def retry(settings: Settings, name: str, where: str | None) -> None:
    """Hand what NAME has parked over again, as if for the first time."""
    positions = None if where is None else parked_positions(settings, name, where)
    count = change_parked(settings, "handlers.retry", name, positions)
    click.echo(f"{events_counted(count)} of {name} will be handed over again", err=True)


@handlers.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def forget(settings: Settings, name: str, *, dry_run: bool, yes: bool) -> None:
    """Forget NAME, which is not in the file any more: its position, and all that it has not finished."""
    _check_gone(settings, name)
    if dry_run:
        row = _row(settings, name)
        left = events_counted(row.pending + row.parked)
        click.echo(
            f"{name} at position {row.position} would be forgotten, and {left} that it has not finished", err=True
        )
        return
    confirm(f"forget {name}, with what it has not finished?", yes=yes)
    ask(settings, "handlers.forget", handler=name)
    click.echo(f"{name} is forgotten", err=True)


def _row(settings: Settings, name: str) -> HandlerRow:
    """Return what the journal knows of NAME. Raises RcPushError."""
    with reader(settings) as journal:
        rows = {row.handler: row for row in handler_rows_in(journal)}
    if name not in rows:
        raise RcPushError(f"there is no handler {name}; see rc-push handlers")
    return rows[name]


def _check_gone(settings: Settings, name: str) -> None:
    """Raise RcPushError where NAME is in the file, or where the file does not tell."""
    try:
        in_file = settings.load_routes()[1]
    except ConfigError:
        click.echo(f"{printable(name)} is not forgotten: the file does not tell whether it is still there", err=True)
        raise
    if name in in_file:
        raise RcPushError(f"the handler {name} is in the file; take it out of the file first, and reload")


# --------------------------------------------------------------------------------------------------------------- parked


@click.group(invoke_without_command=True)
@click.option("--handler", metavar="NAME", help="Only those of this handler.")
@click.option("--where", help="Only those for which this JMESPath expression is true.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def parked(ctx: click.Context, handler: str | None, where: str | None, limit: int, *, as_json: bool) -> None:
    """List the events that handlers have given up on."""
    if ctx.invoked_subcommand is not None:
        _check_options_before(ctx, parked.commands[ctx.invoked_subcommand])
        return
    count = 0
    with reader(ctx.obj) as journal:
        for row in parked_in(journal, handler, where):
            if count == limit:
                click.echo(f"there are more; see --limit {limit * 10}", err=True)
                break
            count += 1
            click.echo(json.dumps(row.to_dict()) if as_json else _parked_line(row))
    if not count and not as_json:
        click.echo("nothing is parked", err=True)


def _parked_line(parked: ParkedRow) -> str:
    row = parked.row
    reason = printable(row.reason.partition("\n")[0])
    tries = "1 attempt" if row.attempts == 1 else f"{row.attempts} attempts"
    return f"{row.position:>7}  {time_of_day(row.changed_at_ms)}  {parked.handler:<16} {tries}: {reason}"


@parked.command()
@click.argument("handler", metavar="HANDLER")
@click.option("--where", help="Only those for which this JMESPath expression is true.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(settings: Settings, handler: str, where: str | None, *, dry_run: bool, yes: bool) -> None:
    """Give what HANDLER has parked up for good. The events stay in the journal until they are old."""
    positions = parked_positions(settings, handler, where)
    if dry_run:
        click.echo(f"{events_counted(len(positions))} would be dropped", err=True)
        return
    confirm(f"drop {events_counted(len(positions))} that {handler} has parked?", yes=yes)
    # Those that were counted: what has been parked since, nobody was asked about.
    click.echo(f"{events_counted(change_parked(settings, 'parked.drop', handler, positions))} dropped", err=True)
