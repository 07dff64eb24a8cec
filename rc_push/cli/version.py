"""The command that tells the versions of everything that matters, without importing it."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator

import click

from rc_push import __version__

# Named by no requirement of ours, and worth knowing where it is installed.
OPTIONAL = ("pubnub",)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def version(*, as_json: bool) -> None:
    """Show the versions of rc-push and of what it stands on."""
    versions = dict(_versions())
    if as_json:
        click.echo(json.dumps(versions))
        return
    for name, number in versions.items():
        click.echo(f"{name:<12} {number}")


def _versions() -> Iterator[tuple[str, str]]:
    import sqlite3
    from _ssl import OPENSSL_VERSION  # as `ssl` has it, without the 18 ms of the rest

    yield "rc-push", __version__
    yield "Python", platform.python_version()
    yield "SQLite", sqlite3.sqlite_version
    yield "OpenSSL", OPENSSL_VERSION.removeprefix("OpenSSL ").split()[0]
    yield from _distributions()


def _distributions() -> Iterator[tuple[str, str]]:
    """Yield name and version of what rc-push requires, as far as it is installed."""
    ours = _metadata("rc-push")  # empty where it is run from a folder that was never installed
    names = re.findall(r"^Requires-Dist: ([\w.-]+)", ours, re.MULTILINE)
    for name in sorted({*names, *OPTIONAL}):
        if number := re.search(r"^Version: (.+)$", _metadata(name), re.MULTILINE):
            yield name, number[1]


def _metadata(name: str) -> str:
    """Return what the distribution says of itself. Its two lines are looked for: a reader of emails takes long."""
    from importlib import metadata

    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ""
    return distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
