"""How fast are webhooks stored? Posts over kept connections, each answered when it is fsynced."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from stage import (
    HERE,
    SERVER_CPU,
    account,
    free_port,
    note,
    quantile,
    row,
    running,
    running_daemon,
    simulator,
    type_of_row,
    wait_for,
)

CONNECTIONS = 16
BYTES = 1024
# Adds so much to every fsync. RingCentral waits for 3 s.
SLOW_FSYNC_US = 50_000
SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void wait_a_while(void) { struct timespec t = {0, %d000L}; nanosleep(&t, 0); }
int fsync(int fd) { wait_a_while(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { wait_a_while(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


def posts(rounds: int, events: int) -> list[type_of_row]:
    """Measure posts a second at full speed, and how long an answer takes at 500/s and on a slow disk."""
    rates, p50s, p99s = [], [], []
    for number in range(rounds):
        note(f"webhooks, round {number + 1} of {rounds}")
        with listening() as (port, token):
            rates.append(events / load(port, token, events)["seconds"])
        with listening() as (port, token):
            times_ms = load(port, token, 5000, rate_per_s=500.0)["timesMs"]
            p50s.append(quantile(times_ms, 0.5))
            p99s.append(quantile(times_ms, 0.99))
    return [
        row(f"webhooks, stored with FULL sync before the answer, {BYTES} B", rates, "posts/s"),
        row("webhooks, from the post to its answer at 500/s, p50", p50s, "ms"),
        row("webhooks, from the post to its answer at 500/s, p99", p99s, "ms"),
        *on_a_slow_disk(events // 4),
    ]


def on_a_slow_disk(events: int) -> list[type_of_row]:
    """Measure the longest answer at full speed while every fsync takes 50 ms."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        note("webhooks on a slow disk: left out, there is no C compiler")
        return []
    note("webhooks, slow disk")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "slow.so"
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=(SLOW_DISK % SLOW_FSYNC_US).encode(), check=True)
        with listening(LD_PRELOAD=str(library)) as (port, token):
            done = load(port, token, events, connections=256)
    what = f"webhooks, {SLOW_FSYNC_US / 1000:g} ms an fsync, 256 connections"
    rate = events / done["seconds"]
    return [row(f"{what}, longest answer", [max(done["timesMs"])], "ms"), row(what, [rate], "posts/s")]


@contextmanager
def listening(**environ: str) -> Iterator[tuple[int, str]]:
    """Run simulator and daemon with one webhook; give its port and token."""
    port = free_port()
    with simulator() as ready, tempfile.TemporaryDirectory(dir=HERE) as folder:
        journal, config = Path(folder) / "journal.db", Path(folder) / "rc-push.toml"
        config.write_text(
            f'{account("main", ready)}[subscriptions.team]\ntransport = "webhook"\n'
            'event_filters = ["/team-messaging/v1/posts"]\n'
            f'address = "http://127.0.0.1:{port}/hook"\nlisten = "127.0.0.1:{port}"\n'
            f'[journal]\npath = "{journal}"\n[log]\nlevel = "error"\n'
        )
        with running_daemon(ready, config, **environ):
            wait_for(lambda: bool(token_in(journal)), "a webhook")
            yield port, token_in(journal)


def token_in(journal: Path) -> str:
    """Return the token by which a post is the daemon's; empty where it has no subscription yet."""
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT state FROM webhooks").fetchall()
    except sqlite3.Error:
        return ""
    hook = json.loads(rows[0][0])["hook"] if rows else {}
    return str(hook["token"]) if hook.get("id") else ""


def load(
    port: int, token: str, events: int, *, rate_per_s: float = 0.0, connections: int = CONNECTIONS
) -> dict[str, Any]:
    """Post *events* from a process of its own; return what it measured."""
    words = [sys.executable, __file__, str(port), token, str(events), str(connections), str(rate_per_s)]
    with running(words, SERVER_CPU, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        return dict(json.loads(process.stdout.read()))


# ---------------------------------------------------------------------------------------------------------- the sender


class Sender(asyncio.Protocol):
    """One connection: posts, and waits for the answer, as RingCentral does. A library would cost too much."""

    def __init__(self, token: str) -> None:
        self._head = (
            f"POST /hook HTTP/1.1\r\nHost: localhost\r\nVerification-Token: {token}\r\nAccept: application/json\r\n"
            "Content-Type: application/json; charset=UTF-8\r\nUser-Agent: RingCentral-Webhook/8.3\r\n"
        )
        self._answer = bytearray()
        self._came: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take the answer, which has no body."""
        self._answer += data
        if self._answer.endswith(b"\r\n\r\n") and self._came:
            self._came.set_result(None)

    async def post(self, number: int) -> float:
        """Post one event; return how long its answer took, in ms. Any status but 200 ends it all."""
        body = _body(number)
        self._answer.clear()
        self._came = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._came
        took_ms = (time.perf_counter() - began) * 1000
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(bytes(self._answer[:200]).decode())
        return took_ms


def _body(number: int) -> bytes:
    body = (
        b'{"uuid":"%019d","event":"/team-messaging/v1/posts","timestamp":"2026-11-23T10:00:00.120Z","subscriptionId":'
        b'"2db5a2f6-0f5d-4c8e-9d6a-6a3f6c1d2b11","ownerId":"233676004","body":{"eventType":"PostAdded","text":"%b"}}'
    )
    return body % (number, b"x" * (BYTES - len(body) - 11))


async def send(port: int, token: str, events: int, connections: int, rate_per_s: float) -> dict[str, Any]:
    """Post *events*; return seconds and the times of the answers."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Sender(token), "127.0.0.1", port) for _ in range(connections)]
    idle: asyncio.Queue[Sender] = asyncio.Queue()
    for _, sender in made:
        idle.put_nowait(sender)
    times_ms: list[float] = []

    async def worker(sender: Sender, numbers: Iterator[int]) -> None:
        for number in numbers:
            took_ms = await sender.post(number)
            times_ms.append(took_ms)

    async def one(number: int) -> None:
        sender = await idle.get()
        times_ms.append(await sender.post(number))
        idle.put_nowait(sender)

    began, numbers = time.perf_counter(), iter(range(events))
    async with asyncio.TaskGroup() as group:
        if not rate_per_s:
            for _, sender in made:
                group.create_task(worker(sender, numbers))
        for number in numbers if rate_per_s else ():
            await asyncio.sleep(max(0.0, began + number / rate_per_s - time.perf_counter()))
            group.create_task(one(number))
    return {"seconds": time.perf_counter() - began, "timesMs": times_ms}


if __name__ == "__main__":
    port, token, events, connections, rate = sys.argv[1:]
    print(json.dumps(asyncio.run(send(int(port), token, int(events), int(connections), float(rate)))))
