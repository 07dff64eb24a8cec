"""Can this machine do what the settings ask for? Its users, its programs, its kernel; and the program made of them."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from rc_push.errors import Problem
from rc_push.handlers.command.environment import DEFAULTS
from rc_push.handlers.command.outcome import how_it_ended
from rc_push.handlers.command.process import Identity, Program
from rc_push.handlers.command.settings import CommandSettings
from rc_push.handlers.command.startable import why_not_startable
from rc_push.handlers.command.wrapping import bwrap_words, limits_of, prlimit_words
from rc_push.terminal import unobeyed

TRIAL_WITHIN_S = 5.0


def problems_here(settings: CommandSettings) -> Iterator[Problem]:
    """Yield what *settings* ask for and cannot have on this machine. Keys are the names of the settings."""
    path = settings.program[0]
    if why := why_not_startable(path):
        yield Problem("program", f"{unobeyed(path)} cannot be started: {why}", "install it, or name another")
    if not settings.working_directory.is_dir():
        yield Problem("working_directory", f"{settings.working_directory} is no directory", "create it")
    if not _has_pidfd():
        yield Problem("program", "this kernel does not tell when a program ends", "use Linux 5.4 or newer")
    wrong_user = list(_problems_of_user(settings.user))
    yield from wrong_user
    if limits_of(settings) and not shutil.which("prlimit"):
        limit = next(name for name in ("cpu_s", "memory_bytes", "nproc") if getattr(settings, name) is not None)
        yield Problem(limit, "limits are set by prlimit, which is not there", "install util-linux, or remove it")
    if settings.sandbox:
        yield from _problems_of_sandbox(None if wrong_user else identity_of(settings.user))


def program_from(settings: CommandSettings) -> Program:
    """Return the program that *settings* describe, with what holds it; call it where there are no problems."""
    words = settings.program
    if limits := limits_of(settings):
        hard = {kind: resource.getrlimit(kind)[1] for kind in limits}
        words = (*prlimit_words(shutil.which("prlimit") or "prlimit", limits, hard), *words)
    if settings.sandbox:
        words = (*bwrap_words(shutil.which("bwrap") or "bwrap", str(settings.working_directory)), *words)
    umask = None if settings.umask is None else int(settings.umask, 8)
    return Program(words, str(settings.working_directory), umask, identity_of(settings.user))


def identity_of(user: str | None) -> Identity | None:
    """Return whom to become; None where that is who we are."""
    if user is None:
        return None
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.geteuid():
        return None
    return Identity(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid)))


def home_of(user: str | None) -> str:
    """Return the home of *user*, or of who we are; a user that systemd has made up may have none."""
    try:
        entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        return "/"
    return entry.pw_dir or "/"


def _problems_of_user(user: str | None) -> Iterator[Problem]:
    try:
        identity = identity_of(user)
    except KeyError:
        yield Problem(
            "user", f"there is no user {unobeyed(str(user))}", "create it (useradd --system), or name another"
        )
        return
    if identity and os.geteuid() != 0:
        yield Problem("user", "only root can run a program as another user", "run rc-push as root, or remove it")


def _problems_of_sandbox(identity: Identity | None) -> Iterator[Problem]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        yield Problem("sandbox", "bwrap is not installed", "install bubblewrap, or set sandbox = false")
        return
    why = _why_it_fails((*bwrap_words(bwrap, "/"), bwrap, "--version"), identity)
    if why:
        remedy = 'allow it (docs/operations.md, "Programs"), or set sandbox = false'
        yield Problem("sandbox", f"bwrap does not work here: {why}", remedy)


def _why_it_fails(words: Sequence[str], identity: Identity | None) -> str:
    """Run *words* and return what went wrong. Where a filter kills one process of them, another may wait for ever."""
    try:
        trial = subprocess.Popen(  # noqa: S603 - bwrap itself, to see whether the kernel and the service's unit let it
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=DEFAULTS,
            cwd="/",
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=identity.groups if identity else None,
            start_new_session=True,
        )
    except OSError as exc:
        return str(exc)
    with trial:
        try:
            _, said = trial.communicate(timeout=TRIAL_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(trial.pid, signal.SIGKILL)
            return f"it does not end within {TRIAL_WITHIN_S:g} s"
    if trial.returncode == 0:
        return ""
    first_line = unobeyed(said.decode("utf-8", "replace").strip().partition("\n")[0])
    return first_line or how_it_ended(trial.returncode)


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return Path("/proc/self").exists()
