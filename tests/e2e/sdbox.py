"""A machine of its own, with a real systemd: what the tests of the unit and of the package run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

SCRIPT = Path(__file__).with_name("sdbox.sh")
BOOT_WITHIN_S = 30.0
POLL_S = 0.05
NAMESPACES = ("pid", "mount", "uts", "ipc", "net", "cgroup")


def why_not() -> str | None:
    """Return why no box can be had here; None where it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("unshare", "nsenter", "pivot_root", "systemctl", "dbus-daemon", "ip")
               if shutil.which(name) is None]  # fmt: skip
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", *(f"--{name}" for name in NAMESPACES), "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are not permitted: {tried.stderr.strip()}" if tried.returncode else None


class Box:
    """The machine. `with Box(folder) as box:`; *folder* is /box inside, where both sides leave files for each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder.with_suffix(".log")

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self.folder.chmod(0o755)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([SCRIPT, self.folder], stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            self._pid = self._wait_boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, *command: str, check: bool = True, within_s: float = 60.0, text_in: str = ""):
        """Run *command* inside, as root; return what `subprocess.run` does. One string is a line of shell."""
        words = ("/bin/bash", "-c", command[0]) if len(command) == 1 else command
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*self._enter(), *words],
            input=text_in,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            env=environ,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def ask(self, *command: str, **options) -> str:
        """Return what *command* says, without the newline at its end."""
        return self.run(*command, **options).stdout.strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of *unit*."""
        shown = self.ask("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def said(self, unit: str) -> str:
        """Return the log of *unit*."""
        return self.ask("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def wait(self, condition, within_s: float = 30.0, what="what was expected"):
        """Look until *condition* returns something; return it. Fails with *what* was waited for."""
        until = time.monotonic() + within_s
        while not (found := condition()):
            assert time.monotonic() < until, f"not within {within_s:g} s: {what() if callable(what) else what}"
            time.sleep(POLL_S)
        return found

    def _wait_boot(self) -> int:
        """Return the pid, out here, of the systemd inside, once it is up."""
        until = time.monotonic() + BOOT_WITHIN_S
        while time.monotonic() < until:
            assert self._process.poll() is None, f"the box did not boot: {self._log.read_text()}"
            for pid in self._pids_inside():
                self._pid = pid
                done = self.run("systemctl", "is-active", "sdbox.target", check=False)
                if done.stdout.strip() == "active":
                    return pid
            time.sleep(POLL_S)
        raise AssertionError(f"the box did not boot within {BOOT_WITHIN_S:g} s: {self._log.read_text()}")

    def _pids_inside(self) -> list[int]:
        """Return the child of `unshare`, once it has become systemd."""
        pids = [self._process.pid]
        for _ in range(2):
            pids = [child for pid in pids for child in children_of(pid)]
        return [pid for pid in pids if name_of(pid) == "systemd"]

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._pid}", *(f"--{name}" for name in NAMESPACES), "--"]


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
