"""The command that lets the running daemon read its file again."""

from __future__ import annotations

import json

import click

from rc_push.cli import Settings
from rc_push.cli.journal import json_option

# What handlers get to finish, at the most (shutdown_grace_s), and a little more.
TIMEOUT_S = 3700.0


@click.command("reload")
@json_option
@click.pass_obj
def reload(settings: Settings, *, as_json: bool) -> None:
    """Let the daemon read its file again, check it, and restart what has changed. All else goes on."""
    from rc_push.control.client import call

    done = call(settings.control_path(), "reload", timeout_s=TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(done))
        return
    restarted = ", ".join(done["restarted"]) or "nothing has changed"
    click.echo(f"{restarted} (generation {done['generation']}, file {done['fingerprint']})")
