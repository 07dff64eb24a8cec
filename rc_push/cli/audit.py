"""The command that proves that every event is accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from rc_push.cli import Settings
from rc_push.cli.journal import json_option, reader
from rc_push.cli.show import Since
from rc_push.errors import EXIT_FAILED, EXIT_OK
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.envelope import Gap
    from rc_push.journal.audit import Audit, HandlerAudit, SubscriptionAudit


@click.command()
@json_option
@click.option("--since", type=Since(), default=0, help="Only gaps that reach behind: 10m, 2h, 3d, or an ISO time.")
@click.pass_obj
def audit(settings: Settings, since: int, *, as_json: bool) -> int:
    """Prove that every event is accounted for, per subscription and per handler; list the gaps."""
    from rc_push.journal.audit import audit as audit_of

    with reader(settings) as journal, journal.snapshot() as db:
        found = audit_of(db)
        gaps = list(journal.gaps(since_ms=since))
    for line in _json_lines(found, gaps) if as_json else _lines(found, gaps):
        click.echo(line)
    for problem in found.problems:
        click.echo(f"rc-push: {problem}", err=True)
    return EXIT_OK if found.adds_up else EXIT_FAILED


def _json_lines(found: Audit, gaps: Sequence[Gap]) -> Iterator[str]:
    for subscription in found.subscriptions:
        yield json.dumps(subscription.to_dict())
    for handler in found.handlers:
        yield json.dumps(handler.to_dict())
    for gap in gaps:
        yield json.dumps({"gap": gap.to_dict()})


def _lines(found: Audit, gaps: Sequence[Gap]) -> Iterator[str]:
    for one in found.subscriptions:
        sum_ = " + ".join(f"{name} {getattr(one, name)}" for name in ("stored", "duplicate", "unreadable"))
        yield f"{_mark(one)} subscription {one.subscription}: received {one.received} = {sum_}{_difference(one)}"
    for handler in found.handlers:
        names = ("delivered", "filtered", "parked", "dropped", "pending")
        sum_ = " + ".join(f"{name} {getattr(handler, name)}" for name in names)
        yield f"{_mark(handler)} handler {handler.handler}: stored {handler.stored} = {sum_}{_difference(handler)}"
        if handler.offending:
            yield f"    rows without their event: {', '.join(map(str, handler.offending))}"
    for gap in gaps:
        fields = gap.to_dict()
        span = f"{fields['since']} → {fields['until'] or 'still open'}"
        yield f"! gap {span}  {gap.certainty}  {gap.subscription}  {printable(gap.reason)}"
    yield "it adds up" if found.adds_up else "it does not add up"


def _mark(part: HandlerAudit | SubscriptionAudit) -> str:
    return click.style("✓", fg="green") if part.adds_up else click.style("✗", fg="red")


def _difference(part: HandlerAudit | SubscriptionAudit) -> str:
    return f": {part.difference} are missing from the counts" if part.difference else ""
