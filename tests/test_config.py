"""Settings: every mistake at once, each with its key, its line, what was found and the remedy; never a secret."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rc_push import config
from rc_push.config import (
    Secret,
    document,
    find_config,
    load,
    load_control,
    load_journal,
    load_routes,
    options,
    with_lines,
)
from rc_push.config.lines import lines_by_key
from rc_push.errors import ConfigError, Problem

ENVIRON = {"RC_APP_CLIENT_ID": "id-1", "RC_APP_CLIENT_SECRET": "PLANTED-secret", "RC_USER_JWT": "PLANTED-jwt"}
ACCOUNT = """\
accounts.main.client_id = "id-1"
accounts.main.client_secret.env = "RC_APP_CLIENT_SECRET"
accounts.main.jwt.env = "RC_USER_JWT"
"""
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


# ----------------------------------------------------------------------------------------------------------- good files


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
        max_bytes = 2_000_000_000
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
    assert read.journal.max_bytes == 2_000_000_000
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
    assert [(problem.key, problem.line) for problem in problems_of(path)] == [("oops", 5)]


def test_the_journal_can_be_read_without_any_secret(write):
    path = write('[accounts.main]\njwt = { env = "NOT_SET" }\n[journal]\npath = "/x.db"\n')
    assert load_journal(path).path == Path("/x.db")
    with pytest.raises(ConfigError, match=r"line 2: journal\.max_bytes: 5; write at least"):
        load_journal(write("[journal]\nmax_bytes = 5\n"))
    assert load_journal(None).path == config.JournalConfig().path
    with pytest.raises(ConfigError, match=r"line 2: journal.path: 5; write an absolute path"):
        load_journal(write("[journal]\npath = 5\n"))


def test_the_control_socket_is_beside_the_journal_unless_the_file_says_where(write):
    assert load_control(None) == Path("/var/lib/rc-push/journal.db.sock")
    beside = write(GOOD + '[journal]\npath = "/srv/j.db"\n')
    assert load_control(beside) == load(beside, ENVIRON)[0].control_path == Path("/srv/j.db.sock")
    named = write(GOOD + '[service]\ncontrol = "/run/x.sock"\n')
    assert load_control(named) == load(named, ENVIRON)[0].control_path == Path("/run/x.sock")
    with pytest.raises(ConfigError, match=r"service\.control"):
        load_control(write("[service]\ncontrol = 5\n"))


def test_routes_can_be_read_without_any_secret_or_what_else_is_wrong(write):
    text = """
        [accounts.main]
        jwt = { env = "NOT_SET" }
        [subscriptions.team]
        event_filters = ["/x"]
        [handlers.events]
        use = "file"
        subscriptions = ["team"]
        where = "body.isPublic"
        [handlers.off]
        use = "no-such"
        enabled = false
        [log]
        level = "loud"
        """
    subscriptions, handlers, warnings = load_routes(write(text))
    assert (subscriptions["team"].account, subscriptions["team"].transport) == ("main", "websocket")
    assert [handler.enabled for handler in handlers.values()] == [True, False]
    assert [(problem.key, problem.line) for problem in warnings] == [("handlers.events.where", 9)]
    assert load_routes(write("handlers.h.use = 'log'\n"))[0] == {}
    assert load_routes(write(SUBSCRIPTION))[0]["team"].account == "main"


def test_every_mistake_in_the_routes_is_told_at_once(write):
    text = "[handlers.a]\nuse = 'log'\nwhere = 'x ='\n[handlers.b]\ntypes = 'x'\n[subscriptions.c]\n"
    with pytest.raises(ConfigError) as caught:
        load_routes(write(text))
    assert [(problem.key, problem.line) for problem in caught.value.problems] == [
        ("handlers.a.where", 3),
        ("handlers.b.use", 4),
        ("handlers.b.types", 5),
        ("subscriptions.c.event_filters", 6),
    ]
    with pytest.raises(ConfigError, match="there is no file"):
        load_routes(None)


def test_a_where_that_is_hardly_meant_is_a_warning(write):
    _, warnings = load(write(GOOD + "[handlers.h]\nuse = 'f'\nwhere = \"type == 'post.added'\"\n"), ENVIRON)
    assert [str(warning) for warning in warnings] == [
        'line 7: handlers.h.where: an event has no "type", unless RingCentral has added it; did you mean rcPush.type?'
    ]


# ------------------------------------------------------------------------------------------------------------- mistakes

BAD = [
    # what is added to a good file, key, line (1 is the first added), found, remedy
    ('[netwrk]\nproxy = "x"', "netwrk", 1, "no such key", 'did you mean "network"'),
    ("[xyz]", "xyz", 1, "no such key", "known are accounts"),
    ("[network]\n\nread_timeout = 5", "network.read_timeout", 3, "no such key", 'mean "read_timeout_s"'),
    ("network = 5", "network", 1, "a number", "[network]"),
    ("accounts.x = 5", "accounts.x", 1, "a number", "[accounts.NAME]"),
    ("handlers = 5", "handlers", 1, "a number", "[handlers.NAME]"),
    ('[subscriptions."a b"]\nevent_filters = ["/x"]', 'subscriptions."a b"', 1, "no usable name", "letters"),
    ('network.connect_timeout_s = "fast"', "network.connect_timeout_s", 1, '"fast"', "a number from 0.1 to 600"),
    ("network.connect_timeout_s = nan", "network.connect_timeout_s", 1, "nan", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = inf", "network.connect_timeout_s", 1, "inf", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = true", "network.connect_timeout_s", 1, "true", "a number from 0.1 to 600"),
    ("network.connect_timeout_s = 2026-11-23", "network.connect_timeout_s", 1, "a date or time", "a number from"),
    (f"network.connect_timeout_s = 0x{'f' * 5000}", "network.connect_timeout_s", 1, "a number", "a number from"),
    ('network.proxy = "ftp://x"', "network.proxy", 1, '"ftp://x"', "http://proxy.example.com:3128"),
    ('network.proxy = "http://[::1"', "network.proxy", 1, '"http://[::1"', "http://proxy.example.com:3128"),
    ('network.ca_file = "/does/not/exist"', "network.ca_file", 1, "no file /does/not/exist", "certificates"),
    ("journal.retention_days = -1", "journal.retention_days", 1, "-1", "a number from 0.01 to 3650"),
    ("journal.max_bytes = 999_999", "journal.max_bytes", 1, "999999", "at least 1000000, or leave it out"),
    ("journal.max_bytes = -1", "journal.max_bytes", 1, "-1", "at least 1000000"),
    ("journal.max_bytes = 1e9", "journal.max_bytes", 1, "1000000000.0", "a whole number"),
    ('journal.max_bytes = "1 GB"', "journal.max_bytes", 1, '"1 GB"', "a whole number"),
    ('journal.path = "journal.db"', "journal.path", 1, '"journal.db"', "an absolute path"),
    ('log.level = "loud"', "log.level", 1, '"loud"', 'one of "debug", "info"'),
    ("[log]\nformat = []", "log.format", 2, "a list", 'one of "auto"'),
    ("handlers.h.types = ['a']", "handlers.h.use", 1, "missing", 'use = "file"'),
    ("handlers.h.use = ''", "handlers.h.use", 1, "it is empty", "write a string that is not"),
    ("[handlers.h]\nuse = 'f'\ntypes = 'a'", "handlers.h.types", 3, '"a"', "a list of strings"),
    ("[handlers.h]\nuse = 'f'\ntypes = ['a', 5]", "handlers.h.types", 3, "a number in it", "a list of strings"),
    ("[handlers.h]\nuse = 'f'\ntypes = ['']", "handlers.h.types", 3, "an empty string in it", "a list of strings"),
    ("[handlers.h]\nuse = 'f'\nenabled = 1", "handlers.h.enabled", 3, "1", "true or false"),
    ("[handlers.h]\nuse = 'f'\nretry = 1", "handlers.h.retry", 3, "a number", "[handlers.h.retry]"),
    (
        "[handlers.h]\nuse = 'f'\nretry.attempts = 1",
        "handlers.h.retry.attempts",
        3,
        "no such key",
        'mean "max_attempts"',
    ),
    ("[handlers.h]\nuse = 'f'\nretry.max_attempts = 1.5", "handlers.h.retry.max_attempts", 3, "1.5", "a whole number"),
    (
        "[handlers.h]\nuse = 'f'\n[handlers.h.retry]\nfirst_delay_s = 9\nmax_delay_s = 1",
        "handlers.h.retry.max_delay_s",
        5,
        "below first_delay_s = 9",
        "raise",
    ),
    ("[handlers.h]\nuse = 'f'\nsubscriptions = ['tem']", "handlers.h.subscriptions", 3, 'no "tem"', 'mean "team"'),
    ("[handlers.h]\nuse = 'f'\nwhere = 5", "handlers.h.where", 3, "5", "a string"),
    ("[handlers.h]\nuse = 'f'\nwhere = ''", "handlers.h.where", 3, "it is empty", "a string"),
    ("[handlers.h]\nuse = 'f'\nwhere = 'body.'", "handlers.h.where", 3, '"body." is no JMESPath expression', "quotes"),
    ("[handlers.h]\nuse = 'f'\nwhere = 'length(body)'", "handlers.h.where", 3, "can never be true", "compare"),
    ("[subscriptions.b]", "subscriptions.b.event_filters", 1, "there is none", "/team-messaging/v1/posts"),
    ("[subscriptions.b]\nevent_filters = []", "subscriptions.b.event_filters", 2, "there is none", "at least one"),
    ("[subscriptions.b]\nevent_filters = ['x']", "subscriptions.b.event_filters", 2, '"x"', "begin it with /"),
    ("subscriptions.team.account = 'man'", "subscriptions.team.account", 1, 'no "man"', 'mean "main"'),
    ("subscriptions.team.transport = 'pigeon'", "subscriptions.team.transport", 1, 'no "pigeon"', "websocket"),
    ("[accounts.b]", "accounts.b.jwt", 1, "missing", "RC_USER_JWT"),
    ("[accounts.b]\naccess_token = 5", "accounts.b.access_token", 2, "a number", "{ env ="),
    ("[accounts.b]\naccess_token = { en = 'X' }", "accounts.b.access_token", 2, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 5 }", "accounts.b.access_token", 2, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 'A', file = 'B' }", "accounts.b.access_token", 2, "a table", "{ env ="),
    ("[accounts.b]\naccess_token = { env = 'NOT_SET' }", "accounts.b.access_token", 2, "NOT_SET is not set", "set it"),
    ("[accounts.b]\naccess_token = ''", "accounts.b.access_token", 2, "empty", "put the secret there"),
    ("[accounts.b]\naccess_token = '''a\nb'''", "accounts.b.access_token", 2, "not one line", "nothing else"),
    (
        "[accounts.b]\naccess_token = { file = 'x' }",
        "accounts.b.access_token",
        2,
        "no absolute path",
        "beginning with /",
    ),
    ("[accounts.b]\naccess_token = { file = '/no/x' }", "accounts.b.access_token", 2, "/no/x cannot be read", "put"),
    ("[accounts.b]\naccess_token = { file = '/dev/null' }", "accounts.b.access_token", 2, "is no file", "alone"),
    ("[accounts.b]\naccess_token = { file = '/' }", "accounts.b.access_token", 2, "/ cannot be read", "put"),
    (
        "[accounts.b]\naccess_token = { credential = 'x' }",
        "accounts.b.access_token",
        2,
        "CREDENTIALS_DIRECTORY",
        "systemd",
    ),
    ("accounts.main.server = 'http://example.com'", "accounts.main.server", 1, '"http://example.com"', "loopback"),
    ("accounts.main.server = 'ftp://localhost'", "accounts.main.server", 1, '"ftp://localhost"', "https://platform"),
    ("accounts.main.server = 'https://x/y'", "accounts.main.server", 1, '"https://x/y"', "https://platform"),
    ("accounts.main.server = 'https://x:y'", "accounts.main.server", 1, '"https://x:y"', "https://platform"),
    (
        "accounts.main.access_token = { env = 'RC_USER_JWT' }",
        "accounts.main.jwt",
        -1,
        "beside access_token",
        "leave one",
    ),
]


@pytest.mark.parametrize(("text", "key", "line", "found", "remedy"), BAD)
def test_a_mistake_is_told_with_key_line_what_was_found_and_the_remedy(  # noqa: PLR0917 - a table's columns
    write, text, key, line, found, remedy
):
    problems = {problem.key: problem for problem in problems_of(write(GOOD + text)) if not problem.warning}
    assert key in problems, list(problems)
    problem = problems[key]
    assert found in problem.found
    assert remedy in problem.remedy
    assert problem.line == len(GOOD.splitlines()) + line


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(write):
    text = "[log]\nlevel = 1\n[network]\na = 1\nb = 2\n[journal]\npath = 1\n"
    assert [(problem.line, problem.key) for problem in problems_of(write(text))] == [
        (None, "subscriptions"),
        (2, "log.level"),
        (4, "network.a"),
        (5, "network.b"),
        (7, "journal.path"),
    ]


def test_an_account_that_is_wrong_is_not_reported_as_unknown_too(write):
    text = "[accounts.main]\nserver = 5\n[subscriptions.t]\naccount = 'main'\nevent_filters = ['/x']\n"
    assert not [problem for problem in problems_of(write(text)) if problem.key.startswith("subscriptions")]


def test_an_account_has_to_be_named_where_there_are_two(write):
    problems = problems_of(write(GOOD + "[accounts.b]\naccess_token.env = 'RC_USER_JWT'\n"))
    assert [(p.key, p.remedy) for p in problems] == [("subscriptions.team.account", "name one of main, b")]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"[log\n", 1, "Expected"),
        (b"a = 1\nb = \n", 2, "Invalid value"),
        (b"a = 1\nb = [\n", 2, "Invalid value"),
        (b"a = 1\na = 2\n", 2, "Cannot overwrite"),
        (b"a = 1\n# \xff\n", 2, "not UTF-8"),
        (b"a = " + b"[" * 20_000, None, "beyond reason"),
        (b"a = " + b"1" * 20_000, None, "beyond reason"),
        (b"#" * (document.FILE_MAX_BYTES + 1), None, "larger than 1 MiB"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_a_file_that_is_no_toml_is_one_mistake(write, content, line, found):
    path = write(content)
    (problem,) = problems_of(path)
    assert (problem.key, problem.line) == (str(path), line)
    assert found in problem.found
    assert problem.remedy


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path, Path("\0")):
        (problem,) = problems_of(path)
        assert str(path) in problem.key
        assert "cannot be read" in problem.found


def test_no_file_at_all_says_where_it_was_searched_and_how_to_begin():
    (problem,) = problems_of(None)
    assert all(str(path) in problem.found for path in document.SEARCHED)
    assert "rc-push init" in problem.remedy


def test_deep_dotted_keys_and_tables_do_no_harm(write):
    deep = ".".join("a" * 2000)
    text = f"{GOOD}{deep} = 1\n[handlers.h]\nuse = 'f'\n{deep} = {{ {deep} = [[[{{ x = 1 }}]]] }}\n"
    assert [(problem.key, problem.line) for problem in problems_of(write(text))] == [("a", 5)]


# -------------------------------------------------------------------------------------------------------------- secrets


def write_secret(path: Path, mode: int = 0o600) -> Path:
    path.write_text("PLANTED-file\r\n")
    path.chmod(mode)
    return path


def account_with(source: str) -> str:
    return f"[accounts.main]\naccess_token = {source}\n[subscriptions.t]\nevent_filters = ['/x']\n"


@pytest.mark.parametrize(("mode", "warns"), [(0o666, True), (0o602, True), (0o664, False), (0o644, False)])
def test_a_file_that_everybody_can_write_is_told_since_it_names_programs(write, mode, warns):
    path = write("[subscriptions.t]\nevent_filters = ['/x']\n")
    path.chmod(mode)
    _, warnings = load(path, ENVIRON)
    assert [(warning.found, warning.remedy) for warning in warnings] == (
        [(f"can be written by everybody (mode {mode:04o})", f"chmod o-w {path}")] if warns else []
    )


def test_a_secret_is_read_from_a_file_without_its_newline(write, tmp_path):
    file = write_secret(tmp_path / "jwt")
    read, warnings = load(write(account_with(f"{{ file = '{file}' }}")), {})
    assert read.accounts["main"].access_token == Secret("PLANTED-file")
    assert warnings == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_secret_file_that_others_can_read_is_refused_with_the_command_that_helps(write, tmp_path, mode):
    file = write_secret(tmp_path / "jwt", mode)
    (problem,) = problems_of(write(account_with(f"{{ file = '{file}' }}")), {})
    assert f"mode {mode:04o}" in problem.found
    assert problem.remedy == f"chmod 600 {file}"


def test_a_credential_of_systemd_may_have_any_mode_by_name_and_by_path(write, tmp_path):
    file = write_secret(tmp_path / "rc-jwt", 0o644)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    for source in ("{ credential = 'rc-jwt' }", f"{{ file = '{file}' }}"):
        read, _ = load(write(account_with(source)), environ)
        assert read.accounts["main"].access_token == Secret("PLANTED-file")


def test_a_link_out_of_the_directory_of_credentials_does_not_excuse_a_file(write, tmp_path):
    outside = write_secret(tmp_path / "jwt", 0o644)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "jwt").symlink_to(outside)
    path = write(account_with("{ credential = 'jwt' }"))
    (problem,) = problems_of(path, {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert "read by others" in problem.found


@pytest.mark.parametrize("name", ["../jwt", "/etc/passwd", "..", ""])
def test_a_credential_is_a_name_and_no_path(write, name):
    path = write(account_with(f"{{ credential = '{name}' }}"))
    (problem,) = problems_of(path, {"CREDENTIALS_DIRECTORY": "/tmp"})
    assert problem.found == "no name of a credential"


def test_a_named_pipe_in_place_of_a_secret_does_not_stop_us(write, tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (problem,) = problems_of(write(account_with(f"{{ file = '{tmp_path}/pipe' }}")), {})
    assert "is no file" in problem.found


def test_a_literal_secret_works_with_a_warning(write):
    read, warnings = load(write(account_with("'PLANTED-literal'")), {})
    assert read.accounts["main"].access_token == Secret("PLANTED-literal")
    assert [(w.key, w.line, w.warning) for w in warnings] == [("accounts.main.access_token", 2, True)]


def test_a_literal_client_id_needs_no_warning(write):
    assert load(write(GOOD), ENVIRON)[1] == []


def test_a_password_of_the_proxy_gets_a_warning_and_stays_hidden(write):
    read, warnings = load(write(GOOD + "network.proxy = 'http://user:PLANTED@proxy:3128'\n"), ENVIRON)
    assert [warning.key for warning in warnings] == ["network.proxy"]
    assert "PLANTED" not in repr(read)
    assert "proxy:3128" in repr(read)


def test_the_configuration_shows_no_secret(write):
    read, _ = load(write(GOOD), ENVIRON)
    shown = f"{read!r} {read} {read.accounts['main'].jwt}"
    assert "PLANTED" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "accounts.main.jwt = 'PLANTED'",
        "[accounts]\njwt = 'PLANTED'",
        "[accounts.main]\njwtt = 'PLANTED'",
        "[accounts.main]\njwt = ['PLANTED']",
        "[accounts.main]\njwt = '''PLANTED\nPLANTED'''",
        "[accounts.main]\njwt = { env = 'eyJPLANTED.x.y' }",
        "[accounts.main]\njwt = { env = 'PLANTEDplanted0' }",
        "[accounts.main]\njwt = { file = 'PLANTED' }",
        "[accounts.main]\njwt = { credential = 'PLANTEDplanted0' }",
        "[accounts.main]\njwt = { PLANTED = 'PLANTED' }",
        "[accounts.main]\nserver = 'https://u:PLANTED@example.com'",
        "[network]\nproxy = 'socks5://u:PLANTED@example.com'",
        "[accounts.main]\njwt = 'PLANTED",
        "jwt = PLANTED",
    ],
)
def test_no_mistake_tells_the_secret(write, text):
    with pytest.raises(ConfigError) as caught:
        load(write(text), {"CREDENTIALS_DIRECTORY": "/does/not/exist"})
    assert caught.value.problems
    assert "PLANTED" not in f"{caught.value} {caught.value.problems!r}"


# -------------------------------------------------------------------------------------------- finding, help, properties


def test_the_file_is_named_by_option_then_environment_then_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(document, "SEARCHED", (Path("rc-push.toml"), tmp_path / "etc.toml"))
    assert find_config(None, {}) is None
    (tmp_path / "etc.toml").touch()
    assert find_config(None, {}) == tmp_path / "etc.toml"
    (tmp_path / "rc-push.toml").touch()
    assert find_config(None, {"RC_PUSH_CONFIG": ""}) == Path("rc-push.toml")
    assert find_config(None, {"RC_PUSH_CONFIG": "/env.toml"}) == Path("/env.toml")
    assert find_config(Path("/option.toml"), {"RC_PUSH_CONFIG": "/env.toml"}) == Path("/option.toml")


def test_a_problem_found_elsewhere_gets_the_line_of_its_key(write):
    path = write(GOOD + "[handlers.h]\nuse = 'file'\nsub = { 'path' = 5 }\n")
    keys = ["handlers.h.sub.path", "handlers.h.absent", "elsewhere"]
    assert [problem.line for problem in with_lines([Problem(key, "", "") for key in keys], path)] == [7, 5, None]


@pytest.mark.parametrize("table", [*config.NAMED_TABLES.values(), *config.TABLES.values(), config.RetryConfig])
def test_every_option_has_help_says_its_unit_and_has_a_default_within_its_bounds(table):
    for option in options(table):
        assert option.table or option.description
        unit = {"s": "in seconds", "days": "in days"}.get(option.name.rpartition("_")[2])
        assert unit is None or unit in option.description
        if option.low is not None:
            assert option.low <= option.default <= option.high


NAMES = ["accounts", "main", "subscriptions", "handlers", "journal", "network", "log", "path", "jwt", "env", "retry"]
DOTTED = st.lists(st.sampled_from([*NAMES, '"a b"', "''"]), min_size=1, max_size=4).map(".".join)
SCALARS = ["1", "-0.0", "nan", "true", '"x"', "'/y'", '"""a\n"b"\n"""', "2026-11-23", "0xff", '"\\u0000"', "{}", "[]"]
VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", #]\n".join(items) + "\n]")
        | st.lists(st.tuples(DOTTED, inner).map(" = ".join), max_size=3).map(lambda items: f"{{{', '.join(items)}}}")
    ),
    max_leaves=8,
)
LINES = st.one_of(
    DOTTED.map("[{}]".format),
    DOTTED.map("[[{}]]".format),
    st.tuples(DOTTED, VALUES).map(" = ".join),
    st.just("# comment = [ \" '"),
)
TEXTS = st.lists(LINES, max_size=8).map("\n".join)


@given(TEXTS | st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
def test_whatever_stands_in_the_file_nothing_but_config_error_is_raised(write, text):
    path = write(text.encode("utf-8", "surrogatepass"))
    problems = []
    try:
        load(path, ENVIRON)
    except ConfigError as exc:
        problems = exc.problems or [Problem("", "", "")]
    assert all(problem.key and problem.found and problem.remedy for problem in problems)


@given(TEXTS)
@settings(deadline=None, max_examples=400)
def test_every_key_of_a_file_is_found_in_a_line_that_names_it(text):
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_by_key(text)
    for name, value in document.items():
        assert name in text.split("\n")[lines[name,] - 1]
        for inner in value if isinstance(value, dict) else ():
            assert inner in text.split("\n")[lines[name, inner] - 1]
