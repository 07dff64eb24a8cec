"""The command for the first five minutes with a real account: no file, events on the terminal, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rc_push.cli.show import event_line, json_line

if TYPE_CHECKING:
    from rc_push.config import Config
    from rc_push.envelope import Envelope

# The handler that prints; no entry point, so no file can ask for it.
SHOW = "show"


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

    with tempfile.TemporaryDirectory(prefix="rc-push-listen-") as folder:
        path = Path(folder) / "rc-push.toml"
        path.write_text(_file(Path(folder), filters, types, transport, _handlers(forward_to, program)), "utf-8")
        config, _ = configuration.load(path, os.environ)
        configure(config.log)
        click.echo(f"listening for {', '.join(filters)}; Ctrl-C ends it", err=True)
        asyncio.run(_listen(config, types, as_json=as_json))


def _handlers(forward_to: str | None, program: str | None) -> list[tuple[str, str, object]]:
    """Return name and main setting of the handlers that are asked for: (use, key, value)."""
    found: list[tuple[str, str, object]] = []
    if forward_to is not None:
        url = f"http://127.0.0.1:{forward_to}/" if forward_to.isdecimal() else forward_to
        found.append(("forward", "url", url))
    if program is not None:
        found.append(("command", "program", _words(program)))
    return found


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
    """Return the configuration; JSON's strings and lists are TOML's, too."""
    lines = [
        "[subscriptions.listen]",
        f"transport = {json.dumps(transport)}",
        f"event_filters = {json.dumps(list(filters))}",
    ]
    for use, key, value in handlers:
        lines += [f"[handlers.{use}]", f"use = {json.dumps(use)}", f"{key} = {json.dumps(value)}"]
        lines += [f"types = {json.dumps(list(types))}"] if types else []
    lines += ["[journal]", f"path = {json.dumps(str(folder / 'journal.db'))}", "[log]", 'level = "warning"']
    return "\n".join(lines) + "\n"


async def _listen(config: Config, types: Sequence[str], *, as_json: bool) -> None:
    from rc_push.app import App
    from rc_push.config import HandlerConfig
    from rc_push.handlers import adapt

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    failures: list[OSError] = []

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
                await app.revoke()
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        click.echo("ended; the session at RingCentral is closed", err=True)
