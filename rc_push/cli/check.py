"""The command that says whether the daemon would work: the file, the plug-ins, the paths, the account."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
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
        config, warnings = configuration.load(path, os.environ)
    except ConfigError as exc:
        yield from map(finding_from, exc.problems)
        return
    log.configure(config.log)
    yield from map(finding_from, warnings)
    yield Finding("ok", str(path), "read")
    yield _check_journal(config.journal.path)
    for handler in config.handlers.values():
        yield from _check_handler(handler, config, offline=offline)
    if not offline:
        from rc_push.cli.check_online import check_online

        yield from check_online(config)


def finding_from(problem: Problem) -> Finding:
    """Return the finding that tells of *problem*."""
    level: Level = "warning" if problem.warning else "problem"
    return Finding(level, problem.key, problem.found, problem.remedy, problem.line)


def _check_journal(path: Path) -> Finding:
    """Look whether the journal could be written, without touching it: a daemon may be using it."""
    directory = next(parent for parent in path.parents if parent.exists() or parent == parent.parent)
    if not directory.is_dir():
        found, remedy = f"{directory} is no directory", "name a path whose directory exists or can be created"
    elif not os.access(directory, os.W_OK | os.X_OK):
        remedy = (
            f"give this user a directory there (as root: install -d -m 0700 -o USER {path.parent}), or name another"
        )
        found = f"this user cannot write in {directory}"
    elif path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        found, remedy = f"this user cannot write {path}", "run it as the user that owns the journal, or name another"
    else:
        return Finding("ok", "journal.path", f"{path} can be written")
    return Finding("problem", "journal.path", found, remedy, exit_code=EXIT_JOURNAL)


def _check_handler(handler: HandlerConfig, config: Config, *, offline: bool) -> Iterator[Finding]:
    """Load the handler as the daemon would, without opening it: what it writes may be in use."""
    from rc_push import handlers
    from rc_push.config import with_lines

    key = f"handlers.{handler.name}"
    if not handler.enabled:
        yield Finding("warning", key, "not enabled", "set enabled = true to hand events over")
        return
    try:
        loaded = handlers.load(handler)
    except ConfigError as exc:
        yield from map(finding_from, with_lines(exc.problems, config.path) if config.path else exc.problems)
    except HandlerError as exc:
        yield _finding_from_error(key, exc)
    else:
        warnings = list(loaded.warnings)
        yield from map(finding_from, with_lines(warnings, config.path) if config.path else warnings)
        yield Finding("ok", key, f"loaded ({handler.use})")
        if not offline:
            yield from asyncio.run(_let_look(key, loaded))


async def _let_look(key: str, handler: LoadedHandler) -> list[Finding]:
    """Let a handler that can do so look whether what it writes to would take events."""
    try:
        async with asyncio.timeout(LOOKS_WITHIN_S):
            found = await handler.check()
    except (HandlerError, UnreachableError) as exc:
        return [_finding_from_error(key, exc)]
    except TimeoutError:
        remedy = "look whether what it writes to answers"
        return [Finding("problem", key, f"no answer within {LOOKS_WITHIN_S:g} s", remedy, exit_code=EXIT_UNREACHABLE)]
    return [Finding("ok", key, found)] if found else []


def _finding_from_error(key: str, exc: HandlerError | UnreachableError) -> Finding:
    found, _, remedy = str(exc).removeprefix(f"{key}: ").partition("; ")
    return Finding("problem", key, found, remedy, exit_code=exc.exit_code)
