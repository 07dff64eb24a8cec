"""The command that says whether the daemon would work: the file, the plug-ins, the paths, the account."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rc_push.cli import Settings
from rc_push.errors import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_JOURNAL,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    ConfigError,
    HandlerError,
    Problem,
    UnreachableError,
)
from rc_push.folders import is_folder, mode_of
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.config import Config, HandlerConfig
    from rc_push.handlers import LoadedHandler

Level = Literal["ok", "warning", "problem"]

MARKS = {
    "ok": click.style("✓", fg="green"),
    "warning": click.style("!", fg="yellow"),
    "problem": click.style("✗", fg="red"),
}
# Which exit code stands for all: what has to be repaired first.
WORST_FIRST = (EXIT_CONFIG, EXIT_JOURNAL, EXIT_REFUSED, EXIT_UNREACHABLE)
# What a handler gets to look at what it writes to.
LOOKS_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found: *key* says where in the file, *exit_code* counts where it is a problem."""

    level: Level
    key: str
    found: str
    remedy: str = ""
    line: int | None = None
    exit_code: int = EXIT_CONFIG

    def to_dict(self) -> dict[str, object]:
        """Return the form that `check --json` prints."""
        names = ("level", "key", "line", "found", "remedy")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        told = f"{where}{self.key}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")
        return f"{MARKS[self.level]} {printable(told)}"


@click.command()
@click.option("--offline", is_flag=True, help="Ask neither RingCentral nor what handlers write to.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding.")
@click.pass_obj
def check(settings: Settings, *, offline: bool, as_json: bool) -> int:
    """Check file, plug-ins, paths and account. Names every mistake, and its remedy."""
    findings = []
    for finding in _findings(settings.path(), offline=offline):
        findings.append(finding)
        click.echo(json.dumps(finding.to_dict()) if as_json else str(finding))
    codes = [finding.exit_code for finding in findings if finding.level == "problem"]
    if not as_json:
        count = "1 problem" if len(codes) == 1 else f"{len(codes)} problems"
        click.echo(count if codes else "configuration is fine")
    return next((code for code in WORST_FIRST if code in codes), EXIT_FAILED if codes else EXIT_OK)


def _findings(path: Path | None, *, offline: bool) -> Iterator[Finding]:
    """Look at one thing after another; each finding is told at once, since the last ones can take a while."""
    from rc_push import config as configuration
    from rc_push import log

    try:
        path = configuration.required(path)
        config, problems = configuration.load_what_works(path, os.environ)
    except ConfigError as exc:
        yield from map(finding_from, exc.problems)
        return
    log.configure(config.log)
    yield from map(finding_from, problems)
    if wrong := {problem.key for problem in problems if not problem.warning}:
        more = (finding for finding in _look(config, path, offline=True) if finding.level != "ok")
        if config.journal == configuration.JournalConfig():  # it may be what is wrong that names another
            wrong.add("journal.path")
        yield from (finding for finding in more if finding.key not in wrong)  # else it follows from what is told
        return
    yield Finding("ok", str(path), "read")
    yield from _look(config, path, offline=offline)
    if not offline:
        from rc_push.cli.check_online import check_online

        yield from check_online(config)


def _look(config: Config, path: Path, *, offline: bool) -> Iterator[Finding]:
    """Look at the journal's path and at the handlers that the file at *path* asks for."""
    yield from _check_journal(config.journal.path, path)
    for handler in config.handlers.values():
        yield from _check_handler(handler, path, offline=offline)


def finding_from(problem: Problem, exit_code: int = EXIT_CONFIG) -> Finding:
    """Return the finding that tells of *problem*."""
    level: Level = "warning" if problem.warning else "problem"
    return Finding(level, problem.key, problem.found, problem.remedy, problem.line, exit_code)


def filters_refused(key: str, found: str, *, is_all: bool) -> Finding:
    """Return that RingCentral does not serve some event filters, or *is_all* of them."""
    remedy = "give the app or the user the missing permission"
    return Finding("problem" if is_all else "warning", key, found, remedy, exit_code=EXIT_REFUSED)


def _check_journal(journal: Path, path: Path) -> list[Finding]:
    """Look whether the journal could be written, without touching it: a daemon may be using it."""
    directory = next((parent for parent in journal.parents if mode_of(parent)), journal)
    if is_folder(journal):
        found, remedy = f"{journal} is a directory", f"name a file, such as {journal}/journal.db"
    elif not is_folder(directory):
        found, remedy = f"{directory} is no directory", "name a path whose directory exists or can be created"
    elif not os.access(directory, os.W_OK | os.X_OK):
        command = f"install -d -m 0700 -o USER {shlex.quote(str(journal.parent))}"
        remedy = f"give this user a directory there (as root: {command}), or name another"
        found = f"this user cannot write in {directory}"
    elif journal.exists() and not (journal.is_file() and os.access(journal, os.R_OK | os.W_OK)):
        found, remedy = f"this user cannot write {journal}", "run it as the user that owns the journal, or name another"
    else:
        return [Finding("ok", "journal.path", f"{journal} can be written")]
    return _placed([Problem("journal.path", found, remedy)], path, EXIT_JOURNAL)


def _check_handler(handler: HandlerConfig, path: Path, *, offline: bool) -> Iterator[Finding]:
    """Load the handler as the daemon would, without opening it: what it writes may be in use."""
    from rc_push import handlers

    key = f"handlers.{handler.name}"
    if not handler.enabled:
        off = Problem(key, "not enabled", "set enabled = true to hand events over", warning=True)
        yield from _placed([off], path)
        return
    try:
        loaded = handlers.load(handler)
    except (ConfigError, HandlerError) as exc:
        yield from _placed(handlers.problems_of(exc, handler), path)
    else:
        yield from _placed(loaded.warnings, path)
        yield Finding("ok", key, f"loaded ({handler.use})")
        if not offline:
            yield from asyncio.run(_let_look(loaded, handler, path))


async def _let_look(loaded: LoadedHandler, config: HandlerConfig, path: Path) -> list[Finding]:
    """Let a handler that can do so look whether what it writes to would take events."""
    from rc_push import handlers

    key = f"handlers.{config.name}"
    try:
        async with asyncio.timeout(LOOKS_WITHIN_S):
            found = await loaded.check()
    except (HandlerError, UnreachableError) as exc:
        return _placed(handlers.problems_of(exc, config), path, exc.exit_code)
    except TimeoutError:
        problem = Problem(key, f"no answer within {LOOKS_WITHIN_S:g} s", handlers.REACH_REMEDY)
        return _placed([problem], path, EXIT_UNREACHABLE)
    return [Finding("ok", key, found)] if found else []


def _placed(problems: Iterable[Problem], path: Path, exit_code: int = EXIT_CONFIG) -> list[Finding]:
    """Return what tells of *problems*, with the lines of their keys in the file at *path*."""
    from rc_push.config import with_lines

    return [finding_from(problem, exit_code) for problem in with_lines(problems, path)]
