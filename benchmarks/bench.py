"""How fast is the daemon? Real processes over loopback, pinned apart, several rounds, medians.

    python benchmarks/bench.py [--rounds 5] [--events 60000] [--json FILE]

The simulator, pre-encoding, runs on one processor, the client on another. The daemon stores every event with
synchronous=FULL before its handler, which does nothing, gets it. The peers keep nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from Crypto.Cipher import AES

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source, envelope_from_payload
from rc_push.protocol.crypto import Decryptor

HERE = Path(__file__).parent
CLIENT_CPU, SIMULATOR_CPU = {0}, {(os.cpu_count() or 1) - 1}
ROUND_WITHIN_S = 120.0
MIB = 1024


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import handlers  # noqa: PLC0415 - it uses what is below
    import programs  # noqa: PLC0415 - so does this
    import sinks  # noqa: PLC0415 - as above

    rows = [
        *throughput(1024, options.rounds, options.events),
        *throughput(4096, options.rounds, options.events // 2),
        *latency(1000, options.rounds, seconds=10),
        *idle("websocket"),
        *over_pubnub(options.rounds, options.events // 3),
        *decrypting(options.rounds),
        *idle("pubnub"),
        *handlers.large_journal(1_000_000),
        *handlers.backlog(100_000, options.rounds),
        *handlers.ten_handlers(options.events // 2, options.rounds),
        *sinks.forwarding(20_000, options.rounds),
        *sinks.forward_descriptors(100_000),
        *sinks.filing(200_000, options.rounds),
        *file_handler(options.rounds),
        *programs.programs(4000, options.rounds),
    ]
    machine = platform.processor() or platform.machine()
    print(f"\n{machine}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(f"\n{'what':<62} {'median':>10} {'min':>10} {'max':>10}  unit")
    for row in rows:
        print(f"{row['what']:<62} {row['median']:>10,.1f} {row['min']:>10,.1f} {row['max']:>10,.1f}  {row['unit']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def throughput(size: int, rounds: int, events: int) -> list[dict[str, Any]]:
    """Events per second at full speed, ours and the SDK's in turn; their ratio pair by pair."""
    ours, theirs, rss = [], [], []
    for number in range(rounds):
        note(f"{size} bytes, round {number + 1} of {rounds}")
        with simulator() as ready:
            report, peak_kib = daemon_round(ready, {"count": events, "bytes": size})
        ours.append((events - 1) / report["seconds"])
        rss.append(peak_kib / MIB)
        with simulator() as ready:
            theirs.append((events - 1) / sdk_round(ready, {"count": events, "bytes": size})["seconds"])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        row(f"rc-push, stored with FULL sync and handled, {size} B", ours, "events/s"),
        row(f"official Python SDK, in memory only, {size} B", theirs, "events/s"),
        row(f"rc-push / SDK, {size} B", ratios, "times"),
        row(f"rc-push, peak memory at full speed, {size} B", rss, "MiB"),
    ]


def latency(rate: int, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """From the moment of sending to the handler's end, at *rate* events a second."""
    found: dict[str, list[float]] = {name: [] for name, _ in QUANTILES}
    for number in range(rounds):
        note(f"{rate} events/s for {seconds} s, round {number + 1} of {rounds}")
        with simulator() as ready:
            report, _ = daemon_round(ready, {"count": rate * seconds, "bytes": 1024, "ratePerS": rate}, latencies=True)
        times_ms = sorted(report["latenciesMs"])
        for name, share in QUANTILES:
            found[name].append(times_ms[min(len(times_ms) - 1, int(len(times_ms) * share))])
    return [row(f"rc-push, sent to handled at {rate}/s, {name}", values, "ms") for name, values in found.items()]


QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))


def over_pubnub(rounds: int, events: int) -> list[dict[str, Any]]:
    """Events per second over PubNub: encrypted, in answers of 100, each stored before the next is asked for."""
    rates = []
    for number in range(rounds):
        note(f"PubNub, round {number + 1} of {rounds}")
        with simulator() as ready:
            report, _ = daemon_round(ready, {"count": events, "bytes": 1024}, transport="pubnub")
        rates.append((events - 1) / report["seconds"])
    return [row("rc-push over PubNub, stored with FULL sync and handled, 1024 B", rates, "events/s")]


def decrypting(rounds: int, messages: int = 20_000) -> list[dict[str, Any]]:
    """Processor time to decrypt and decode one message of 1 KB."""
    source = Source("main", "team", "pubnub")
    plain = b'{"uuid":"6452004109062593690","event":"/team-messaging/v1/posts","timestamp":"2026-11-23T10:00:00.120Z",'
    plain += b'"subscriptionId":"2db5","ownerId":"233676004","body":{"text":"%b","eventType":"PostAdded"}}' % (
        b"x" * 560
    )
    key = base64.b64encode(bytes(16)).decode()
    padding = 16 - len(plain) % 16
    text = base64.b64encode(AES.new(bytes(16), AES.MODE_ECB).encrypt(plain + bytes([padding]) * padding)).decode()
    decryptor, costs = Decryptor(key), []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(messages):
            envelope_from_payload(decryptor.decrypt(text), source, 0)
        costs.append((time.process_time() - began) / messages * 1e6)
    return [row(f"decrypting and decoding one PubNub message of {len(text)} B", costs, "µs")]


def idle(transport: str) -> list[dict[str, Any]]:
    """Memory of a daemon with one subscription and nothing to do."""
    note(f"idle, {transport}")
    with (
        simulator() as ready,
        tempfile.TemporaryDirectory() as folder,
        daemon(ready, Path(folder), 1, transport=transport) as process,
    ):
        wait_for(lambda: subscribed(ready), "a subscription")
        time.sleep(2)
        rss = status_kib(process.pid, "VmRSS") / MIB
        return [row(f"rc-push, memory when idle with one {transport} subscription", [rss], "MiB")]


def file_handler(rounds: int, events: int = 100_000) -> list[dict[str, Any]]:
    """Events per second that the `file` handler takes, each batch flushed; and what it leaves open."""
    source = Source("main", "team", "websocket")
    payload = b'{"uuid":"6452004109062593690","event":"/team-messaging/v1/posts","body":{"text":"%b"}}' % (b"x" * 930)
    batch = [Envelope("6452004109062593690", "post.added", payload, source, 0, number) for number in range(256)]
    settings: dict[str, dict[str, object]] = {
        "one file": {"path": "events.jsonl"},
        "path with {type} and {date}, rotated at 16 MiB": {
            "path": "{type}-{date}.jsonl",
            "rotate_bytes": 16 << 20,
            "gzip": False,
        },
    }
    rates: dict[str, list[float]] = {name: [] for name in settings}
    left = []
    for number in range(rounds):
        note(f"file handler, round {number + 1} of {rounds}")
        for name, more in settings.items():
            before = len(list(Path("/proc/self/fd").iterdir()))
            with tempfile.TemporaryDirectory(dir=HERE) as folder:
                config = HandlerConfig("events", "file", settings=more | {"path": f"{folder}/{more['path']}"})
                rates[name].append(events / asyncio.run(hand_over(handlers.load(config), batch, events)))
            left.append(float(len(list(Path("/proc/self/fd").iterdir())) - before))
    rows = [row(f"file handler, batches of 256 flushed, {name}", values, "events/s") for name, values in rates.items()]
    return [*rows, row(f"file handler, descriptors left after {events:,} events", left, "")]


async def hand_over(handler: handlers.LoadedHandler, batch: list[Envelope], events: int) -> float:
    """Hand *batch* over until it were so many *events*; return how many seconds it took."""
    assert handler.handle_batch is not None
    await handler.open()
    began = time.perf_counter()
    for _ in range(-(-events // len(batch))):
        await handler.handle_batch(batch)
    took_s = time.perf_counter() - began
    await handler.close()
    return took_s


# ------------------------------------------------------------------------------------------------------------ processes


def daemon_round(
    ready: dict[str, str],
    many: dict[str, Any],
    *,
    latencies: bool = False,
    transport: str = "websocket",
    more: str = "",
) -> tuple[dict[str, Any], int]:
    """Let a fresh daemon take *many*; return the handler's report and the daemon's peak memory in KiB."""
    with (
        tempfile.TemporaryDirectory() as folder,
        daemon(ready, Path(folder), many["count"], latencies=latencies, transport=transport, more=more) as process,
    ):
        wait_for(lambda: subscribed(ready), "a subscription")
        time.sleep(1)  # until the first poll: a channel that nobody reads keeps the newest 100 only
        post(ready, "/simulator/events", many)
        report = wait_report(Path(folder) / "report.json")
        return report, status_kib(process.pid, "VmHWM")


def sdk_round(ready: dict[str, str], many: dict[str, Any]) -> dict[str, Any]:
    """Let the official SDK's client take *many*; return its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = (
            ready["server"],
            ready["clientId"],
            ready["clientSecret"],
            ready["jwt"],
            str(report),
            str(many["count"]),
        )
        with running([sys.executable, str(HERE / "peers" / "python_sdk.py"), *words], CLIENT_CPU):
            wait_for(lambda: subscribed(ready), "a subscription")
            post(ready, "/simulator/events", many)
            return wait_report(report)


@contextlib.contextmanager
def simulator() -> Iterator[dict[str, str]]:
    """Run the simulator; give its ready line."""
    command = [sys.executable, "-m", "rc_push", "simulate", "--knob", "rate_limits=false"]
    with running(command, SIMULATOR_CPU, stdout=subprocess.PIPE) as process:
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
        f'[accounts.main]\nserver = "{ready["server"]}"\nclient_id = {{ env = "RC_APP_CLIENT_ID" }}\n'
        'client_secret = { env = "RC_APP_CLIENT_SECRET" }\njwt = { env = "RC_USER_JWT" }\n'
        f'pubnub_origin = "{ready["pubnubOrigin"]}"\n'
        f'[subscriptions.team]\ntransport = "{transport}"\nevent_filters = ["/team-messaging/v1/posts"]\n'
        f'[handlers.bench]\nuse = "bench"\nreport = "{folder / "report.json"}"\ncount = {count}\n'
        f"latencies = {str(latencies).lower()}\n"
        f'{more}[journal]\npath = "{folder / "journal.db"}"\n[log]\nlevel = "error"\n[service]\nshutdown_grace_s = 1\n'
    )
    secrets = {
        "RC_APP_CLIENT_ID": ready["clientId"],
        "RC_APP_CLIENT_SECRET": ready["clientSecret"],
        "RC_USER_JWT": ready["jwt"],
        "PYTHONPATH": str(HERE / "plugin"),
    }
    command = [sys.executable, "-m", "rc_push", "-c", str(config), "run"]
    with running(command, CLIENT_CPU, env=os.environ | secrets) as process:
        yield process


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


def subscribed(ready: dict[str, str]) -> bool:
    """Say whether somebody is subscribed."""
    with urllib.request.urlopen(ready["server"] + "/simulator/state") as answer:
        return bool(json.load(answer)["subscriptions"])


def post(ready: dict[str, str], path: str, body: dict[str, Any]) -> None:
    """Make an admin call."""
    request = urllib.request.Request(
        ready["server"] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()


def wait_report(path: Path) -> dict[str, Any]:
    """Wait for a client's report."""
    wait_for(path.exists, "the report", ROUND_WITHIN_S)
    time.sleep(0.1)
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    """Wait until *condition* holds."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited {within_s:g} s for {what}")
        time.sleep(0.02)


def status_kib(pid: int, name: str) -> int:
    """Return a memory figure of a process, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def row(what: str, values: list[float], unit: str) -> dict[str, Any]:
    """Return one row of the table."""
    return {"what": what, "median": statistics.median(values), "min": min(values), "max": max(values), "unit": unit}


def note(text: str) -> None:
    """Say what is being done."""
    print(f"  … {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
