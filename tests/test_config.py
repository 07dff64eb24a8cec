"""Settings: every mistake at once, each with its key, its line, what was found and the remedy; no secret in any of it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rc_push import config
from rc_push.config import Secret, find_config, load, load_journal, options, with_lines
from rc_push.errors import ConfigError, Problem

ENVIRON = {"RC_APP_CLIENT_ID": "id-1", "RC_APP_CLIENT_SECRET": "PLANTED-secret", "RC_USER_JWT": "PLANTED-jwt"}
ACCOUNT = 'accounts.main = { client_id = "id-1", client_secret = { env = "RC_APP_CLIENT_SECRET" }, jwt = { env = "RC_USER_JWT" } }\n'
SUBSCRIPTION = 'subscriptions.team.event_filters = ["/team-messaging/v1/posts"]\n'
GOOD = ACCOUNT + SUBSCRIPTION


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "rc-push.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def problems_of(path: Path | None, environ: dict[str, str] = ENVIRON) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return caught.value.problems


# ------------------------------------------------------------------------------------------------------------ good files


def test_a_whole_file_is_read(write):
    path = write(
        """
        [accounts.main]
        server = "http://127.0.0.1:8080/"
        client_id = { env = "RC_APP_CLIENT_ID" }
        client_secret = { env = "RC_APP_CLIENT_SECRET" }
        jwt = { env = "RC_USER_JWT" }
        [accounts.bot]
        access_token = { env = "RC_USER_JWT" }
        [subscriptions.team]
        account = "main"
        event_filters = ["/team-messaging/v1/posts", "/team-messaging/v1/chats"]
        [handlers.events]
        use = "file"
        types = ["post.*"]
        subscriptions = ["team"]
        timeout_s = 5
        path = "/var/log/events.jsonl"
        retry = { max_attempts = 3 }
        [journal]
        path = "/var/lib/journal.db"
        retention_days = 1
        [network]
        connect_timeout_s = 2
        [log]
        level = "debug"
        [service]
        shutdown_grace_s = 0
        """
    )
    read, warnings = load(path, ENVIRON)
    assert warnings == []
    assert read.path == path
    main, bot = read.accounts["main"], read.accounts["bot"]
    assert (main.name, main.server, main.client_id) == ("main", "http://127.0.0.1:8080", "id-1")
    assert main.jwt is not None
    assert main.jwt.reveal() == "PLANTED-jwt"
    assert (bot.server, bot.access_token) == (config.DEFAULT_SERVER, Secret("PLANTED-jwt"))
    assert read.subscriptions["team"].event_filters == ("/team-messaging/v1/posts", "/team-messaging/v1/chats")
    handler = read.handlers["events"]
    assert (handler.types, handler.subscriptions, handler.timeout_s) == (("post.*",), ("team",), 5.0)
    assert (handler.retry.max_attempts, handler.retry.first_delay_s) == (3, 1.0)
    assert handler.settings == {"path": "/var/log/events.jsonl"}
    assert (read.journal.path, read.journal.retention_days) == (Path("/var/lib/journal.db"), 1.0)
    assert (read.network.connect_timeout_s, read.network.read_timeout_s) == (2.0, 30.0)
    assert (read.log.level, read.log.format, read.service.shutdown_grace_s) == ("debug", "auto", 0.0)


def test_without_accounts_the_environment_makes_the_account_main(write):
    read, _ = load(write(SUBSCRIPTION), ENVIRON | {"RC_SERVER_URL": "https://platform.example.com"})
    assert read.accounts["main"].server == "https://platform.example.com"
    assert read.accounts["main"].client_id == "id-1"
    assert read.subscriptions["team"].account == "main"


def test_each_missing_variable_is_named_where_there_are_no_accounts(write):
    found = " ".join(problem.found for problem in problems_of(write(SUBSCRIPTION), {}))
    assert all(name in found for name in ENVIRON)
    assert "RC_SERVER_URL" not in found  # it has a default


def test_a_byte_order_mark_and_windows_lines_do_no_harm(write):
    path = write(b"\xef\xbb\xbf" + (GOOD + "oops = 1\n").replace("\n", "\r\n").encode())
    assert [(problem.key, problem.line) for problem in problems_of(path)] == [("oops", 3)]


def test_the_journal_can_be_read_without_any_secret(write):
    path = write('[accounts.main]\njwt = { env = "NOT_SET" }\n[journal]\npath = "/x.db"\n')
    assert load_journal(path).path == Path("/x.db")
    assert load_journal(None).path == config.JournalConfig().path
    with pytest.raises(ConfigError, match=r"line 2: journal.path: 5; write an absolute path"):
        load_journal(write("[journal]\npath = 5\n"))


# -------------------------------------------------------------------------------------------------------------- mistakes

BAD = [
    # what is added to a good file, key, line, found, remedy
    ('[netwrk]\nproxy = "x"', "netwrk", 3, "no such key", 'did you mean "network"'),
    ("[web]", "web", 3, "no such key", "known are accounts"),
    ("[network]\n\nread_timeout = 5", "network.read_timeout", 5, "no such key", 'mean "read_timeout_s"'),
    ("network = 5", "network", 3, "a number", "[network]"),
    ("accounts.x = 5", "accounts.x", 3, "a number", "[accounts.NAME]"),
    ("handlers = 5", "handlers", 3, "a number", "[handlers.NAME]"),
    ('[subscriptions."a b"]\nevent_filters = ["/x"]', 'subscriptions."a b"', 3, "no usable name", "letters"),
    ('network.connect_timeout_s = "fast"', "network.connect_timeout_s", 3, '"fast"', "a number from 0.1 to 600"),
    ("network.connect_timeout_s = nan", "network.connect_timeout_s", 3, "nan", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = inf", "network.connect_timeout_s", 3, "inf", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = true", "network.connect_timeout_s", 3, "true", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = 2026-11-23", "network.connect_timeout_s", 3, "a date or time", "a number from"),
    (f"network.connect_timeout_s = 0x{'f' * 5000}", "network.connect_timeout_s", 3, "a number", "a number from"),
    ('network.proxy = "socks5://x"', "network.proxy", 3, '"socks5://x"', "http://proxy.example.com:3128"),
    ('network.proxy = "http://[::1"', "network.proxy", 3, '"http://[::1"', "http://proxy.example.com:3128"),
    ('network.ca_file = "/does/not/exist"', "network.ca_file", 3, "no file /does/not/exist", "certificates"),
    ("journal.retention_days = -1", "journal.retention_days", 3, "-1", "a number from 0.01 to 3650"),
    ('journal.path = "journal.db"', "journal.path", 3, '"journal.db"', "an absolute path"),
    ('log.level = "loud"', "log.level", 3, '"loud"', 'one of "debug", "info"'),
    ("[log]\nformat = []", "log.format", 4, "a list", 'one of "auto"'),
    ("handlers.h.types = ['a']", "handlers.h.use", 3, "missing", 'use = "file"'),
    ("handlers.h.use = ''", "handlers.h.use", 3, '""', "a string"),
    ("[handlers.h]\nuse = 'f'\ntypes = 'a'", "handlers.h.types", 5, '"a"', "a list of strings"),
    ("[handlers.h]\nuse = 'f'\ntypes = ['a', 5]", "handlers.h.types", 5, "a number in it", "a list of strings"),
    ("[handlers.h]\nuse = 'f'\ntypes = ['']", "handlers.h.types", 5, "an empty string in it", "a list of strings"),
    ("[handlers.h]\nuse = 'f'\nenabled = 1", "handlers.h.enabled", 5, "1", "true or false"),
    ("[handlers.h]\nuse = 'f'\nretry = 1", "handlers.h.retry", 5, "a number", "[handlers.h.retry]"),
    ("[handlers.h]\nuse = 'f'\nretry.max = 1", "handlers.h.retry.max", 5, "no such key", 'mean "max_attempts"'),
    ("[handlers.h]\nuse = 'f'\nretry.max_attempts = 1.5", "handlers.h.retry.max_attempts", 5, "1.5", "a whole number"),
    (
        "[handlers.h]\nuse = 'f'\n[handlers.h.retry]\nfirst_delay_s = 9\nmax_delay_s = 1",
        "handlers.h.retry.max_delay_s",
        7,
        "below first_delay_s = 9",
        "raise",
    ),
    ("[handlers.h]\nuse = 'f'\nsubscriptions = ['tem']", "handlers.h.subscriptions", 5, 'no "tem"', 'mean "team"'),
    ("[subscriptions.b]", "subscriptions.b.event_filters", 3, "there is none", "/team-messaging/v1/posts"),
    ("[subscriptions.b]\nevent_filters = []", "subscriptions.b.event_filters", 4, "there is none", "at least one"),
    ("[subscriptions.b]\nevent_filters = ['x']", "subscriptions.b.event_filters", 4, '"x"', "begin it with /"),
    ("subscriptions.team.account = 'man'", "subscriptions.team.account", 3, 'no "man"', 'mean "main"'),
    ("subscriptions.team.transport = 'pigeon'", "subscriptions.team.transport", 3, 'no "pigeon"', "websocket"),
    ("[accounts.b]", "accounts.b.jwt", 3, "missing", "RC_USER_JWT"),
    ("[accounts.b]\naccess_token = 5", "accounts.b.access_token", 4, "a number", "{ env ="),
    ("[accounts.b]\naccess_token = { en = 'X' }", "accounts.b.access_token", 4, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 5 }", "accounts.b.access_token", 4, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 'A', file = 'B' }", "accounts.b.access_token", 4, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 'NOT_SET' }", "accounts.b.access_token", 4, "NOT_SET is not set", "set it"),
    ("[accounts.b]\naccess_token = ''", "accounts.b.access_token", 4, "empty", "put the secret there"),
    ("[accounts.b]\naccess_token = 'a\\tb'", "accounts.b.access_token", 4, "", "better"),
    ("[accounts.b]\naccess_token = { file = 'x' }", "accounts.b.access_token", 4, "no absolute path", "beginning with /"),
    ("[accounts.b]\naccess_token = { file = '/no/x' }", "accounts.b.access_token", 4, "/no/x cannot be read", "put"),
    ("[accounts.b]\naccess_token = { file = '/dev/null' }", "accounts.b.access_token", 4, "is no file", "alone"),
    ("[accounts.b]\naccess_token = { file = '/' }", "accounts.b.access_token", 4, "/ cannot be read", "put"),
    ("[accounts.b]\naccess_token = { credential = 'x' }", "accounts.b.access_token", 4, "CREDENTIALS_DIRECTORY", "systemd"),
    ("accounts.main.server = 'http://example.com'", "accounts.main.server", 3, '"http://example.com"', "loopback"),
    ("accounts.main.server = 'ftp://localhost'", "accounts.main.server", 3, '"ftp://localhost"', "https://platform"),
    ("accounts.main.server = 'https://x/y'", "accounts.main.server", 3, '"https://x/y"', "https://platform"),
    ("accounts.main.server = 'https://x:y'", "accounts.main.server", 3, '"https://x:y"', "https://platform"),
    ("accounts.main.access_token = { env = 'RC_USER_JWT' }", "accounts.main.jwt", 1, "beside access_token", "leave one"),
]
