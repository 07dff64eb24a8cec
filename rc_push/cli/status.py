"""The command that tells how everything stands: asked of the running daemon, or read from the journal."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.cli.advice import actions_for
from rc_push.cli.journal import json_option
from rc_push.cli.show import Number, is_terminal
from rc_push.cli.status_text import status_lines
from rc_push.envelope import iso_from_ms
from rc_push.errors import EXIT_DOWN, EXIT_FAILED, EXIT_OK, JournalError, NoAnswer, NotRunning
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.journal.facts import Facts

EXIT_CODES = {"ok": EXIT_OK, "degraded": EXIT_FAILED, "down": EXIT_DOWN}
# Of the document, whoever makes it.
PARTS = {
    *("state", "reasons", "isReady", "at", "daemon", "config"),
    *("accounts", "subscriptions", "handlers", "events", "gaps", "journal"),
}
# A daemon that does not answer for so long does not work.
ANSWER_WITHIN_S = 5.0
WATCH_EVERY_S = 2.0
READY_AGAIN_S = 0.2
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@click.command()
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--wait-ready", type=Number(0), metavar="S", help="Wait until it is ready, S seconds at most.")
@json_option
@click.pass_obj
def status(settings: Settings, wait_ready: float | None, *, watch: bool, as_json: bool) -> int:
    """Tell how everything stands, and what to do next. Exit code 0: all is well, 1: degraded, 3: down."""
    document = _wait_ready(settings, wait_ready or 0.0)
    _show(document, as_json=as_json, watch=watch)
    while watch:
        time.sleep(WATCH_EVERY_S)
        _show(_document(settings), as_json=as_json, watch=watch)
    return EXIT_CODES[document["state"]]


def _wait_ready(settings: Settings, within_s: float) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while not (document := _document(settings))["isReady"] and time.monotonic() < until:
        time.sleep(READY_AGAIN_S)
    return document


def _show(document: dict[str, Any], *, as_json: bool, watch: bool) -> None:
    if as_json:
        click.echo(json.dumps(document))
        return
    if watch and is_terminal():
        click.echo(CLEAR, nl=False)
    for line in status_lines(document, time.time()):
        click.echo(line)


def _document(settings: Settings) -> dict[str, Any]:
    """Return the document of the running daemon; where none answers, what the journal knows."""
    from rc_push.control.client import call, stranger

    try:
        document = call(settings.control_path(), "status", timeout_s=ANSWER_WITHIN_S)
    except (NotRunning, NoAnswer) as exc:
        document = _from_journal(settings, exc)
    if not isinstance(document, dict) or not document.keys() >= PARTS:
        raise stranger(settings.control_path())
    document = {"isRunning": True} | document
    return document | {"actions": actions_for(document)}


def _from_journal(settings: Settings, why: NotRunning | NoAnswer) -> dict[str, Any]:
    """Return the same document without a daemon."""
    reasons = [printable(str(why))]
    found = None
    try:
        found = _facts(settings)
    except JournalError as exc:
        reasons.append(printable(str(exc)))
    return {
        "state": "down",
        "reasons": reasons,
        "isReady": False,
        "isRunning": isinstance(why, NoAnswer),
        "at": iso_from_ms(round(time.time() * 1000)),
        "daemon": None,
        "config": None,
        "accounts": [],
        "subscriptions": [] if found is None else [_subscription(tally) for tally in found.tallies],
        "handlers": [] if found is None else list(found.handlers_to_dict().values()),
        "events": {} if found is None else found.events_to_dict(),
        "gaps": {} if found is None else found.gaps_to_dict(),
        "journal": {} if found is None else found.journal_to_dict(),
    }


def _facts(settings: Settings) -> Facts:
    from rc_push.cli.journal import reader
    from rc_push.journal.facts import facts

    with reader(settings) as journal, journal.snapshot() as db:
        return facts(db, journal.path, round(time.time() * 1000))


def _subscription(tally: Any) -> dict[str, Any]:
    counts = {name: getattr(tally, name) for name in ("received", "stored", "duplicate", "unreadable")}
    return {"subscription": tally.subscription, "state": "not running", **counts}
