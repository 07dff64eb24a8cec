"""The command that shows what RingCentral has of ours, and removes what we have left behind there."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.errors import EXIT_FAILED, EXIT_OK, RcPushError
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.config import Config
    from rc_push.reconcile import Standing
    from rc_push.rest import Account

COLOURS = {
    "granted": "green",
    "not listed": "white",
    "foreign": "white",
    "orphan": "yellow",
    "partly granted": "yellow",
}
FINE = ("granted", "not listed", "foreign", "orphan")


@click.command()
@click.argument("action", type=click.Choice(["prune"]), metavar="[prune]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per subscription.")
@click.option("--yes", is_flag=True, help="prune: remove without asking.")
@click.option("--dry-run", is_flag=True, help="prune: only say what would be removed.")
@click.pass_obj
def subscriptions(settings: Settings, action: str | None, *, as_json: bool, yes: bool, dry_run: bool) -> int:
    """Show our subscriptions as RingCentral has them; `prune` removes what is provably ours and unused."""
    from rc_push.log import configure

    if action is None and (yes or dry_run):
        raise click.UsageError("--yes and --dry-run belong to prune")
    if action and not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("nobody is there to be asked: say --yes, or --dry-run")
    config = settings.load()
    configure(config.log)
    return asyncio.run(_all_accounts(config, prune=bool(action), as_json=as_json, yes=yes, dry_run=dry_run))


async def _all_accounts(config: Config, *, prune: bool, as_json: bool, yes: bool, dry_run: bool) -> int:
    """Go through the accounts; one that fails does not keep the others from being shown."""
    from rc_push.cli.visit import failure_of, visiting

    codes = []
    for name in config.accounts:
        try:
            async with visiting(config, name) as account:
                for standing in await _standings(config, account):
                    if not prune:
                        _show(name, standing, as_json=as_json)
                        codes.append(EXIT_OK if standing.state in FINE else EXIT_FAILED)
                    elif standing.state == "orphan":
                        await _prune(account, name, standing, as_json=as_json, yes=yes, dry_run=dry_run)
        except RcPushError as exc:
            click.echo(failure_of(name, exc), err=True)
            codes.append(exc.exit_code)
    return max(codes, default=EXIT_OK)


async def _standings(config: Config, account: Account) -> list[Standing]:
    from rc_push.cli.visit import our_webhooks
    from rc_push.protocol.subscription import SubscriptionInfo
    from rc_push.reconcile import compare, used_ids
    from rc_push.transports.subscription_calls import listed

    name = account.config.name
    ours = [mine for mine in config.subscriptions.values() if mine.account == name]
    cursors, created = _known(config, name)
    # A webhook that is kept is in use, also one of a name that has left the file.
    used = our_webhooks(config) | used_ids(cursors, [mine.name for mine in ours], round(time.time() * 1000))
    return compare(ours, used, await listed(account, SubscriptionInfo), created, account.statistics().owner_id)


def _known(config: Config, account: str) -> tuple[list[Any], set[str]]:
    """Return the cursors in the journal, and what we have created; nothing of it where there is no journal yet."""
    from rc_push.cli.visit import journal_of

    opened = journal_of(config)
    if opened is None:
        return [], set()
    with closing(opened) as reader:
        return reader.cursors(), reader.created_subscriptions(account)


async def _prune(account: Account, name: str, standing: Standing, *, as_json: bool, yes: bool, dry_run: bool) -> None:
    from rc_push.protocol.subscription import PATH

    shown = printable(f"{standing.id} ({standing.transport})")
    is_wanted = not dry_run and (yes or click.confirm(f"{name}: remove {shown}?", err=True))
    if is_wanted:
        await account.request("DELETE", f"{PATH}/{standing.id}")
    if as_json:
        click.echo(json.dumps({"account": name, "id": standing.id, "isRemoved": is_wanted}))
    else:
        click.echo(f"{name}: {'removed' if is_wanted else 'would remove' if dry_run else 'kept'} {shown}")


def _show(account: str, standing: Standing, *, as_json: bool) -> None:
    fields = _fields(account, standing)
    if as_json:
        click.echo(json.dumps(fields))
        return
    name = standing.name or "-"
    state = click.style(f"{standing.state:<14}", fg=COLOURS.get(standing.state, "red"))
    until = f"  until {fields['expiresAt']}" if fields["expiresAt"] else ""
    line = f"{account}  {name:<12} {standing.transport:<9} {standing.id or '-':<36}"
    click.echo(f"{printable(line)} {state} {printable(standing.found + until)}")
    for event_filter in fields["eventFilters"]:
        click.echo(f"    ✓ {printable(event_filter)}")
    for refused in fields["refused"]:
        why = f"{refused['filter']}: {refused['reason']} {refused['message']}"
        click.echo(f"    ✗ {printable(why)}" + (f"; {printable(refused['remedy'])}" if refused["remedy"] else ""))


def _fields(account: str, standing: Standing) -> dict[str, Any]:
    """Return the form that `subscriptions --json` prints."""
    from rc_push.protocol.refusals import remedy_for

    info = standing.info
    return {
        "account": account,
        "subscription": standing.name or None,
        "transport": standing.transport,
        "id": standing.id or None,
        "state": standing.state,
        "found": standing.found,
        "eventFilters": info.event_filters if info else [],
        "refused": [
            {
                "filter": disabled.filter,
                "reason": disabled.reason,
                "message": disabled.message,
                "remedy": remedy_for(disabled.reason, disabled.message),
            }
            for disabled in (info.disabled_filters if info else [])
        ],
        "expiresAt": (info.expiration_time if info else "") or None,
    }
