"""The versions of everything that matters."""

from __future__ import annotations

import json
import platform
import re
import sqlite3
import sys
from importlib import metadata

import pytest

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


def install(folder, name, version, requires=()):
    """Put in *folder* what pip writes down of a distribution."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires), "", "Words"]
    (place / "METADATA").write_text("\n".join(lines), encoding="utf-8")


def test_what_is_not_installed_is_left_out_and_the_first_of_the_path_counts(capfd, monkeypatch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    install(first, "rc_push", "9", ["some-thing[more]>=1; python_version > '3'", "other-thing", "no-such-thing"])
    install(first, "some_thing", "1.0+local")
    install(second, "Some.Thing", "2.0")
    (second / "other_thing-3.0rc1-py3.11.egg-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(first), str(second), str(tmp_path / "nowhere")])
    assert main(["version", "--json"]) == 0
    versions = json.loads(capfd.readouterr().out)
    assert list(versions.items())[4:] == [("other-thing", "3.0rc1"), ("some-thing", "1.0+local")]


@pytest.mark.parametrize("where", ["a" * 300, "not/there", "a file"])
def test_what_is_no_folder_in_the_path_is_passed_over(capfd, monkeypatch, tmp_path, where):
    (tmp_path / "a file").touch()
    install(tmp_path, "rc_push", "9", ["some-thing"])
    install(tmp_path, "some_thing", "1.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path / where), str(tmp_path)])
    assert main(["version", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["some-thing"] == "1.0"


def test_what_an_update_has_left_half_done_is_no_reason_to_say_nothing(capfd, monkeypatch, tmp_path):
    (tmp_path / "rc_push-9.dist-info").mkdir()
    (tmp_path / "pubnub.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert main(["version"]) == 0
    assert __version__ in capfd.readouterr().out


def test_all_that_is_required_and_installed_is_told_as_pip_would(capfd):
    required = {re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in metadata.requires("rc-push") or []}
    installed = {name.metadata["Name"].lower() for name in metadata.distributions()}
    main(["version", "--json"])
    versions = json.loads(capfd.readouterr().out)
    assert {name: versions.get(name) for name in required & installed} == {
        name: metadata.version(name) for name in required & installed
    }


def test_it_works_where_rc_push_was_never_installed(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert main(["version"]) == 0
    assert __version__ in capfd.readouterr().out
