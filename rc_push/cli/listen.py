"""The command for the first five minutes with a real account: no file, events on the terminal, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rc_push.cli.show import event_line, json_line
from rc_push.cli.temporary import temporary_folder
from rc_push.cli.toml import toml
from rc_push.errors import ConfigError

if TYPE_CHECKING:
    from rc_push.config import Config
    from rc_push.envelope import Envelope

# The handler that prints; no entry point, so no file can ask for it.
SHOW = "show"
# What the user knows the parts of our file by.
GIVEN = {
    "accounts.main.server": "RC_SERVER_URL",
    "accounts.main": "the environment",
    "subscriptions.listen": "FILTER",
    "handlers.forward": "--forward-to",
    "handlers.command": "--exec",
}
# Where RingCentral's limits leave no room for ending the session, nobody waits a minute for it: it ends by itself.
REVOKE_WITHIN_S = 5.0


@click.command()
@click.argument("filters", metavar="FILTER...", nargs=-1, required=True)
@click.option(
    "--forward-to", metavar="URL", help="POST each event there, as a webhook; a bare port means this machine."
)
@click.option("--exec", "program", metavar="CMD", help="Run this for each event, with its JSON on stdin.")
@click.option("--types", multiple=True, metavar="GLOB", help="Only these types, such as 'post.*'; can be repeated.")
@click.option("--transport", type=click.Choice(["websocket", "pubnub"]), default="websocket", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def listen(
    filters: Sequence[str],
    forward_to: str | None,
    program: str | None,
    types: Sequence[str],
    transport: str,
    *,
    as_json: bool,
) -> None:
    """Show the events that RingCentral's event FILTERs give, until Ctrl-C. Needs no file.

    The credentials come from the environment: RC_APP_CLIENT_ID, RC_APP_CLIENT_SECRET, RC_USER_JWT (and RC_SERVER_URL).
    """
    from rc_push import config as configuration
    from rc_push.log import configure

    with temporary_folder("listen") as folder:
        path = folder / "rc-push.toml"
        _write(path, _file(folder, filters, types, transport, _handlers(forward_to, program)))
        try:
            config, _ = configuration.load(path, os.environ)
            configure(config.log)
            click.echo(f"listening for {', '.join(filters)}; Ctrl-C ends it", err=True)
            asyncio.run(_listen(config, types, as_json=as_json))
        except ConfigError as exc:
            raise _as_given(exc) from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except UnicodeEncodeError:
        raise click.UsageError("what is given is not UTF-8") from None


def _as_given(error: ConfigError) -> ConfigError:
    """Return *error* as one of what the user has given: nobody can look into a file of ours that is gone."""
    return ConfigError([replace(problem, key=_name_of(problem.key), line=None) for problem in error.problems])


def _name_of(key: str) -> str:
    return next((name for part, name in GIVEN.items() if key.startswith(part)), key)


def _handlers(forward_to: str | None, program: str | None) -> list[tuple[str, str, object]]:
    """Return name and main setting of the handlers that are asked for: (use, key, value)."""
    found: list[tuple[str, str, object]] = []
    if forward_to is not None:
        found.append(("forward", "url", _url(forward_to)))
    if program is not None:
        found.append(("command", "program", _words(program)))
    return found


def _url(forward_to: str) -> str:
    """Return the URL that *forward_to* means; a usage error where it is none."""
    from rc_push.handlers.webhook_client import wrong_in_url

    url = f"http://127.0.0.1:{forward_to}/" if forward_to.isdecimal() else forward_to
    if wrong := wrong_in_url(url):
        raise click.BadParameter(
            f"the URL {wrong}; write a port up to 65535, or all of a URL", param_hint="--forward-to"
        )
    return url


def _words(program: str) -> list[str]:
    """Return the words of *program*, its name as an absolute path; a usage error where there is no such program."""
    try:
        words = shlex.split(program)
    except ValueError as exc:
        raise click.BadParameter(f"{program}: {exc}", param_hint="--exec") from None
    path = shutil.which(words[0]) if words else None
    if path is None:
        raise click.BadParameter(f"{program!r}: no such program", param_hint="--exec")
    return [str(Path(path).absolute()), *words[1:]]


def _file(
    folder: Path,
    filters: Sequence[str],
    types: Sequence[str],
    transport: str,
    handlers: Sequence[tuple[str, str, object]],
) -> str:
    """Return the configuration."""
    lines = [
        "[subscriptions.listen]",
        f"transport = {toml(transport)}",
        f"event_filters = {toml(list(filters))}",
    ]
    for use, key, value in handlers:
        lines += [f"[handlers.{use}]", f"use = {toml(use)}", f"{key} = {toml(value)}"]
        lines += [f"types = {toml(list(types))}"] if types else []
    lines += ["[journal]", f"path = {toml(folder / 'journal.db')}", "[log]", 'level = "warning"']
    return "\n".join(lines) + "\n"


async def _listen(config: Config, types: Sequence[str], *, as_json: bool) -> None:
    from rc_push.app import App
    from rc_push.config import HandlerConfig
    from rc_push.handlers import adapt

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    failures: list[OSError] = []
    is_closed = False

    def end() -> None:
        if task is not None:
            task.cancel()

    async def show(envelope: Envelope) -> None:
        try:
            click.echo(json_line(envelope) if as_json else event_line(envelope))
        except OSError as exc:  # whoever read has gone (`| head`), and will not come back
            failures.append(exc)
            end()

    shown = (HandlerConfig(SHOW, SHOW, types=tuple(types)), adapt(SHOW, show))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last: the terminal is closed
        loop.add_signal_handler(number, end)
    try:
        async with App.open(config, also=[shown]) as app:
            try:
                await app.run()
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REVOKE_WITHIN_S):
                        is_closed = await app.revoke()
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        session = "the session at RingCentral is closed" if is_closed else "a session at RingCentral ends by itself"
        click.echo(f"ended; {session}", err=True)
