"""The command that prints a starter file: every setting with its help and its default, made from `rc_push.config`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rc_push.cli.toml import toml

if TYPE_CHECKING:
    import msgspec

    from rc_push.config import Option

HEAD = """\
# rc-push: the settings. A line that begins with #, without a space behind it, is a setting that is left out: it shows
# the default, or an example where there is no default. Secrets are { env = "NAME" }, { file = "/path" } (readable by
# its owner only) or { credential = "name" } (systemd's LoadCredential=). `rc-push check` names every mistake.
"""
EXAMPLE_NAMES = {"accounts": "main", "subscriptions": "team", "handlers": "events"}
# Settings of the handler that the example uses; they are its own, not rc-push's.
HANDLER_SETTINGS = """\
# The file handler's own settings: the file that gets one JSON object per line.
path = "/var/log/rc-push/events.jsonl"
"""
SERVICE_DIRECTORIES = ("/var/lib/rc-push", "/var/log/rc-push")
# What an option's help need not say.
PLAIN = ("a string", "a list of strings", "an absolute path", "true or false")


@click.command()
def init() -> None:
    """Print a commented starter file; for an ordinary user, with paths of their own."""
    text = starter()
    state = state_folder(os.environ, os.geteuid())
    if state is not None:
        inside_quotes = toml(state / "rc-push")[1:-1]
        for directory in SERVICE_DIRECTORIES:
            text = text.replace(directory, inside_quotes)
    click.echo(text, nl=False)


def state_folder(environ: Mapping[str, str], uid: int) -> Path | None:
    """Return where the user *uid* keeps the state of programs; None for root, and where they have no home.

    An ordinary user can write none of the service's directories. Source: XDG Base Directory, which has paths ignored
    that are not absolute; rc-push reads none that cannot be printed, either.
    """
    if uid == 0:
        return None
    home = environ.get("HOME") or _home_of(uid)
    places = (environ.get("XDG_STATE_HOME", ""), f"{home}/.local/state" if home else "")
    return next((Path(place) for place in places if place.startswith("/") and place.isprintable()), None)


def _home_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:  # in a container, a user need not be known
        return ""


def starter() -> str:
    """Return the starter file; `config.example.toml` is a copy of it."""
    from rc_push.config import NAMED_TABLES, TABLES

    tables = [(f"{kind}.{EXAMPLE_NAMES[kind]}", table) for kind, table in NAMED_TABLES.items()]
    parts = [HEAD, *(_table(name, table) for name, table in [*tables, *TABLES.items()])]
    return "\n".join(parts)


def _table(name: str, table: type[msgspec.Struct], *, mark: str = "") -> str:
    """Return the table *name* with its options; then its own tables, which are left out."""
    from rc_push.config import HandlerConfig, options

    all_options = list(options(table))
    lines = [f"# {table.__doc__}", f"{mark}[{name}]"]
    lines += [line for option in all_options if option.table is None for line in _option(option, mark)]
    text = "\n".join(lines) + "\n"
    if table is HandlerConfig:
        text += HANDLER_SETTINGS
    inner = [_table(f"{name}.{option.name}", option.table, mark="#") for option in all_options if option.table]
    return "\n".join([text, *inner])


def _option(option: Option, mark: str) -> Iterator[str]:
    """Yield the help and the setting of *option*."""
    has_default = option.default not in (None, ())
    bounds = f"; {option.expected}" if option.expected not in PLAIN else ""
    help_ = option.description[0].upper() + option.description[1:]
    yield f"# {help_}{bounds}{'' if has_default else ' (no default)'}"
    yield f"{mark if option.active else '#'}{option.name} = {toml(option.default if has_default else option.example)}"
