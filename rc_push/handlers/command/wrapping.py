"""How is a program held within limits? By what is put before it: words for `prlimit` and `bwrap`.

Limits are set by a program of their own that then becomes the wanted one. To set them from here, between fork and exec,
is not safe beside threads; to set them on the child that already runs (prlimit(2)) comes too late for what it has
started meanwhile, and is refused where it runs as another user. Pure; knows nothing of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_CPU, RLIMIT_NPROC

from rc_push.handlers.command.settings import CommandSettings

# After SIGXCPU, which a program can ignore, until SIGKILL.
CPU_GRACE_S = 1


def limits_of(settings: CommandSettings) -> dict[int, tuple[int, int]]:
    """Return the soft and hard limits that *settings* ask for, by the number of the resource."""
    limits: dict[int, tuple[int, int]] = {}
    if settings.cpu_s is not None:
        limits[RLIMIT_CPU] = (settings.cpu_s, settings.cpu_s + CPU_GRACE_S)
    if settings.memory_bytes is not None:
        limits[RLIMIT_AS] = (settings.memory_bytes, settings.memory_bytes)
    if settings.nproc is not None:
        limits[RLIMIT_NPROC] = (settings.nproc, settings.nproc)
    return limits


def prlimit_words(prlimit: str, limits: Mapping[int, tuple[int, int]], hard: Mapping[int, int]) -> tuple[str, ...]:
    """Return what sets *limits*; none above the *hard* ones of this process, which nobody could raise."""
    names = {RLIMIT_CPU: "cpu", RLIMIT_AS: "as", RLIMIT_NPROC: "nproc"}
    words = []
    for kind, (soft, top) in limits.items():
        ceiling = hard.get(kind, RLIM_INFINITY)
        bounds = [value if ceiling == RLIM_INFINITY else min(value, ceiling) for value in (soft, top)]
        words.append(f"--{names[kind]}={bounds[0]}:{bounds[1]}")
    return (prlimit, *words, "--") if words else ()


def bwrap_words(bwrap: str, working_directory: str) -> tuple[str, ...]:
    """Return what makes the sandbox: namespaces of its own, nothing to write to, no capability, an end with the daemon.

    Sockets of other services lie in /run, and a path to one leads out of a network namespace; hence it is empty.
    """
    return (
        bwrap,
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *("--tmpfs", "/tmp", "--tmpfs", "/run"),  # noqa: S108 - hidden, not used
        *("--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
        *("--chdir", working_directory, "--"),
    )
