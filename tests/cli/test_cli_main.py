"""The command line: lazy commands, and one place where exceptions become messages and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest

import rc_push.__main__ as entry
from rc_push.cli import COMMANDS, Settings, cli
from rc_push.errors import ConfigError, CredentialsRefused, JournalError, Problem, UnreachableError
from rc_push.journal.store import Store

HEAVY = ["asyncio", "structlog", "msgspec", "websockets", "starlette", "uvicorn", "ringcentral", "requests", "rich"]


@pytest.fixture
def raising(monkeypatch):
    """Return a function that lets every command end in an exception, and gives the exit code."""

    def run(exc: BaseException) -> int:
        def invoke(_self, _ctx):
            raise exc

        monkeypatch.setattr(type(cli), "invoke", invoke)
        return entry.main(["version"])

    return run


def run_process(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rc_push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **kwargs)


@pytest.mark.parametrize(
    ("exc", "code", "message"),
    [
        (UnreachableError("no route to platform"), 69, "rc-push: no route to platform\n"),
        (JournalError("/x: disk broken"), 74, "rc-push: /x: disk broken\n"),
        (CredentialsRefused(400, "OAU-153", "no", remedy="renew it"), 77, "rc-push: 400 OAU-153 no: renew it\n"),
        (ConfigError([Problem("a.b", "c", "d", 7)]), 78, "rc-push: line 7: a.b: c; d\n"),
        (ConfigError([Problem("a.b", "c", "d", 7)], path="/f"), 78, "rc-push: /f: line 7: a.b: c; d\n"),
        (
            ConfigError(
                [Problem("a", "c", "d"), Problem("w", "x", "y", warning=True), Problem("b", "c", "d")], path="/f"
            ),
            78,
            "rc-push: /f: 2 mistakes\n  a: c; d\n  b: c; d\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (asyncio.CancelledError(), None, ""),
        (ExceptionGroup("tasks", [ExceptionGroup("", [UnreachableError("gone")])]), 69, "rc-push: gone\n"),
        (BrokenPipeError(), 1, ""),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
        (click.Abort(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_exception_becomes_a_message_and_an_exit_code(raising, capfd, exc, code, message):
    if code is None:
        with pytest.raises(asyncio.CancelledError):
            raising(exc)
        return
    assert raising(exc) == code
    assert capfd.readouterr().err.lstrip("\n") == message  # click ends the line of ^C


@pytest.mark.parametrize("group", [False, True])
def test_an_unexpected_exception_is_an_internal_error_without_secrets(raising, capfd, group):
    error = ValueError("POST failed, Authorization: Basic UExBTlRFRA==, access_token=PLANTED")
    assert raising(ExceptionGroup("tasks", [JournalError("x"), error]) if group else error) == 70
    told = capfd.readouterr().err
    assert "rc-push: internal error" in told
    assert "ValueError: POST failed" in told
    assert "PLANTED" not in told
    assert "UExBTlRFRA" not in told


def test_what_a_server_said_cannot_command_the_terminal(raising, capfd):
    assert raising(UnreachableError("bad \x1b[2J\rname")) == 69
    assert capfd.readouterr().err == "rc-push: bad \\u001b[2J\\u000dname\n"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["version", "--no-such-option"], []])
def test_wrong_usage_is_exit_code_2(arguments, capfd):
    assert entry.main(arguments) == 2
    assert "Usage: rc-push" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("demo", "--seconds"),
        ("demo", "--rate"),
        ("doctor", "--idle"),
        ("status", "--wait-ready"),
        ("replay", "--rate"),
    ],
)
def test_what_is_no_number_is_in_no_range(command, option, capfd):
    assert entry.main([command, option, "nan"]) == 2
    assert f"Invalid value for '{option}': nan is no number" in capfd.readouterr().err


def test_a_command_returns_its_exit_code_and_help_is_no_failure(monkeypatch, capfd):
    @click.command()
    def seven() -> int:
        return 7

    monkeypatch.setitem(COMMANDS, "seven", f"{__name__}:seven")
    monkeypatch.setattr(sys.modules[__name__], "seven", seven, raising=False)
    assert entry.main(["seven"]) == 7
    assert entry.main(["--help"]) == 0
    assert entry.main(["seven", "--help"]) == 0
    capfd.readouterr()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_under_its_name_with_help_that_fits(name):
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_version_loads_nothing_that_it_does_not_need():
    script = (
        "import sys, rc_push.__main__ as m; m.main(['version']); import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & set(HEAVY) == set()
    assert {name for name in loaded if name.startswith("rc_push.cli")} == {"rc_push.cli", "rc_push.cli.version"}


def test_python_m_rc_push_is_the_command():
    done = run_process("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rc-push")


@pytest.mark.parametrize(
    "script",
    ["m.main(['init'])", "(setattr(m.cli, 'main', lambda *_, **__: print('buffered')), m.main([]))[1]"],
    ids=["written at once", "still in the buffer"],
)
def test_that_the_reader_has_seen_enough_is_told_to_nobody(script):
    buffering = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        command = [sys.executable, "-c", f"import sys, rc_push.__main__ as m; sys.exit({script})"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=buffering, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        ("version", ">&-", 0),
        ("version", "<&- >&- 2>&-", 0),
        ("status", ">&-", 3),
        ("check --offline", ">&-", 78),
        ("run", ">&-", 78),
        ("parked drop crm", "<&-", 2),
        ("subscriptions prune", "<&-", 2),
        ("explain -", "<&-", 1),
    ],
)
def test_without_standard_streams_a_command_returns_the_same_code(tmp_path, arguments, closed, code):
    (tmp_path / "c.toml").write_text(f"[journal]\npath = '{tmp_path}/journal.db'\n")
    with closing(Store(tmp_path / "journal.db")) as store, store.transaction():
        store.progress.register("crm", None, 0)
    command = f"exec {shlex.quote(sys.executable)} -m rc_push -c {tmp_path}/c.toml {arguments} {closed}"
    without = {name: value for name, value in os.environ.items() if not name.startswith("RC_")}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=without, timeout=30, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_a_file_never_gets_the_number_of_a_standard_stream():
    script = "import os, rc_push.__main__ as m; m.main(['version']); os._exit(os.open('/dev/null', os.O_RDONLY))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], timeout=30, check=False).returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told_of_without_a_traceback():
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "rc_push", "init"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "rc-push: the output cannot be written: No space left on device\n")


def test_what_the_locale_has_no_characters_for_is_written_as_codes():
    script = "import click, rc_push.__main__ as m; m.cli.main = lambda *_, **__: click.echo('é ✓'); exit(m.main([]))"
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=latin, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xe9 \\u2713\n", b"")


@pytest.mark.parametrize(("value", "color"), [("", None), ("1", False)])
def test_no_color_takes_the_colours_away(monkeypatch, value, color):
    told = []
    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setattr(type(cli), "invoke", lambda _, ctx: told.append(ctx.color))
    assert entry.main(["version"]) == 0
    assert told == [color]


# ------------------------------------------------------------------------------------------------------------- settings


def test_a_file_that_is_there_and_cannot_be_read_is_a_mistake_in_the_configuration(tmp_path, monkeypatch, capfd):
    """With 2, which says that the command line is wrong, systemd would start the daemon again and again."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # also for root, who can read everything but a folder
    assert entry.main(["-c", str(tmp_path), "run"]) == 78
    told = capfd.readouterr().err
    assert f"{tmp_path}: cannot be read: Is a directory; name a file that this user can read" in told


def test_settings_find_the_file_and_the_journal_without_secrets(tmp_path, monkeypatch):
    path = tmp_path / "c.toml"
    path.write_text("[accounts.main]\njwt = { env = 'NOT_SET' }\n[journal]\npath = '/x/journal.db'\n")
    monkeypatch.setenv("RC_PUSH_CONFIG", str(path))
    assert Settings().path() == path
    assert str(Settings().journal_path()) == "/x/journal.db"
    with pytest.raises(ConfigError):
        Settings().load()


def test_settings_tell_warnings_and_go_on(tmp_path, capfd):
    path = tmp_path / "c.toml"
    path.write_text("[accounts.main]\naccess_token = 'PLANTED'\n[subscriptions.t]\nevent_filters = ['/x']\n")
    assert Settings(path).load().accounts["main"].access_token
    told = capfd.readouterr().err
    assert told.startswith("rc-push: warning: line 2: accounts.main.access_token: ")
    assert "PLANTED" not in told
