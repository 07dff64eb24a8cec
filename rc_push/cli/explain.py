"""The command that says where an event goes and why: for each handler, which rule decides."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from rc_push.cli import Settings
from rc_push.cli.given import Unusable, documents, event_from_json
from rc_push.cli.journal import json_option, reader
from rc_push.cli.show import event_line
from rc_push.config import HandlerConfig, SubscriptionConfig
from rc_push.envelope import Envelope
from rc_push.errors import EXIT_FAILED, EXIT_OK, RcPushError, RoutingError
from rc_push.routing import Route
from rc_push.terminal import printable

MARKS = {
    "yes": click.style("yes ", fg="green"),
    "no": "no  ",
    "off": click.style("off ", fg="yellow"),
    "park": click.style("park", fg="red"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an event at one handler: it gets it, or not, is off, or would park it."""

    handler: str
    mark: str
    rules: tuple[str, ...]
    why: str

    @property
    def goes(self) -> bool | None:
        """Say whether the handler gets the event; None where that cannot be said, and the event would be parked."""
        return None if self.mark == "park" else self.mark == "yes"


class Router:
    """The routes of all handlers in the file."""

    def __init__(self, handlers: Mapping[str, HandlerConfig]) -> None:
        """Raise ConfigError where a `where` cannot be used."""
        self._routes = [(config, Route(config)) for config in handlers.values()]

    def verdicts(self, envelope: Envelope) -> list[Verdict]:
        """Return the verdict of each handler, in the order of the file."""
        return [_verdict(config, route, envelope) for config, route in self._routes]


def _verdict(config: HandlerConfig, route: Route, envelope: Envelope) -> Verdict:
    try:
        decision = route.decide(envelope)
    except RoutingError as exc:
        verdict = Verdict(config.name, "park", (), f"cannot be routed: {exc}")
    else:
        verdict = Verdict(config.name, "yes" if decision.goes else "no", decision.rules, decision.why)
    if config.enabled:
        return verdict
    return Verdict(config.name, "off", ("enabled",), f"it is not enabled; else: {verdict.mark}, {verdict.why}")


@click.command()
@click.argument("event", metavar="EVENT")
@click.option("--subscription", metavar="NAME", help="Over which one it came, where the file does not say.")
@json_option
@click.pass_obj
def explain(settings: Settings, event: str, subscription: str | None, *, as_json: bool) -> int:
    """Say for each handler whether EVENT goes there, and which rule decides.

    EVENT is a position or uuid in the journal, or a file: an event as RingCentral's webhooks carry it, a line of ours,
    or many of these, one on each line. - is stdin.
    """
    subscriptions, handlers = settings.load_routes()
    router = Router(handlers)
    is_file = _is_file(event)
    if subscription is not None and not is_file:
        raise click.UsageError("--subscription is for files: the journal knows over which one an event came")
    if not handlers:
        click.echo("there are no handlers in the file", err=True)
    explained = failed = 0
    for envelope in _in_file(event, subscriptions, subscription) if is_file else _in_journal(settings, event):
        if isinstance(envelope, Unusable):
            failed += 1
            click.echo(f"{printable(event)}: {printable(str(envelope))}", err=True)
        else:
            explained += 1
            _tell(envelope, router.verdicts(envelope), as_json=as_json)
    if not explained and not failed:
        nothing = "holds no event" if is_file else "no such event in the journal, and no such file"
        click.echo(f"{printable(event)}: {nothing}", err=True)
    return EXIT_OK if explained and not failed else EXIT_FAILED


def _is_file(event: str) -> bool:
    """Say whether *event* names a file; a number never does, unless it is written as ./1042."""
    if event == "-" or "/" in event or event.isdecimal():
        return not event.isdecimal()
    try:
        return Path(event).exists()
    except OSError:  # longer than a name can be
        return False


def _in_journal(settings: Settings, id_: str) -> list[Envelope]:
    with reader(settings) as journal:
        return journal.find(id_)


def _in_file(
    name: str, subscriptions: Mapping[str, SubscriptionConfig], came_over: str | None
) -> Iterator[Envelope | Unusable]:
    """Yield the events of the file, and what is wrong with the others. Raises RcPushError where it cannot be read."""
    with _opened(name) as stream:
        try:
            for number, document in documents(stream):
                try:
                    yield event_from_json(document, subscriptions, came_over, say="name it with --subscription")
                except Unusable as exc:
                    yield Unusable(f"line {number}: {exc}")
        except Unusable as exc:
            yield exc


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except (OSError, ValueError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "no path"
        raise RcPushError(f"{name} cannot be read: {reason}") from None


def _tell(envelope: Envelope, verdicts: list[Verdict], *, as_json: bool) -> None:
    if as_json:
        about = {"position": envelope.position, "uuid": envelope.uuid, "subscription": envelope.subscription}
        for verdict in verdicts:
            told = {"handler": verdict.handler, "goes": verdict.goes, "rules": verdict.rules, "why": verdict.why}
            click.echo(json.dumps(about | told))
        return
    click.echo(event_line(envelope, with_date=True))
    width = max((len(verdict.handler) for verdict in verdicts), default=0)
    for verdict in verdicts:
        click.echo(f"         {MARKS[verdict.mark]}  {verdict.handler:<{width}}  {printable(verdict.why)}")
