"""The command that lists an account's webhook subscriptions, and says what would replace each."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli import Settings
from rc_push.cli.toml import toml
from rc_push.errors import EXIT_OK, RcPushError
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.config import Config
    from rc_push.transports.webhook_subscription import WebhookInfo

COLOURS = {"Active": "green", "Blacklisted": "red", "Suspended": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per webhook.")
@click.pass_obj
def webhooks(settings: Settings, *, as_json: bool) -> int:
    """List the accounts' webhook subscriptions, ours or not, with the lines for the file that would replace each."""
    from rc_push.log import configure

    config = settings.load()
    configure(config.log)
    return asyncio.run(_all_accounts(config, as_json=as_json))


async def _all_accounts(config: Config, *, as_json: bool) -> int:
    """Go through the accounts; one that fails does not keep the others from being shown."""
    from rc_push.cli.visit import failure_of, our_webhooks

    codes, ours, names = [EXIT_OK], our_webhooks(config), set(config.subscriptions)
    for account in config.accounts:
        try:
            found = await _listed(config, account)
        except RcPushError as exc:
            click.echo(failure_of(account, exc), err=True)
            codes.append(exc.exit_code)
            continue
        for info in found:
            name = ours.get(info.id, "")
            lines = list(_replacement(config, account, info, name, names))
            _show(account, info, name, lines, as_json=as_json)
    return max(codes)


async def _listed(config: Config, name: str) -> list[WebhookInfo]:
    """Return the webhooks of an account; a session that this has opened is ended."""
    from rc_push.cli.visit import visiting
    from rc_push.transports.subscription_calls import listed
    from rc_push.transports.webhook_subscription import TRANSPORT_TYPE, WebhookInfo

    async with visiting(config, name) as account:
        found = await listed(account, WebhookInfo)
    return [info for info in found if info.delivery_mode.transport_type == TRANSPORT_TYPE]


def _replacement(config: Config, account: str, info: WebhookInfo, name: str, names: set[str]) -> Iterator[str]:
    """Yield the lines of the file that would let its events come over a connection of the daemon's own."""
    if name in config.subscriptions:
        yield f"[subscriptions.{name}]"
        yield 'transport = "websocket"   # in the place of "webhook"; leave address and listen until it has moved'
        return
    new = _name_for(info, names)
    names.add(new)
    yield f"[subscriptions.{new}]"
    if len(config.accounts) > 1:
        yield f"account = {toml(account)}"
    yield 'transport = "websocket"'
    yield f"event_filters = {toml(info.event_filters)}"


def _name_for(info: WebhookInfo, names: set[str]) -> str:
    """Return a name that the file does not have yet, after what the first event filter ends with."""
    path = (info.event_filters or [""])[0].partition("?")[0].rstrip("/")
    base = re.sub(r"[^A-Za-z0-9_-]", "", path.rpartition("/")[2]).lstrip("0123456789") or "events"
    number, name = 1, base
    while name in names:
        number, name = number + 1, f"{base}-{number + 1}"
    return name


def _show(account: str, info: WebhookInfo, name: str, lines: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_fields(account, info, name, lines)))
        return
    status = printable(info.status or "Active")
    reason = printable(f" ({info.why_ended})") if info.is_ended else ""
    whose = f"ours: {name}" if name else "not ours"
    click.echo(
        f"{account}  {click.style(status, fg=COLOURS.get(status))}{reason}  {printable(info.delivery_mode.address)}"
        f"  until {printable(info.expiration_time) or 'unknown'}  {whose}"
    )
    click.echo(f"  {printable(info.id)}: {printable(', '.join(info.event_filters))}")
    for line in lines:
        click.echo(f"    {printable(line)}")


def _fields(account: str, info: WebhookInfo, name: str, lines: list[str]) -> dict[str, Any]:
    return {
        "account": account,
        "id": info.id,
        "subscription": name or None,
        "address": info.delivery_mode.address,
        "eventFilters": info.event_filters,
        "status": info.status,
        "reason": info.blacklisted_data.reason or None,
        "createdAt": info.creation_time or None,
        "expiresAt": info.expiration_time or None,
        "replacement": "\n".join(lines),
    }
