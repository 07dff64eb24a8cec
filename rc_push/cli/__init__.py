"""Which commands are there? Arguments in, exit code out; what a command needs is imported when it runs.

Knows the names of the commands and where the configuration is; knows nothing of what commands do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.config import Config, HandlerConfig, SubscriptionConfig
    from rc_push.errors import Problem

# In the order of the help. A command returns its exit code, or None for 0.
COMMANDS = {
    "run": "rc_push.cli.run:run",
    "reload": "rc_push.cli.reload:reload",
    "listen": "rc_push.cli.listen:listen",
    "check": "rc_push.cli.check:check",
    "doctor": "rc_push.cli.doctor:doctor",
    "subscriptions": "rc_push.cli.subscriptions:subscriptions",
    "init": "rc_push.cli.init:init",
    "simulate": "rc_push.cli.simulate:simulate",
    "trigger": "rc_push.cli.trigger:trigger",
    "demo": "rc_push.cli.demo:demo",
    "status": "rc_push.cli.status:status",
    "tail": "rc_push.cli.tail:tail",
    "events": "rc_push.cli.journal:events",
    "explain": "rc_push.cli.explain:explain",
    "test": "rc_push.cli.route_tests:test",
    "plugins": "rc_push.cli.plugins:plugins",
    "handlers": "rc_push.cli.handlers:handlers",
    "parked": "rc_push.cli.handlers:parked",
    "replay": "rc_push.cli.replay:replay",
    "audit": "rc_push.cli.audit:audit",
    "gaps": "rc_push.cli.journal:gaps",
    "unreadable": "rc_push.cli.journal:unreadable",
    "journal": "rc_push.cli.journal_tools:journal",
    "webhooks": "rc_push.cli.webhooks:webhooks",
    "version": "rc_push.cli.version:version",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration that the command line names, read when a command asks for it."""

    option: Path | None = None

    def path(self) -> Path | None:
        """Return the file to read; None where there is none."""
        from rc_push.config import find_config

        return find_config(self.option, os.environ)

    def load(self) -> Config:
        """Return what the file says; warnings go to stderr. Raises ConfigError."""
        from rc_push.config import load

        config, warnings = load(self.path(), os.environ)
        _warn(warnings)
        return config

    def load_routes(self) -> tuple[dict[str, SubscriptionConfig], dict[str, HandlerConfig]]:
        """Return the subscriptions and the handlers; needs no secrets; warnings go to stderr. Raises ConfigError."""
        from rc_push.config import load_routes

        subscriptions, handlers, warnings = load_routes(self.path())
        _warn(warnings)
        return subscriptions, handlers

    def journal_path(self) -> Path:
        """Return where the journal is; needs no secrets. Raises ConfigError."""
        from rc_push.config import load_journal

        return load_journal(self.path()).path

    def control_path(self) -> Path:
        """Return where the running daemon listens for commands; needs no secrets. Raises ConfigError."""
        from rc_push.config import load_control

        return load_control(self.path())


def _warn(warnings: list[Problem]) -> None:
    for warning in warnings:
        click.echo(f"rc-push: warning: {printable(str(warning))}", err=True)


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command; None where there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, readable=False),  # who reads it says that it cannot be read, and returns 78
    metavar="FILE",
    help="The configuration; else $RC_PUSH_CONFIG, ./rc-push.toml, /etc/rc-push/config.toml.",
)
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Receive RingCentral events over push channels, store them durably, hand them to your handlers."""
    ctx.obj = Settings(config)
