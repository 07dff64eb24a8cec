"""`check`: every finding with its remedy, and an exit code that says what to repair first."""

from __future__ import annotations

import errno
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


def test_where_the_path_of_the_journal_may_be_what_is_wrong_the_usual_one_is_not_looked_at(
    tmp_path, monkeypatch, capfd
):
    path = tmp_path / "rc-push.toml"
    path.write_text("[journal]\npaht = '/x/journal.db'\n")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert main(["-c", str(path), "check", "--offline"]) == 78
    out = capfd.readouterr().out
    assert "journal.paht" in out
    assert "journal.path: " not in out


def test_mistakes_of_the_file_hide_none_of_handlers_and_paths_and_nothing_is_told_twice(check, tmp_path):
    (tmp_path / "file").touch()
    code, out = check(
        "subscriptions.team.evnt = 1\n"
        "[handlers.x]\nuse = 'nope'\n"
        "[handlers.y]\nuse = 'file'\npath = 'rel'\npth = 1\nfsync = 'sometimes'\ntypes = 5\n"
        "[handlers.z]\nuse = 'forward'\nurl = 'https://x/'\nbogus = 1\n"
        "[handlers.v]\ntypes = ['x']\n"
        "[handlers.w]\nuse = 'log'\n",
        "--offline",
        "--json",
        journal=tmp_path / "file" / "journal.db",
    )
    assert code == 78
    findings = [json.loads(line) for line in out.splitlines()]
    assert {finding["level"] for finding in findings} == {"problem"}
    assert [(finding["line"], finding["key"]) for finding in findings] == [
        (4, "subscriptions.team.evnt"),
        (12, "handlers.y.types"),
        (17, "handlers.v.use"),
        (1, "journal.path"),
        (6, "handlers.x.use"),
        (9, "handlers.y.path"),
        (10, "handlers.y.pth"),
        (11, "handlers.y.fsync"),
        (16, "handlers.z.bogus"),
    ]


def test_a_path_of_the_journal_that_is_none_is_told_and_the_default_in_its_place_is_not(check, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/var") and real(path, mode))
    code, out = check(journal=Path("relative"))
    assert code == 78
    assert out.splitlines() == ['✗ line 1: journal.path: "relative"; write an absolute path', "1 problem"]


def test_with_a_wrong_file_no_handler_looks(looking, check, online):
    assert "it is wrong" not in check("netwrk = 1\n[handlers.h]\nuse = 'looking'\nfinds = 'wrong'\n", "--json")[1]


def test_a_warning_is_no_problem(check):
    code, out = check("network.proxy = 'http://u:PLANTED@x:1'")
    assert code == 0
    assert "! line 4: network.proxy: a password in the file; " in out


@pytest.mark.parametrize(
    ("handler", "key", "line"),
    [
        ("use = 'no-such'", "handlers.h.use", 5),
        ("use = 'forward'\nurl = 'https://u:p@x/'", "handlers.h.url", 6),
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
        if self.finds == "lost":
            raise HandlerError("finds: it is lost; look for it")
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
        ("all is well", 0, ("handlers.h", None, "ok", "all is well", "")),
        ("wrong", 78, ("handlers.h", 4, "problem", "it is wrong", "mend it")),
        ("lost", 78, ("handlers.h.finds", 6, "problem", "it is lost", "look for it")),
        ("down", 69, ("handlers.h", 4, "problem", "it is down", "start it")),
    ],
)
@pytest.mark.usefixtures("looking", "online")
def test_a_handler_looks_whether_it_would_work(check, finds, code, told):
    exit_code, out = check(f"[handlers.h]\nuse = 'looking'\nfinds = '{finds}'\n", "--json")
    assert exit_code == code
    last = json.loads(out.splitlines()[-1])
    assert tuple(last[name] for name in ("key", "line", "level", "found", "remedy")) == told


def test_offline_no_handler_looks(looking, check):
    assert check("[handlers.h]\nuse = 'looking'\nfinds = 'wrong'\n", "--offline")[0] == 0


def test_a_look_that_takes_for_ever_is_no_answer(looking, check, online, monkeypatch):
    monkeypatch.setattr("rc_push.cli.check.LOOKS_WITHIN_S", 0.01)
    code, out = check("[handlers.h]\nuse = 'looking'\nfinds = 'nothing'\n", "--json")
    assert code == 69
    last = json.loads(out.splitlines()[-1])
    assert (last["key"], last["line"], last["found"]) == ("handlers.h", 4, "no answer within 0.01 s")


def test_a_secret_in_the_file_is_a_warning_with_its_line(looking, check):
    code, out = check("[handlers.h]\nuse = 'looking'\nfinds = 'x'\ntoken = 'PLANTED'\n", "--offline")
    assert code == 0
    assert "! line 7: handlers.h.token: a secret in the file itself; better: { env = " in out


def test_a_handler_that_is_not_enabled_is_not_loaded(check):
    code, out = check("[handlers.h]\nuse = 'no-such'\nenabled = false\n")
    assert code == 0
    assert "! line 4: handlers.h: not enabled" in out


def test_a_journal_below_a_file_cannot_be_written(check, tmp_path):
    (tmp_path / "file").touch()
    code, out = check(journal=tmp_path / "file" / "journal.db")
    assert code == 74
    assert f"✗ line 1: journal.path: {tmp_path}/file is no directory; name a path" in out


@pytest.mark.parametrize("is_root", [False, True])
def test_a_directory_is_no_journal(check, tmp_path, is_root):
    directory = Path("/") if is_root else tmp_path
    code, out = check(journal=directory)
    assert code == 74
    assert f"✗ line 1: journal.path: {directory} is a directory; name a file, such as " in out


def test_a_directory_that_this_user_cannot_write_is_told_with_the_command_that_helps(check, tmp_path, monkeypatch):
    refused = tmp_path / "its state"
    refused.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != refused and real(path, mode))
    code, out = check(journal=refused / "journal.db")
    assert code == 74
    assert f"this user cannot write in {refused}; " in out
    assert f"install -d -m 0700 -o USER '{refused}')" in out


def test_below_a_directory_that_this_user_may_not_enter_the_journal_cannot_be_written(check, tmp_path, monkeypatch):
    real = Path.stat

    def stat(path, **how):
        if path.is_relative_to(tmp_path / "closed" / "state"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, **how)

    (tmp_path / "closed").mkdir(0o000)
    access = os.access
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "closed" and access(path, mode))
    code, out = check(journal=tmp_path / "closed" / "state" / "journal.db")
    assert code == 74
    assert f"✗ line 1: journal.path: this user cannot write in {tmp_path}/closed; " in out


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
