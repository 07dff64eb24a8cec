"""The command that says where the way to RingCentral breaks, and which rule to ask the firewall's owner for."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rc_push.cli import Settings
from rc_push.cli.hops import Hop, Report
from rc_push.cli.show import Number
from rc_push.errors import EXIT_CONFIG, ConfigError, Problem
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.cli.doctor_account import Wishes
    from rc_push.config import AccountConfig, Config

# Many proxies and firewalls forget a connection that is silent for a minute.
IDLE_S = 70.0
# Any call will do: it needs no credentials, and RingCentral's answer has its time.
HTTP_PATH = "/restapi/v1.0"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per hop.")
@click.option(
    "--idle",
    "idle_s",
    type=Number(0, 3600),
    default=IDLE_S,
    show_default=True,
    help="How long to keep a connection silent, in seconds, to see whether it is cut; 0 = leave that out.",
)
@click.option("--no-trigger", is_flag=True, help="Cause no event (a message to yourself, removed at once).")
@click.pass_obj
def doctor(settings: Settings, *, as_json: bool, idle_s: float, no_trigger: bool) -> int:
    """Follow the way to RingCentral, hop by hop: DNS, proxy, TLS, token, permissions, WebSocket, an event.

    Works with half a configuration, and leaves nothing behind.
    """
    from rc_push.cli.doctor_account import Wishes

    report = Report(lambda hop: click.echo(json.dumps(hop.to_dict()) if as_json else str(hop)))
    config, problems = _configuration(settings.path(), report)
    asyncio.run(look(config, problems, report, Wishes(idle_s, not no_trigger)))
    if not as_json:
        click.echo(_verdict(report.problems))
    return report.exit_code


async def look(config: Config, problems: Iterable[Problem], report: Report, wishes: Wishes) -> None:
    """Look at every account, the network of its servers first."""
    from rc_push.cli.doctor_account import AccountDoctor
    from rc_push.cli.doctor_way import Way

    wrong = {problem.key for problem in problems if not problem.warning}
    works: dict[str, bool] = {}
    for account in config.accounts.values():
        if account.server not in works:
            way = Way(account.server, config.network, report)
            works[account.server] = await way.look() and await way.look_at_http(HTTP_PATH)
        if not works[account.server]:
            report.skipped("token", account.name, "the way to its server is broken")
        elif not _is_usable(account, wrong):
            report.skipped("token", account.name, "no credentials: rc-push check names what is missing")
        else:
            await AccountDoctor(config, account, report, wishes).look()


def _configuration(path: Path | None, report: Report) -> tuple[Config, list[Problem]]:
    """Return what can be used of the configuration; tell what cannot."""
    from rc_push import log
    from rc_push.config import load_what_works

    try:
        config, problems = load_what_works(path, os.environ)
    except ConfigError as exc:
        problem = exc.problems[0]
        report.add(Hop("problem", "file", str(path), problem.found, problem.remedy, exit_code=EXIT_CONFIG))
        config, problems = load_what_works(None, os.environ)
        path = None
    log.configure(config.log)
    mistakes = [problem for problem in problems if not problem.warning]
    if path is None:
        report.skipped("file", "configuration", "there is none: defaults, and what the environment says")
    elif mistakes:
        more = f"{len(mistakes)} mistakes, such as " if len(mistakes) > 1 else ""
        found = f"{more}{mistakes[0].key}: {mistakes[0].found}"
        report.add(Hop("warning", "file", str(path), found, "rc-push check names all of them"))
    else:
        report.ok("file", str(path), "read")
    return config, problems


def _is_usable(account: AccountConfig, wrong: Iterable[str]) -> bool:
    """Say whether there is something to log in with."""
    has_all = account.access_token or (account.client_id and account.client_secret and account.jwt)
    return bool(has_all) and not any(key.startswith(f"accounts.{account.name}.") for key in wrong)


def _verdict(problems: list[Hop]) -> str:
    if not problems:
        return "the way to RingCentral is open"
    first = problems[0]
    return f"it breaks at: {first.hop} ({printable(first.target)})" + (
        f", and {len(problems) - 1} more" if problems[1:] else ""
    )
