"""The commands that look after the journal's file: check, stats, export, compact."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import click

from rc_push.cli import Settings
from rc_push.cli.journal import json_option, reader, writer
from rc_push.cli.show import Since, is_terminal, json_line
from rc_push.errors import EXIT_FAILED, EXIT_OK
from rc_push.terminal import printable


@click.group()
def journal() -> None:
    """Look after the journal: check, stats, export, compact."""


@journal.command()
@json_option
@click.pass_obj
def check(settings: Settings, *, as_json: bool) -> int:
    """Look for damage and for what does not belong together. Reads all of the journal; a running daemon goes on."""
    from rc_push.journal.check import check as findings_of

    with reader(settings) as opened, opened.snapshot() as db:
        findings = findings_of(db)
    for finding in findings:
        mark = click.style("✗", fg="red")
        click.echo(json.dumps(finding.to_dict()) if as_json else f"{mark} {printable(finding.found)}; {finding.remedy}")
    if not findings and not as_json:
        click.echo("the journal is as it should be")
    return EXIT_FAILED if findings else EXIT_OK


@journal.command()
@json_option
@click.pass_obj
def stats(settings: Settings, *, as_json: bool) -> None:
    """Tell how large it is, and what is in it. Quick, whatever its size."""
    from rc_push.journal.stats import stats as stats_of

    with reader(settings) as opened, opened.snapshot() as db:
        found = stats_of(db, opened.path)
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _stats_lines(found):
        click.echo(line)


def _stats_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        found["path"],
        (
            f"  size         {_mb(found['liveBytes'])} in use, {_mb(found['fileBytes'])} on the disk,"
            f" {_mb(found['walBytes'])} in the log beside it"
        ),
        f"  events       at most {found['eventsAtMost']}, from {found['oldest'] or '-'} to {found['newest'] or '-'}",
        f"  position     {found['head']}",
        f"  unreadable   {found['unreadables']}",
        f"  gaps         {found['gaps']}, {found['openGaps']} of them open",
    ]
    for one in found["subscriptions"]:
        counts = "  ".join(f"{name} {one[name]}" for name in ("received", "stored", "duplicate", "unreadable"))
        lines.append(f"  subscription {one['subscription']}: {counts}")
    for one in found["handlers"]:
        counts = "  ".join(f"{name} {one[name]}" for name in ("delivered", "filtered", "pending", "parked"))
        lines.append(f"  handler      {one['handler']}: at {one['position']}  {counts}")
    return lines


@journal.command()
@click.option("--since", type=Since(), required=True, help="Events received since: 10m, 2h, 3d, or an ISO time.")
@click.option("--until", type=Since(), help="… and before.")
@click.option("--type", "types", multiple=True, metavar="GLOB", help="Only of this type; can be repeated.")
@click.pass_obj
def export(settings: Settings, since: int, until: int | None, types: tuple[str, ...]) -> None:
    """Write events to stdout, one JSON object per line, as handlers get them."""
    count = 0
    with reader(settings) as opened:
        for event in opened.between(None, since, until):
            if not types or any(fnmatchcase(event.type, glob) for glob in types):
                click.echo(json_line(event) if is_terminal() else event.to_json())
                count += 1
    click.echo(f"{count} events", err=True)


@journal.command()
@click.pass_obj
def compact(settings: Settings) -> None:
    """Give the room of what was removed back to the disk. The daemon has to be stopped, and the disk needs room."""
    path = settings.journal_path()
    with writer(settings) as store:
        before = path.stat().st_size
        store.compact()
    after = path.stat().st_size
    click.echo(f"{_mb(before)} before, {_mb(after)} now", err=True)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
