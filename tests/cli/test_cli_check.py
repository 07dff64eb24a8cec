"""`check`: every finding with its remedy, and an exit code that says what to repair first."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import structlog

from rc_push import log
from rc_push.__main__ import main
from rc_push.cli import check_online
from rc_push.cli.check import Finding


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RC_USER_JWT", "PLANTED")
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, log._Stdlib)]


@pytest.fixture
def check(tmp_path: Path, capfd):
    """Return a function that checks a file with a journal in *tmp_path* and *more* in it; it gives code and output."""

    def check(more: str = "", *options: str, journal: Path | None = None) -> tuple[int, str]:
        path = tmp_path / "rc-push.toml"
        path.write_text(
            f"journal.path = '{journal or tmp_path / 'state' / 'journal.db'}'\n"
            "accounts.main.access_token.env = 'RC_USER_JWT'\n"
            f"subscriptions.team.event_filters = ['/x']\n{more}\n"
        )
        code = main(["-c", str(path), "check", *(options or ["--offline"])])
        out = capfd.readouterr()
        assert "PLANTED" not in out.out + out.err
        return code, out.out

    return check


@pytest.fixture
def online(monkeypatch):
    """Return a list that stands for what RingCentral says."""
    findings: list[Finding] = []
    monkeypatch.setattr(check_online, "check_online", lambda _config: findings)
    return findings


def test_a_good_file_is_fine_and_nothing_is_created(check, tmp_path):
    code, out = check(f"[handlers.events]\nuse = 'file'\npath = '{tmp_path}/events.jsonl'\n")
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "configuration is fine"
    assert all(line.startswith("✓ ") for line in lines[:-1])
    assert [path.name for path in tmp_path.iterdir()] == ["rc-push.toml"]


def test_every_mistake_of_the_file_is_listed_and_counted(check):
    code, out = check("[netwrk]\n[log]\nlevel = 'loud'\n")
    assert code == 78
    first, second, count = out.splitlines()
    assert first == '✗ line 4: netwrk: there is no such key; did you mean "network"?'
    assert second.startswith('✗ line 6: log.level: "loud"; write one of ')
    assert count == "2 problems"


def test_a_warning_is_no_problem(check):
    code, out = check("network.proxy = 'http://u:PLANTED@x:1'")
    assert code == 0
    assert "! line 4: network.proxy: a password in the file; " in out


@pytest.mark.parametrize(
    ("handler", "key", "line"),
    [
        ("use = 'no-such'", "handlers.h", None),
        ("use = 'file'", "handlers.h.path", 4),
        ("use = 'file'\npath = 5", "handlers.h.path", 6),
        ("use = 'log'\ntimeut_s = 5", "handlers.h.timeut_s", 6),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_a_mistake_with_its_line(check, handler, key, line):
    code, out = check(f"[handlers.h]\n{handler}\n", "--offline", "--json")
    assert code == 78
    findings = {finding["key"]: finding for finding in map(json.loads, out.splitlines())}
    assert findings[key]["level"] == "problem"
    assert findings[key]["line"] == line
    assert findings[key]["found"]
    assert findings[key]["remedy"]


def test_every_where_that_is_wrong_is_told_with_its_line_together_with_all_other_mistakes(check, tmp_path, capfd):
    code, out = check(
        "[handlers.a]\nuse = 'log'\nwhere = 'body.'\n[log]\nlevel = 'loud'\n[handlers.b]\nwhere = 'x ='\n"
    )
    assert code == 78
    keys = [line.split(": ")[1] for line in out.splitlines()[:-1]]
    assert keys == ["handlers.a.where", "log.level", "handlers.b.use", "handlers.b.where"]
    assert '✗ line 6: handlers.a.where: "body." is no JMESPath expression: it ends too early; ' in out
    assert main(["-c", str(tmp_path / "rc-push.toml"), "run"]) == 78
    assert "line 6: handlers.a.where: " in capfd.readouterr().err


def test_a_where_that_is_hardly_meant_is_a_warning(check):
    code, out = check("[handlers.a]\nuse = 'log'\nwhere = 'body.groupId == \"99\"'\n")
    assert code == 0
    assert '! line 6: handlers.a.where: an event has no "99", unless RingCentral has added it; double quotes' in out


LOOKING = """
import asyncio
import msgspec
from rc_push.config import Secret
from rc_push.errors import HandlerError, UnreachableError

class Looking:
    class Settings(msgspec.Struct):
        finds: str
        token: Secret | None = None
    def __init__(self, settings):
        self.finds = settings.finds
    async def handle(self, envelope): ...
    async def check(self):
        if self.finds == "nothing":
            await asyncio.Event().wait()
        if self.finds == "wrong":
            raise HandlerError("it is wrong; mend it")
        if self.finds == "down":
            raise UnreachableError("it is down; start it")
        return self.finds
"""


@pytest.fixture
def looking(tmp_path, monkeypatch):
    """Install a handler that has a look when it is checked."""
    folder = tmp_path / "plug-ins"
    info = folder / "looking-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: looking\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rc_push.handlers]\nlooking = looking_plugin:Looking\n")
    (folder / "looking_plugin.py").write_text(LOOKING)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("looking_plugin", None)


@pytest.mark.parametrize(
    ("finds", "code", "told"),
    [
        ("all is well", 0, ("ok", "all is well", "")),
        ("wrong", 78, ("problem", "it is wrong", "mend it")),
        ("down", 69, ("problem", "it is down", "start it")),
    ],
)
@pytest.mark.usefixtures("looking", "online")
def test_a_handler_looks_whether_it_would_work(check, finds, code, told):
    exit_code, out = check(f"[handlers.h]\nuse = 'looking'\nfinds = '{finds}'\n", "--json")
    assert exit_code == code
    last = json.loads(out.splitlines()[-1])
    assert (last["key"], last["level"], last["found"], last["remedy"]) == ("handlers.h", *told)


def test_offline_no_handler_looks(looking, check):
    assert check("[handlers.h]\nuse = 'looking'\nfinds = 'wrong'\n", "--offline")[0] == 0


def test_a_look_that_takes_for_ever_is_no_answer(looking, check, online, monkeypatch):
    monkeypatch.setattr("rc_push.cli.check.LOOKS_WITHIN_S", 0.01)
    code, out = check("[handlers.h]\nuse = 'looking'\nfinds = 'nothing'\n", "--json")
    assert code == 69
    assert "no answer within 0.01 s" in out


def test_a_secret_in_the_file_is_a_warning_with_its_line(looking, check):
    code, out = check("[handlers.h]\nuse = 'looking'\nfinds = 'x'\ntoken = 'PLANTED'\n", "--offline")
    assert code == 0
    assert "! line 7: handlers.h.token: a secret in the file itself; better: { env = " in out


def test_a_handler_that_is_not_enabled_is_not_loaded(check):
    code, out = check("[handlers.h]\nuse = 'no-such'\nenabled = false\n")
    assert code == 0
    assert "! handlers.h: not enabled" in out


def test_a_journal_below_a_file_cannot_be_written(check, tmp_path):
    (tmp_path / "file").touch()
    code, out = check(journal=tmp_path / "file" / "journal.db")
    assert code == 74
    assert f"{tmp_path}/file is no directory; name a path" in out


def test_a_directory_is_no_journal(check, tmp_path):
    code, out = check(journal=tmp_path)
    assert code == 74
    assert "✗ journal.path" in out


def test_a_directory_that_this_user_cannot_write_is_told_with_the_command_that_helps(check, tmp_path, monkeypatch):
    refused = tmp_path / "state"
    refused.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != refused and real(path, mode))
    code, out = check()
    assert code == 74
    assert f"this user cannot write in {refused}; " in out
    assert f"install -d -m 0700 -o USER {refused}" in out


def test_offline_does_not_ask_and_without_it_ringcentral_is_asked(check, online):
    online.append(Finding("ok", "accounts.main", "RingCentral accepts the credentials"))
    assert "accepts" not in check()[1]
    assert "accepts" in check("", "--json")[1]


def test_with_a_wrong_file_ringcentral_is_not_asked(check, online):
    online.append(Finding("ok", "accounts.main", "RingCentral accepts the credentials"))
    assert "accepts" not in check("[netwrk]", "--json")[1]


@pytest.mark.parametrize(
    ("codes", "expected"), [([69], 69), ([69, 77], 77), ([77, 69], 77), ([69, 78], 78), ([1], 1), ([], 0)]
)
def test_the_exit_code_says_what_to_repair_first(check, online, codes, expected):
    online.extend(Finding("problem", "accounts.main", "no", "yes", exit_code=code) for code in codes)
    assert check("", "--json")[0] == expected


def test_json_is_one_object_per_finding_with_stable_keys(check):
    _, out = check("[log]\nlevel = 5\n", "--offline", "--json")
    (finding,) = map(json.loads, out.splitlines())
    assert list(finding) == ["level", "key", "line", "found", "remedy"]
    assert (finding["level"], finding["key"], finding["line"], finding["found"]) == ("problem", "log.level", 5, "5")


def test_without_a_file_check_says_how_to_begin(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rc_push.config.document.SEARCHED", (Path("rc-push.toml"),))
    assert main(["check", "--offline"]) == 78
    assert "rc-push init > rc-push.toml" in capfd.readouterr().out
