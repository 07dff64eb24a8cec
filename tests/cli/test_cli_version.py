"""The versions of everything that matters."""

from __future__ import annotations

import json
import platform
import sqlite3
from importlib import metadata

from rc_push import __version__
from rc_push.__main__ import main


def test_version_names_what_rc_push_stands_on(capfd):
    assert main(["version", "--json"]) == 0
    versions = json.loads(capfd.readouterr().out)
    assert versions["rc-push"] == __version__
    assert versions["Python"] == platform.python_version()
    assert versions["SQLite"] == sqlite3.sqlite_version
    assert versions["OpenSSL"][0].isdigit()
    for name in ("click", "msgspec", "ringcentral", "structlog", "websockets"):
        assert versions[name] == metadata.version(name)


def test_the_table_for_people_has_the_same_content(capfd):
    main(["version", "--json"])
    versions = json.loads(capfd.readouterr().out)
    main(["version"])
    assert [tuple(line.split()) for line in capfd.readouterr().out.splitlines()] == list(versions.items())


def test_what_is_not_installed_is_left_out(capfd, monkeypatch):
    def requires(_name: str) -> list[str]:
        return ["click>=8.1", "no-such-thing[extra]>=1; python_version > '3'"]

    monkeypatch.setattr(metadata, "requires", requires)
    assert main(["version", "--json"]) == 0
    versions = json.loads(capfd.readouterr().out)
    assert "click" in versions
    assert "no-such-thing" not in versions


def test_it_works_where_rc_push_was_never_installed(capfd, monkeypatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert main(["version"]) == 0
    assert __version__ in capfd.readouterr().out
