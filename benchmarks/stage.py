"""What all benchmarks share: simulator, daemon and peers as processes, pinned apart; and the rows of the table."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What the service has in its environment, the daemon has here.
UNIT = HERE.parent / "systemd" / "rc-push.service"
SERVICE_ENVIRON = dict(re.findall(r"(MALLOC_\w+)=(\d+)", UNIT.read_text("utf-8")))
CLIENT_CPU, SERVER_CPU = {0}, {(os.cpu_count() or 1) - 1}
ROUND_WITHIN_S = 120.0
KIB_PER_MIB = 1024
# Until the last progress is noted and what was written is counted.
SETTLE_S = 0.3
SAMPLE_EVERY_S = 0.5
type_of_row = dict[str, Any]


def prepare() -> None:
    """Compile rc-push, as its installation does: else each start would do it anew where nothing may be written."""
    compileall.compile_dir(HERE.parent / "rc_push", quiet=1)


@contextlib.contextmanager
def simulator(*knobs: str) -> Iterator[dict[str, str]]:
    """Run the simulator with *knobs* turned; give its ready line."""
    command = [sys.executable, "-m", "rc_push", "simulate"]
    command += [word for knob in ("rate_limits=false", *knobs) for word in ("--knob", knob)]
    with running(command, SERVER_CPU, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())


@contextlib.contextmanager
def daemon(
    ready: dict[str, str],
    folder: Path,
    count: int,
    *,
    latencies: bool = False,
    transport: str = "websocket",
    more: str = "",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon with one subscription and the handler that does nothing; *more* is added to the file."""
    config = folder / "rc-push.toml"
    config.write_text(
        f'{account("main", ready)}pubnub_origin = "{ready["pubnubOrigin"]}"\n'
        f'[subscriptions.team]\naccount = "main"\ntransport = "{transport}"\n'
        'event_filters = ["/team-messaging/v1/posts"]\n'
        f'[handlers.bench]\nuse = "bench"\nreport = "{folder / "report.json"}"\ncount = {count}\n'
        f"latencies = {str(latencies).lower()}\n"
        f'{more}[journal]\npath = "{folder / "journal.db"}"\n[log]\nlevel = "error"\n[service]\nshutdown_grace_s = 1\n'
    )
    with running_daemon(ready, config, PYTHONPATH=str(HERE / "plugin")) as process:
        yield process


@contextlib.contextmanager
def running_daemon(ready: dict[str, str], config: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon with the file at *config*, in the service's environment, the credentials and *environ* added."""
    names = {"RC_APP_CLIENT_ID": "clientId", "RC_APP_CLIENT_SECRET": "clientSecret", "RC_USER_JWT": "jwt"}
    environ = SERVICE_ENVIRON | environ | {name: ready[key] for name, key in names.items()}
    command = [sys.executable, "-m", "rc_push", "-c", str(config), "run"]
    with running(command, CLIENT_CPU, env=os.environ | environ) as process:
        yield process


def account(name: str, ready: dict[str, str]) -> str:
    """Return the table of an account, which others with the same credentials may stand beside."""
    return (
        f'[accounts.{name}]\nserver = "{ready["server"]}"\nclient_id = {{ env = "RC_APP_CLIENT_ID" }}\n'
        'client_secret = { env = "RC_APP_CLIENT_SECRET" }\njwt = { env = "RC_USER_JWT" }\n'
    )


@contextlib.contextmanager
def running(command: list[str], cpus: set[int], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* on the processors *cpus*; end it at the end."""
    with subprocess.Popen(command, **options) as process:
        os.sched_setaffinity(process.pid, cpus)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


def daemon_round(
    ready: dict[str, str],
    many: dict[str, Any],
    *,
    latencies: bool = False,
    transport: str = "websocket",
    more: str = "",
    subscriptions: int = 1,
    reported: int | None = None,
    folder: Path | None = None,
) -> type_of_row:
    """Let a daemon take *many*; return what its handler reports after *reported* events, and what the daemon used.

    *peakMib* of memory; *cpuS* of processor time and *writtenBytes*, both without its start.
    """
    with (
        contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory() as used,
        daemon(
            ready, Path(used), reported or many["count"], latencies=latencies, transport=transport, more=more
        ) as process,
    ):
        wait_for(lambda: subscribed(ready, subscriptions), "a subscription")
        time.sleep(1)  # until the first poll: a channel that nobody reads keeps the newest 100 only
        cpu_before_s, written_before = cpu_s(process.pid), written_bytes(process.pid)
        post(ready, "/simulator/events", many)
        report = wait_report(Path(used) / "report.json")
        time.sleep(SETTLE_S)
        return report | {
            "peakMib": status_kib(process.pid, "VmHWM") / KIB_PER_MIB,
            "cpuS": cpu_s(process.pid) - cpu_before_s,
            "writtenBytes": written_bytes(process.pid) - written_before,
        }


def peer_round(
    command: Sequence[str], environment: dict[str, str], ready: dict[str, str], many: dict[str, Any]
) -> type_of_row:
    """Let a peer take *many*; return its report, with *peakMib*."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        names = ("server", "clientId", "clientSecret", "jwt")
        words = [*command, *(ready[name] for name in names), str(report), str(many["count"])]
        with running(words, CLIENT_CPU, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: subscribed(ready), "a subscription")
            time.sleep(0.5)
            post(ready, "/simulator/events", many)
            return wait_report(report) | {"peakMib": status_kib(process.pid, "VmHWM") / KIB_PER_MIB}


def subscribed(ready: dict[str, str], count: int = 1) -> bool:
    """Say whether there are *count* subscriptions."""
    with urllib.request.urlopen(ready["server"] + "/simulator/state") as answer:
        return len(json.load(answer)["subscriptions"]) >= count


def post(ready: dict[str, str], path: str, body: dict[str, Any]) -> None:
    """Make an admin call."""
    request = urllib.request.Request(
        ready["server"] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()


def wait_report(path: Path, within_s: float = ROUND_WITHIN_S) -> dict[str, Any]:
    """Wait for a client's report."""
    wait_for(path.exists, "the report", within_s)
    time.sleep(0.1)
    report: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return report


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 30.0, poll_s: float = 0.02) -> None:
    """Wait until *condition* holds."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited {within_s:g} s for {what}")
        time.sleep(poll_s)


def status_kib(pid: int, name: str) -> int:
    """Return a memory figure of a process, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def cpu_s(pid: int) -> float:
    """Return the processor time of a process. Source: proc(5), utime and stime in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def threads_cpu_s(pid: int) -> float:
    """Return the processor time of a process's present threads, to the ns. Source: Linux, sched-stats."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory_until(condition: Callable[[], bool], pid: int, within_s: float) -> list[float]:
    """Return what memory the process has, in MiB, every half second until *condition* holds."""
    samples: list[float] = []

    def look() -> bool:
        samples.append(status_kib(pid, "VmRSS") / KIB_PER_MIB)
        return condition()

    wait_for(look, "the end", within_s, SAMPLE_EVERY_S)
    return samples


def memory_rows(what: str, samples: list[float]) -> list[type_of_row]:
    """Return the rows of memory while *what* was done, without its first tenth, and how far it grew."""
    tenth = max(1, len(samples) // 10)
    settled = samples[tenth:] or samples
    growth = statistics.median(settled[-tenth:]) / statistics.median(settled[:tenth])
    return [
        row(f"memory, {what}", settled, "MiB"),
        row("the same, in the last tenth of the time by that in the second", [growth], "times"),
    ]


def written_bytes(pid: int) -> int:
    """Return what a process has caused to be written to disks. Source: proc(5), io."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes:")).split()[1])


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of *values* are below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def row(what: str, values: list[float], unit: str) -> type_of_row:
    """Return one row of the table."""
    return {"what": what, "median": statistics.median(values), "min": min(values), "max": max(values), "unit": unit}


def note(text: str) -> None:
    """Say what is being done."""
    print(f"  … {text}", file=sys.stderr, flush=True)


def told_lacking(name: str, why: str) -> bool:
    """Say whether a peer cannot run here, and tell why."""
    if why:
        note(f"{name} is left out: {why}")
    return bool(why)
