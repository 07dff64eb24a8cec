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
    from importlib import metadata

    try:
        required = metadata.requires("rc-push") or []
    except metadata.PackageNotFoundError:  # run from a folder that was never installed
        required = []
    names = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in required}
    for name in sorted({*names, *OPTIONAL}):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
