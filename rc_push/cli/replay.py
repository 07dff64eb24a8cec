"""The command that hands stored events over once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.cli.ask import Strange, ask, check_option_where, events_counted
from rc_push.cli.journal import reader
from rc_push.cli.show import Number, Since
from rc_push.errors import RcPushError
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.envelope import Envelope
    from rc_push.journal.reader import Reader
    from rc_push.routing import Route


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--to", "handler", required=True, metavar="HANDLER", help="Who is to get them.")
@click.option("--since", type=Since(), help="Events received since: 10m, 2h, 3d, or an ISO time.")
@click.option("--until", type=Since(), help="… and before.")
@click.option("--type", "types", multiple=True, metavar="GLOB", help="Only of this type; can be repeated.")
@click.option("--where", help="Only those for which this JMESPath expression is true.")
@click.option("--rate", type=Number(0.001, 100_000), help="Events per second, at the most.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def replay(settings: Settings, /, ids: Sequence[str], handler: str, *, dry_run: bool, **span: Any) -> None:
    """Hand stored events over once more: by position or uuid, or by time. HANDLER's rules apply."""
    since, until = span["since"], span["until"]
    if bool(ids) == (since is not None):
        raise click.UsageError("name events, or say --since: one of the two")
    if ids and until is not None:
        raise click.UsageError("--until belongs to --since: leave it out where you name events")
    check_option_where(span["where"])
    fields: dict[str, Any] = {"handler": handler, "types": list(span["types"]), "where": span["where"]}
    fields["rate"] = span["rate"]
    with reader(settings) as journal:
        if ids:
            fields["positions"] = _positions(journal, ids)
        else:
            fields |= {"sinceMs": since, "untilMs": until}
        wanted, left_out = _count(settings, journal, fields)
    hint = f" ({'; '.join(left_out)})" if left_out else ""
    click.echo(f"{events_counted(wanted)} for {handler}{hint}", err=True)
    if dry_run or not wanted:
        return
    if ask(settings, "replay", **fields)["isLive"]:
        click.echo(f"they are being handed over; rc-push handlers shows how far {handler} is", err=True)
    else:
        click.echo("no daemon is running; they are handed over at its next start", err=True)


def _positions(journal: Reader, ids: Sequence[str]) -> list[int]:
    from rc_push.operations import POSITIONS_AT_ONCE

    found = []
    for id_ in ids:
        events = journal.find(id_)
        if not events:
            raise RcPushError(f"no event {printable(id_)} in the journal")
        found += [event.position for event in events]
    if len(found) > POSITIONS_AT_ONCE:
        raise RcPushError(f"more than {POSITIONS_AT_ONCE} events; say --since, with --where")
    return sorted(set(found))


def _count(settings: Settings, journal: Reader, fields: dict[str, Any]) -> tuple[int, list[str]]:
    """Return how many events are meant, and in words how many more are not, and why."""
    from rc_push.dispatch.replay import Selection
    from rc_push.routing import Route

    config = settings.load_routes()[1].get(fields["handler"])
    if config is None:
        raise RcPushError(f"there is no handler {fields['handler']!r} in the file")
    positions = fields.get("positions")
    selection = Selection(None if positions is None else frozenset(positions), tuple(fields["types"]), fields["where"])
    route, wanted, refused, strange = Route(config), 0, 0, Strange()
    for event in journal.between(positions, fields.get("sinceMs") or 0, fields.get("untilMs")):
        if strange.means(selection, event):
            goes = _goes(route, event)
            wanted, refused = wanted + goes, refused + (not goes)
    left_out = [f"{events_counted(refused)} not: its rules are against it, see rc-push explain"] if refused else []
    return wanted, left_out + ([f"{events_counted(strange.count)} not: {strange.why}"] if strange.count else [])


def _goes(route: Route, event: Envelope) -> bool:
    from rc_push.errors import RoutingError

    try:
        return route.matches(event)
    except RoutingError:  # the handler would park it
        return False
