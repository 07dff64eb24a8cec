"""The starter file: every key of the settings, and the same as config.example.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rc_push.__main__ import main
from rc_push.cli.init import HANDLER_SETTINGS, starter
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
