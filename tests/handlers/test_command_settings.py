"""Every mistake in the settings of a program is told at once, with its remedy; also what this machine cannot do."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.errors import ConfigError, Problem
from rc_push.handlers.command import machine

ALL = {
    "program": ["/bin/true", "-x"],
    "batch": True,
    "environment": {"CRM_URL": "http://127.0.0.1"},
    "pass_environment": ["TZ"],
    "working_directory": "/",
    "retry_after_s": 1,
    "kill_after_s": 0,
    "cpu_s": 1,
    "memory_bytes": 100_000_000,
    "nproc": 4000,
    "umask": "077",
}


def load(**settings: object) -> handlers.LoadedHandler:
    return handlers.load(HandlerConfig(name="crm", use="command", settings=settings))


def problems(**settings: object) -> dict[str, tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(**({"program": ["/bin/true"]} | settings))
    found = {problem.key.removeprefix("handlers.crm."): problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return {key: (problem.found, problem.remedy) for key, problem in found.items()}


@pytest.fixture
def a_fake_bwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what stands for bwrap: first in the path, not yet there."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "bwrap"


def write(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_every_setting_can_be_set() -> None:
    assert load(**ALL).handle_batch is not None


def test_without_batch_a_program_gets_one_event_at_a_time() -> None:
    assert load(program=["/bin/true"]).handle_batch is None


def test_the_program_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"handlers\.crm\.program: missing"):
        load()


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("program", "/bin/true --flag", "expected `array`, got `str`"),
        ("program", [], "expected `array` of length >= 1"),
        ("cpu_s", 0, "expected `int` >= 1"),
        ("memory_bytes", 1, "expected `int` >= 1048576"),
        ("umask", "0o77", "expected `str` matching regex"),
        ("umask", 63, "expected `str | null`, got `int`"),
        ("user", "", "expected `str` of length >= 1"),
        ("kill_after_s", -1, "expected `float` >= 0.0"),
        ("working_directory", "tmp", "not an absolute path"),
        ("environment", ["TZ"], "expected `object | null`, got `array`"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_mistake(setting: str, value: object, found: str) -> None:
    assert problems(**{setting: value})[setting][0].startswith(found)


def test_mistakes_in_well_formed_settings_are_told_all_at_once() -> None:
    environment = {"RC_PUSH_TYPE": "x"}
    found = problems(program=["true"], environment=environment, pass_environment=["RC_USER_JWT"])
    assert found == {
        "program": ("not an absolute path", "begin with /: nothing is searched for, no shell reads it"),
        "environment": ("RC_PUSH_TYPE is rc-push's own", "choose another name"),
        "pass_environment": ("RC_USER_JWT is for rc-push alone", "give the program what is its own"),
    }


@pytest.mark.parametrize("name", ["RC_APP_CLIENT_SECRET", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LISTEN_FDS"])
def test_what_is_for_the_daemon_alone_cannot_be_passed_on(name: str) -> None:
    assert "is for rc-push alone" in problems(pass_environment=[name])["pass_environment"][0]


@pytest.mark.parametrize("variable", [{"A=B": "x"}, {"": "x"}, {"A": "x\0"}, {"ä": "x"}])
def test_what_cannot_be_a_variable_is_told_without_its_value(variable: dict[str, str]) -> None:
    assert "cannot be a variable" in problems(environment=variable)["environment"][0]


def test_a_nul_in_an_argument_is_refused() -> None:
    assert problems(program=["/bin/true", "a\0b"])["program"][0] == "a NUL character"


def test_a_program_that_cannot_be_started_and_a_missing_directory_are_found_before_the_first_event(
    tmp_path: Path,
) -> None:
    found = problems(program=[str(tmp_path / "x")], working_directory=str(tmp_path / "y"))
    assert found["program"] == (
        f"{tmp_path}/x cannot be started: no such file or directory",
        "install it, or name another",
    )
    assert found["working_directory"] == (f"{tmp_path}/y is no directory", "create it")


def test_a_user_who_does_not_exist_is_named() -> None:
    assert "there is no user no-such-user" in problems(user="no-such-user")["user"][0]


def test_only_root_can_choose_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = problems(user="daemon")["user"]
    assert found == ("only root can run a program as another user", "run rc-push as root, or remove it")


def test_whoever_it_runs_as_anyway_can_be_named() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert machine.identity_of(me) is None
    assert load(program=["/bin/true"], user=me)


def test_root_becomes_the_user_with_all_its_groups_and_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("crm", "x", 4711, 4712, "", "/home/crm", "/bin/sh"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", {"crm": entry}.__getitem__)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 9])
    assert machine.identity_of("crm") == machine.Identity(4711, 4712, (4712, 9))
    assert machine.home_of("crm") == "/home/crm"


def test_a_user_that_systemd_has_made_up_may_have_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 61234)
    assert machine.home_of(None) == "/"


def test_limits_need_prlimit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert problems(nproc=5)["nproc"] == (
        "limits are set by prlimit, which is not there",
        "install util-linux, or remove it",
    )


def test_a_kernel_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert problems()["program"][0] == "this kernel does not tell when a program ends"


def test_the_sandbox_needs_bwrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    expected = ("bwrap is not installed", "install bubblewrap, or set sandbox = false")
    assert problems(sandbox=True)["sandbox"] == expected


@pytest.mark.e2e
def test_a_bwrap_that_is_not_permitted_is_found_with_what_it_says(a_fake_bwrap: Path) -> None:
    write(a_fake_bwrap, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    found, remedy = problems(sandbox=True)["sandbox"]
    assert found == "bwrap does not work here: bwrap: No permissions to create new namespace"
    assert "docs/operations.md" in remedy


@pytest.mark.e2e
def test_a_bwrap_that_says_nothing_or_cannot_be_started_is_found_too(a_fake_bwrap: Path) -> None:
    write(a_fake_bwrap, "exit 9")
    assert problems(sandbox=True)["sandbox"][0] == "bwrap does not work here: exit code 9"
    write(a_fake_bwrap, "kill -SYS $$")
    assert "ended by SIGSYS: a system call that the service may not make" in problems(sandbox=True)["sandbox"][0]
    a_fake_bwrap.write_text("#!/no/such\n")
    assert "No such file" in problems(sandbox=True)["sandbox"][0]


@pytest.mark.e2e
def test_a_bwrap_that_hangs_is_found_too_and_leaves_nothing(
    a_fake_bwrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "TRIAL_WITHIN_S", 0.3)
    write(a_fake_bwrap, "sleep 63.5 & kill -SYS $$ # as when a filter stops it half-way")
    assert problems(sandbox=True)["sandbox"][0] == "bwrap does not work here: it does not end within 0.3 s"
    until = time.monotonic() + 5
    while subprocess.run(["pgrep", "-f", "^sleep 63.5"], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < until


def test_what_the_sandbox_does_not_show_is_refused() -> None:
    found = problems(program=["/tmp/x"], working_directory="/run/x", sandbox=True)
    assert found == {
        "program": ("/tmp is empty in the sandbox", "move it elsewhere, or set sandbox = false"),
        "working_directory": ("/run is empty in the sandbox", "move it elsewhere, or set sandbox = false"),
    }


def test_a_problem_shows_where_it_is_in_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        load(program=["true"])
    remedy = "begin with /: nothing is searched for, no shell reads it"
    assert caught.value.problems == [Problem("handlers.crm.program", "not an absolute path", remedy)]
