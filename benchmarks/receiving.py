"""What does receiving cost? Throughput beside clients that keep nothing, latency, memory, disk, starts, growth.

Every figure of rc-push is taken with each event stored with synchronous=FULL before its handler, which does nothing,
gets it. The peers keep nothing. Used by `bench.py`.
"""

from __future__ import annotations

import base64
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import stage
from Crypto.Cipher import AES
from handlers import make_journal
from peers import PEERS
from stage import row, type_of_row

from rc_push.envelope import Source
from rc_push.payload import envelope_from_payload
from rc_push.protocol.crypto import Decryptor

QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
# Around an event on the wire: the gateway's meta element. An event's size is that of its frame.
META_BYTES = 180
# Events, and how many a second, before a trickle is looked at.
WARM, WARM_PER_S = 1000, 200
BARE = str(Path(__file__).with_name("bare.py"))
POSTS = "/team-messaging/v1/posts"


def throughput(size: int, rounds: int, events: int) -> list[type_of_row]:
    """Events per second at full speed, ours and the peers' in turn; our ratio to each, pair by pair."""
    peers = [peer for peer in PEERS if not stage.told_lacking(peer.name, peer.lacks())]
    ours, cpu_us, rss, written = [], [], [], []
    theirs: dict[str, list[float]] = {peer.name: [] for peer in peers}
    many = {"count": events, "bytes": size}
    for number in range(rounds):
        stage.note(f"{size} bytes at full speed, round {number + 1} of {rounds}")
        with stage.simulator() as ready:
            used = stage.daemon_round(ready, many)
        ours.append((events - 1) / used["seconds"])
        cpu_us.append(used["cpuS"] * 1e6 / events)
        rss.append(used["peakMib"])
        written.append(used["writtenBytes"] / events / (size + META_BYTES))
        for peer in peers:
            with peer.server() as ready:
                report = stage.peer_round(peer.command, peer.environment, ready, many)
            theirs[peer.name].append((events - 1) / report["seconds"])
    rows = [row(f"rc-push, stored with FULL sync and handled, {size} B", ours, "events/s")]
    for name, rates in theirs.items():
        rows.append(row(f"{name}, in memory only, {size} B", rates, "events/s"))
        rows.append(row(f"rc-push / {name}, {size} B", [a / b for a, b in zip(ours, rates, strict=True)], "times"))
    rows.append(row(f"processor time an event at full speed, {size} B", cpu_us, "µs"))
    rows.append(row(f"peak memory at full speed, {size} B", rss, "MiB"))
    rows.append(row(f"bytes written to disk by those of the event, {size} B", written, "times"))
    return rows


def latency(rate: int, rounds: int, seconds: float) -> list[type_of_row]:
    """From the moment of sending to the handler's end, and the processor time, at *rate* events a second."""
    found: dict[str, list[float]] = {name: [] for name, _ in QUANTILES}
    cpu_ms, written_kb = [], []
    count = round(rate * seconds)
    for number in range(rounds):
        stage.note(f"{rate} events/s for {seconds:g} s, round {number + 1} of {rounds}")
        with stage.simulator() as ready:
            many = {"count": count, "bytes": 1024, "ratePerS": rate, "stamp": True}
            report = stage.daemon_round(ready, many, latencies=True)
        for name, share in QUANTILES:
            found[name].append(stage.quantile(report["latenciesMs"], share))
        cpu_ms.append(report["cpuS"] * 1000 / count)
        written_kb.append(report["writtenBytes"] / 1000 / count)
    rows = [row(f"sent to handled at {rate}/s, {name}", values, "ms") for name, values in found.items()]
    rows.append(row(f"processor time an event at {rate}/s", cpu_ms, "ms"))
    return [*rows, row(f"written to disk an event at {rate}/s", written_kb, "kB")]


def trickle(rate: int, rounds: int, seconds: float) -> list[type_of_row]:
    """Processor time of an idle daemon, and what an event at *rate* a second takes more; what is written for one.

    Of a daemon, and a bare loop, that has run for a while: events that come alone make SQLite's log grow at first.
    """
    count = round(rate * seconds)
    used: dict[str, list[float]] = {"idle": [], "event": [], "written": []}
    with (
        stage.simulator() as ready,
        tempfile.TemporaryDirectory() as folder,
        stage.daemon(ready, Path(folder), sys.maxsize) as process,  # its handler never reports
    ):
        stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
        stage.post(ready, "/simulator/events", {"count": WARM, "bytes": 1024, "ratePerS": WARM_PER_S, "wait": True})
        for number in range(rounds):
            stage.note(f"nothing for {seconds:g} s, then {rate} events/s as long, round {number + 1} of {rounds}")
            time.sleep(2)
            idle_s, _ = used_within(process.pid, seconds)
            stage.post(ready, "/simulator/events", {"count": count, "bytes": 1024, "ratePerS": rate})
            busy_s, written = used_within(process.pid, seconds)
            used["idle"].append(idle_s * 1000 / seconds)
            used["event"].append((busy_s - idle_s) * 1000 / count)
            used["written"].append(written / 1000 / count)
    least = [used_s * 1000 / count for used_s in bare(rate, rounds, seconds)]
    return [
        row("processor time of an idle daemon", used["idle"], "ms/s"),
        row(f"processor time an event at {rate}/s, beyond that", used["event"], "ms"),
        row("the same of a bare loop that reads and commits", least, "ms"),
        row(f"written to disk an event at {rate}/s", used["written"], "kB"),
    ]


def bare(rate: int, rounds: int, seconds: float) -> list[float]:
    """Return the processor time, in seconds a round, of who only reads and commits as much (see `bare.py`)."""
    used_s = []
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
        stage.running(
            [sys.executable, BARE, str(listener.getsockname()[1]), f"{folder}/bare.db"], stage.CLIENT_CPU
        ) as process,
        listener.accept()[0] as connection,
    ):
        send_at(connection, WARM, WARM_PER_S)
        for _ in range(rounds):
            time.sleep(1)
            began_s = stage.threads_cpu_s(process.pid)
            send_at(connection, round(rate * seconds), rate)
            used_s.append(stage.threads_cpu_s(process.pid) - began_s)
    return used_s


def send_at(connection: socket.socket, count: int, rate: float) -> None:
    """Send as many bytes as *count* events have, at *rate* a second."""
    for _ in range(count):
        connection.sendall(bytes(1024 + META_BYTES))
        time.sleep(1 / rate)


def used_within(pid: int, seconds: float) -> tuple[float, int]:
    """Return the processor time that a process takes from now on for *seconds*, and the bytes that it writes."""
    began_s, written = stage.threads_cpu_s(pid), stage.written_bytes(pid)
    time.sleep(seconds)
    return stage.threads_cpu_s(pid) - began_s, stage.written_bytes(pid) - written


def over_pubnub(rounds: int, events: int) -> list[type_of_row]:
    """Events per second over PubNub: encrypted, in answers of 100, each stored before the next is asked for."""
    rates = []
    for number in range(rounds):
        stage.note(f"PubNub, round {number + 1} of {rounds}")
        with stage.simulator() as ready:
            report = stage.daemon_round(ready, {"count": events, "bytes": 1024}, transport="pubnub")
        rates.append((events - 1) / report["seconds"])
    return [row("rc-push over PubNub, stored with FULL sync and handled, 1024 B", rates, "events/s")]


def decrypting(rounds: int, messages: int = 20_000) -> list[type_of_row]:
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


def idle(transport: str) -> list[type_of_row]:
    """Memory of a daemon with one subscription and nothing to do."""
    stage.note(f"idle, {transport}")
    with (
        stage.simulator() as ready,
        tempfile.TemporaryDirectory() as folder,
        stage.daemon(ready, Path(folder), 1, transport=transport) as process,
    ):
        stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
        time.sleep(2)
        rss = stage.status_kib(process.pid, "VmRSS") / stage.KIB_PER_MIB
        return [row(f"memory when idle with one {transport} subscription", [rss], "MiB")]


def starting(rounds: int, known: int) -> list[type_of_row]:
    """From the start of the process to its subscription, with a fresh journal and one of *known* events; `version`."""
    fresh, full, version = [], [], []
    with tempfile.TemporaryDirectory() as kept:
        stage.note(f"a journal of {known:,} events")
        journal = Path(kept) / "journal.db"
        make_journal(journal, known)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                fresh.append(start_s(Path(folder)))
            full.append(start_s(Path(kept)))
            forget_login(journal)
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", "rc_push", "version"], stdout=subprocess.DEVNULL, check=True)
            version.append((time.monotonic() - began) * 1000)
    return [
        row("start to subscribed, fresh journal", fresh, "s"),
        row(f"start to subscribed, {known:,} events in the journal", full, "s"),
        row("`rc-push version`", version, "ms"),
    ]


def forget_login(journal: Path) -> None:
    """Let the next start begin anew: it has another simulator, which knows neither its login nor its session."""
    with closing(sqlite3.connect(journal)) as db, db:
        for table in ("rest_limits", "oauth_sessions", "cursors"):
            db.execute(f"DELETE FROM {table}")


def start_s(folder: Path) -> float:
    """Return how long a daemon takes from the start of its process to its subscription, in seconds."""
    with stage.simulator() as ready:
        began = time.monotonic()
        with stage.daemon(ready, folder, 1):
            stage.wait_for(lambda: stage.subscribed(ready), "a subscription", poll_s=0.005)
            return time.monotonic() - began


def growing(sizes: tuple[int, ...], rounds: int, events: int) -> list[type_of_row]:
    """Processor time an event with *sizes* events in the journal, by that with the fewest."""
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            stage.note(f"a journal of {size:,} events")
            make_journal(Path(folder) / "journal.db", size, bytes_=200)
            for number in range(rounds):
                stage.note(f"{size:,} events in the journal, round {number + 1} of {rounds}")
                with stage.simulator() as ready:
                    many = {"count": events, "bytes": 1024}
                    costs[size].append(stage.daemon_round(ready, many, folder=Path(folder))["cpuS"] / events * 1e6)
                forget_login(Path(folder) / "journal.db")
    least = statistics.median(costs[sizes[0]])
    rows = [row(f"processor time an event, {size:,} in the journal", costs[size], "µs") for size in sizes]
    return rows + [
        row(f"the same by that with {sizes[0]:,}, {size:,}", [cost / least for cost in costs[size]], "times")
        for size in sizes[1:]
    ]


def flat(events: int, within_s: float) -> list[type_of_row]:
    """Memory while *events* are received, stored and handled, and how fast that went."""
    stage.note(f"memory over {events:,} events")
    with (
        stage.simulator() as ready,
        tempfile.TemporaryDirectory() as folder,
        stage.daemon(ready, Path(folder), events) as process,
    ):
        stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
        stage.post(ready, "/simulator/events", {"count": events, "bytes": 1024})
        report = Path(folder) / "report.json"
        samples = stage.memory_until(report.exists, process.pid, within_s)
        rate = (events - 1) / stage.wait_report(report)["seconds"]
    return [
        row(f"{events:,} events of 1024 B received, stored and handled", [rate], "events/s"),
        *stage.memory_rows(f"{events:,} events at full speed", samples),
    ]


def many_subscriptions(count: int, rounds: int, events: int) -> list[type_of_row]:
    """Processor time of *count* subscriptions by that of one, at the same rate of all together.

    Each has an account of its own, since five connections a minute are all that one may make.
    """
    ratios = []
    for number in range(rounds):
        stage.note(f"{count} subscriptions, round {number + 1} of {rounds}")
        one_s, many_s = subscribed_cpu_s(1, events), subscribed_cpu_s(count, events)
        ratios.append(many_s / one_s)
    return [row(f"processor time with {count} subscriptions by that with one, 2 000 events/s", ratios, "times")]


def subscribed_cpu_s(count: int, events: int) -> float:
    """Return the processor time that *count* subscriptions take for *events* of all together, in seconds."""
    with stage.simulator(f"sessions_per_user={count + 1}", f"subscription_limit={count + 1}") as ready:
        more = "".join(
            f'{stage.account(f"a{n}", ready)}[subscriptions.s{n}]\naccount = "a{n}"\nevent_filters = ["{POSTS}"]\n'
            for n in range(count - 1)
        )
        many = {"count": events // count, "bytes": 1024, "ratePerS": 2000 / count}
        return float(stage.daemon_round(ready, many, more=more, subscriptions=count, reported=events)["cpuS"])
