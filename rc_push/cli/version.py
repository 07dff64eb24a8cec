"""The command that tells the versions of everything that matters, without importing it."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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
    found = _installed()
    ours = found.get("rc-push")  # None where it is run from a folder that was never installed
    metadata = ""
    if ours:
        with suppress(OSError):  # an update that has broken off
            metadata = (ours / "METADATA").read_text("utf-8")
    names = re.findall(r"^Requires-Dist: ([\w.-]+)", metadata, re.MULTILINE)
    for name in sorted({*names, *OPTIONAL}):
        if place := found.get(name):
            yield name, place.stem.split("-")[1]


def _installed() -> dict[str, Path]:
    """Return where each distribution tells of itself, by its normal name: `name-version.dist-info`.

    Older ones, as a Linux distribution may have them, at `name-version-py3.11.egg-info`. `importlib.metadata` says the
    same, and its import is a third of this command's time. Source: PyPA's specifications, "Recording installed
    projects"; setuptools' "The Internal Structure of Python Eggs".
    """
    found: dict[str, Path] = {}
    for folder in sys.path:
        with suppress(OSError):  # no folder, or one that is not for us
            for place in Path(folder).iterdir():
                name, _, version = place.stem.partition("-")
                if place.suffix in (".dist-info", ".egg-info") and version:
                    found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), place)
    return found
