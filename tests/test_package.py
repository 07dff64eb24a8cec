"""Does what the package brings beside the program say what the program does?"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from source import parsed

from rc_push import __version__, cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAN = runpy.run_path(str(ROOT / "package" / "man.py"))
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def manual():
    markdown = (ROOT / "docs/commands.md").read_text("utf-8")
    return MAN["page"](markdown, PROJECT)


def test_the_manual_has_every_command(manual):
    headings = re.findall(r"^\.TP\n\\fB(\S+?)\\fR$", manual, re.MULTILINE)
    assert set(cli.COMMANDS) <= set(headings)
    assert f'"rc-push {__version__}"' in manual


def test_the_manual_has_nothing_left_of_markdown(manual):
    for line in manual.splitlines():
        assert not re.search(r"`|\]\(|^\||^#|\*\*", line), line


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_read_without_a_warning(manual):
    command = ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z"]
    done = subprocess.run(command, input=manual, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


def complete(shell, **environ):
    command = [sys.executable, "-c", "import sys; from rc_push.__main__ import main; sys.exit(main([]))"]
    done = subprocess.run(
        command, env=os.environ | environ, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_there_are_completions_for_a_shell(shell):
    assert "_RC_PUSH_COMPLETE" in complete(shell, _RC_PUSH_COMPLETE=f"{shell}_source")


def test_commands_and_options_are_completed():
    found = complete("bash", _RC_PUSH_COMPLETE="bash_complete", COMP_WORDS="rc-push re", COMP_CWORD="1")
    assert found.split() == ["plain,reload", "plain,replay"]
    found = complete("bash", _RC_PUSH_COMPLETE="bash_complete", COMP_WORDS="rc-push check --", COMP_CWORD="2")
    assert "plain,--offline" in found.split()


def test_the_package_installs_what_is_there():
    script = (ROOT / "package/deb.sh").read_text("utf-8")
    for name in re.findall(r"(?<!/)\bsystemd/[\w.@-]+\b", script):
        assert (ROOT / name).exists(), name
    assert (ROOT / "package/deb/conffiles").read_text().split() == [
        "/etc/rc-push/config.toml",
        "/etc/logrotate.d/rc-push",
    ]


@pytest.mark.e2e
def test_the_source_and_the_wheel_have_all_that_is_needed(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-d", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
        [entry_points] = [wheel.read(name).decode() for name in inside if name.endswith("entry_points.txt")]
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "rc_push").rglob("*") if path.suffix in (".py", ".sql")}
    assert code <= inside
    assert f"rc-push = {PROJECT['project']['scripts']['rc-push']}" in entry_points
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        kept = {name.partition("/")[2] for name in source.getnames()}
    assert {"systemd/rc-push.service", "package/deb.sh", "docs/operations.md", "requirements/run.txt"} <= kept


# ------------------------------------------------------------------------------------------ what make coverage measures


MEASURED = PROJECT["tool"]["coverage"]["report"]["include"]


def test_the_store_is_measured_with_all_of_the_journal_that_it_is_made_of():
    made_of, left = set(), {"store"}
    while left:
        module = left.pop()
        made_of.add(module)
        tree = parsed((ROOT / f"rc_push/journal/{module}.py").read_text("utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
        left |= {name.split(".")[2] for name in names if name.startswith("rc_push.journal.")} - made_of
    assert {"store", "segments", "retention"} <= made_of
    assert {f"rc_push/journal/{module}.py" for module in made_of} == {p for p in MEASURED if "/journal/" in p}


def test_mutants_are_made_of_what_is_measured_and_tried_on_the_same_tests():
    mutmut = PROJECT["tool"]["mutmut"]
    assert mutmut["only_mutate"] == MEASURED
    printed = subprocess.run(
        ["make", "--dry-run", "coverage"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    tests = re.findall(r"tests/\S+", next(line for line in printed.splitlines() if "coverage run" in line))
    assert sorted(tests) == sorted(mutmut["pytest_add_cli_args_test_selection"])
    assert all((ROOT / test).exists() for test in tests)
