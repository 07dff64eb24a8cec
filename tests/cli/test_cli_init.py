"""The starter file: every key of the settings, and the same as config.example.toml."""

from __future__ import annotations

import os
import pwd
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from rc_push.__main__ import main
from rc_push.cli.init import HANDLER_SETTINGS, starter, state_folder
from rc_push.config import NAMED_TABLES, TABLES, RetryConfig, load, options

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
ENVIRON = {"RC_APP_CLIENT_ID": "id", "RC_APP_CLIENT_SECRET": "secret", "RC_USER_JWT": "jwt"}
# Has no place beside the jwt; are files that are not here, need another setting, or are a secret of systemd's.
NOT_BESIDE = (
    "access_token",
    "ca_file",
    "certificate",
    "key",
    "token",
    "client_certificate",
    "client_key",
    "proxy_user",
    "proxy_password",
)


def tables_of(text: str) -> dict[str, list[str]]:
    """Return the keys of each table, those that are left out too."""
    tables: dict[str, list[str]] = {}
    for line in text.splitlines():
        if header := re.fullmatch(r"#?\[([\w.]+)\]", line):
            keys = tables.setdefault(header[1], [])
        elif key := re.fullmatch(r"#?(\w+) = .+", line):
            keys.append(key[1])
    return tables


def test_config_example_toml_is_what_init_prints(capfd):
    assert main(["init"]) == 0
    assert capfd.readouterr().out == EXAMPLE.read_text("utf-8")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.local/state"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "/state"}, "/state"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": ""}, "/home/ann/.local/state"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "state"}, "/home/ann/.local/state"),
        ({"HOME": ""}, "/home/of-7/.local/state"),
        ({}, "/home/of-7/.local/state"),
        ({"HOME": "ann"}, None),
        ({"HOME": "/home/a\nn"}, None),
        ({"HOME": "/home/\udcff"}, None),
    ],
)
def test_an_ordinary_users_paths_are_below_what_xdg_names_or_below_their_home(monkeypatch, environ, folder):
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=f"/home/of-{uid}"))
    assert state_folder(environ, 7) == (folder and Path(folder))
    assert state_folder(environ, 0) is None


def test_a_user_that_nobody_knows_gets_the_paths_of_the_service(monkeypatch, capfd):
    def nobody(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert main(["init"]) == 0
    assert capfd.readouterr().out == starter()


def test_a_home_of_any_characters_stands_in_the_starter_as_toml_has_it(monkeypatch, capfd):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("XDG_STATE_HOME", '/home/a "b" \\ ü 😀')
    assert main(["init"]) == 0
    document = tomllib.loads(capfd.readouterr().out)
    assert document["journal"]["path"] == '/home/a "b" \\ ü 😀/rc-push/journal.db'
    assert document["handlers"]["events"]["path"] == '/home/a "b" \\ ü 😀/rc-push/events.jsonl'


def test_the_starter_has_every_key_and_no_other():
    own = tables_of("[x]\n" + HANDLER_SETTINGS)["x"]
    expected = {"handlers.events.retry": [option.name for option in options(RetryConfig)]}
    for kind, name in (("accounts", "main"), ("subscriptions", "team"), ("handlers", "events")):
        expected[f"{kind}.{name}"] = [option.name for option in options(NAMED_TABLES[kind]) if not option.table]
    expected["handlers.events"] += own
    expected |= {name: [option.name for option in options(table)] for name, table in TABLES.items()}
    assert tables_of(starter()) == expected


def test_the_starter_loads_without_problems_once_the_environment_is_set(tmp_path):
    path = tmp_path / "rc-push.toml"
    path.write_text(starter())
    config, warnings = load(path, ENVIRON)
    assert warnings == []
    assert list(config.subscriptions) == ["team"]


def test_what_is_left_out_can_be_uncommented_and_is_the_default_where_there_is_one(tmp_path):
    path = tmp_path / "rc-push.toml"
    lines = [re.sub(r"^#(?=\S)", "", line) for line in starter().splitlines()]
    path.write_text("\n".join(line for line in lines if not line.startswith(NOT_BESIDE)))
    config, warnings = load(path, ENVIRON)
    assert warnings == []
    for name, table in TABLES.items():
        for option in options(table):
            if option.default not in (None, ()):  # else it is an example
                assert getattr(getattr(config, name), option.name) == option.default
    assert config.handlers["events"].retry == RetryConfig()
    assert config.handlers["events"].types == ("post.*",)


@pytest.mark.parametrize("table", [*NAMED_TABLES.values(), *TABLES.values(), RetryConfig])
def test_every_table_and_key_of_the_starter_has_its_help(table):
    lines = starter().splitlines()
    assert f"# {table.__doc__}" in lines
    for option in options(table):
        if not option.table:
            place = next(
                n
                for n, line in enumerate(lines)
                if re.match(rf"#?{option.name} = ", line) and option.description[1:] in lines[n - 1]
            )
            assert lines[place - 1].startswith("# ")


def test_no_line_of_the_starter_is_long_and_all_of_it_is_toml():
    assert max(map(len, starter().splitlines())) <= 120
    assert tomllib.loads(starter())
