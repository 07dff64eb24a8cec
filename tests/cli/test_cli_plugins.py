"""`rc-push plugins` tells what is installed, from where, with its settings; what cannot be loaded, too."""

from __future__ import annotations

import json
import sys

import pytest

from rc_push.__main__ import main

BROKEN = "import nothing_of_that_name\n"


@pytest.fixture
def broken(tmp_path, monkeypatch):
    info = tmp_path / "acme_broken-2.0.dist-info"
    info.mkdir()
    (tmp_path / "acme_broken.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[rc_push.handlers]\nbroken = acme_broken:Broken\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_the_built_in_handlers_are_listed_with_their_settings(capsys):
    assert main(["plugins", "--json"]) == 0
    found = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"file", "log", "command"} <= found.keys()
    assert found["file"]["package"].startswith("rc-push ")
    [path] = [setting for setting in found["file"]["settings"] if setting["name"] == "path"]
    assert path["default"] is None
    assert path["help"]


def test_one_is_shown_with_the_help_of_each_setting(capsys):
    assert main(["plugins", "log"]) == 0
    out = capsys.readouterr().out
    assert "rc_push.handlers.log:LogHandler" in out
    assert "default info: the level of the lines" in out


def test_the_types_of_settings_are_told_without_what_only_python_knows(capsys):
    lines = []
    for name in ("forward", "file", "command"):
        assert main(["plugins", name]) == 0
        lines += [line.strip() for line in capsys.readouterr().out.splitlines()]
    said = {line.split()[0]: line.split(maxsplit=1)[1].partition(":")[0] for line in lines if line}
    assert said["verification_token"] == "Secret, optional"
    assert said["ca_file"] == "Path, optional"
    assert said["fsync"] == '"batch" or "always" or "never" or bool, default batch'
    assert said["rotate_bytes"] == "int, optional"
    assert said["program"] == "tuple of str, needed"
    assert said["environment"] == "dict of str, str, optional"


def test_one_that_is_not_there_is_said_to_be_none(capsys):
    assert main(["plugins", "nobody\x1b"]) == 78
    assert "no handler nobody\\u001b is installed" in capsys.readouterr().err


def test_one_that_cannot_be_loaded_is_told_with_its_traceback_beside_the_others(broken, capsys):
    assert main(["plugins"]) == 78
    out = capsys.readouterr().out
    assert "acme-broken 2.0" in out
    assert "cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_that_name'" in out
    assert "acme_broken.py" in out
    assert "rc_push.handlers.file:FileHandler" in out
