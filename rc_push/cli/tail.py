"""The command that shows events as they come: the newest ones from the journal, then what the daemon receives."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from rc_push.cli import Settings
from rc_push.cli.ask import check_option_where
from rc_push.cli.hiding import Hiding
from rc_push.cli.journal import json_option, reader
from rc_push.cli.show import event_lines, json_line
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, envelope_from_dict
from rc_push.errors import JournalError, NoAnswer, NotRunning, RoutingError
from rc_push.routing import Route
from rc_push.terminal import printable

# Events that are looked at for some that match; older ones are for `events` and `explain`.
LOOKED_AT_MAX = 100_000
READ_AT_ONCE = 500
# A daemon that is restarted is back within seconds.
CONNECT_AGAIN_S = 1.0


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C; also through restarts.")
@click.option("-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="So many of the newest.")
@click.option("--types", multiple=True, metavar="GLOB", help="Only these types, such as 'post.*'; can be repeated.")
@click.option("--events", multiple=True, metavar="GLOB", help="Only these event URIs; can be repeated.")
@click.option("--subscriptions", multiple=True, metavar="NAME", help="Only from these; can be repeated.")
@click.option("--where", help="Only those for which this JMESPath expression is true.")
@click.option("--redact", is_flag=True, help="Hide numbers, names and texts; what is the same still looks the same.")
@json_option
@click.pass_obj
def tail(settings: Settings, /, *, follow: bool, lines: int, redact: bool, as_json: bool, **rules: Any) -> None:
    """Show the newest events and, with -f, each one that comes."""
    check_option_where(rules["where"])  # a mistake in it is one of the command line
    hiding = Hiding() if redact else None

    def show(envelope: Envelope) -> None:
        shown = hiding.envelope(envelope) if hiding else envelope
        for line in [json_line(shown)] if as_json else event_lines(shown):
            click.echo(line)
        sys.stdout.flush()

    position = _show_newest(settings, Route(HandlerConfig("tail", "tail", **rules)), lines, show, follow=follow)
    if follow:
        _follow(settings, position, rules, show)


def _show_newest(
    settings: Settings, route: Route, count: int, show: Callable[[Envelope], None], *, follow: bool
) -> int:
    """Show the newest *count* events that match; return the journal's newest position, 0 where it may still come.

    Raises JournalError where there is nothing to follow either.
    """
    try:
        with reader(settings) as journal:
            newest = journal.newest(1)
            head = newest[-1].position if newest else 0
            found: list[Envelope] = []
            before = head + 1
            while len(found) < count and before > head + 1 - LOOKED_AT_MAX:
                events = journal.before(before, READ_AT_ONCE)
                if not events:
                    break
                found += [event for event in reversed(events) if _matches(route, event)]
                before = events[0].position
    except JournalError:
        if not follow:
            raise
        return 0
    for event in reversed(found[:count]):
        show(event)
    return head


def _matches(route: Route, event: Envelope) -> bool:
    try:
        return route.matches(event)
    except RoutingError as exc:
        _tell_unjudged(event.position, str(exc))
        return False


def _follow(settings: Settings, position: int, rules: dict[str, Any], show: Callable[[Envelope], None]) -> None:
    """Show what comes behind *position*, for ever. A daemon that ends is waited for; nothing is missed."""
    is_told = False
    while True:
        try:
            for answer in _answers(settings, position, rules):
                is_told = False
                if "event" in answer:
                    envelope = envelope_from_dict(answer["event"])
                    position = envelope.position
                    show(envelope)
                else:
                    position = answer["position"]
                    _tell_unjudged(answer["position"], answer["why"])
        except (NotRunning, NoAnswer) as exc:
            if not is_told:
                click.echo(f"rc-push: {printable(str(exc))}; waiting for it", err=True)
            is_told = True
        time.sleep(CONNECT_AGAIN_S)


def _answers(settings: Settings, position: int, rules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from rc_push.control.client import stream

    return stream(settings.control_path(), "tail", after=position, **rules)


def _tell_unjudged(position: int, why: str) -> None:
    click.echo(f"rc-push: the event {position} cannot be judged: {printable(why)}", err=True)
