"""A plug-in can be as bad as it likes: what it does is told as its own, and the daemon goes on."""

from __future__ import annotations

import os
import re
import textwrap

import pytest

pytestmark = pytest.mark.e2e

HEALTHY = """
[handlers.healthy]
use = "file"
path = "{folder}/events.jsonl"
"""

BAD = """
[handlers.{name}]
use = "{name}"
timeout_s = 2.0
retry = {{ first_delay_s = 0.01, max_delay_s = 0.05, max_attempts = 2 }}
"""

HEAD = """
import asyncio, math, os, signal, sys, threading, time

from rc_push.errors import Failed, Reject, Retry


class Bare(BaseException):
    pass


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class NakedReject(Reject):
    def __init__(self):
        pass


class OddReject(Reject):
    def __init__(self):
        self.reason, self.detail = 5, object()


class NakedFailed(Failed):
    def __init__(self):
        pass


class NakedRetry(Retry):
    def __init__(self):
        pass


class UnspeakableRetry(Retry):
    def __str__(self):
        raise RuntimeError("no words")
"""

# What a handler does, and what the reason of the parked event says.
RAISES = {
    "exit": ("sys.exit(3)", "SystemExit"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "cancelled": ("raise asyncio.CancelledError", "CancelledError"),
    "bare": ("raise Bare('bare')", "Bare"),
    "generator_exit": ("raise GeneratorExit", "GeneratorExit"),
    "group": ("raise BaseExceptionGroup('x', [SystemExit(), KeyboardInterrupt()])", "BaseExceptionGroup"),
    "stop_iteration": ("raise StopIteration", "StopIteration"),
    "recursion": ("f = lambda: f(); f()", "RecursionError"),
    "no_memory": ("raise MemoryError", "MemoryError"),
    "unspeakable": ("raise Unspeakable", "Unspeakable"),
    "naked_reject": ("raise NakedReject", "NakedReject"),
    "odd_reject": ("raise OddReject", "OddReject"),
    "naked_failed": ("raise NakedFailed", "NakedFailed"),
    "huge": ("raise ValueError('x' * (32 << 20))", "ValueError: xxx"),
}
WAITS = {
    "naked_retry": ("raise NakedRetry", "again in 1 s"),
    "unspeakable_retry": ("raise UnspeakableRetry(5)", "again in 5 s"),
    "for_ever": ("raise Retry(math.inf)", "again in 2.592e+06 s"),
    "nan": ("raise Retry(math.nan) if calls.append(1) or len(calls) < 5 else Retry(60)", "again in 60 s"),
}


def install(daemon, plugins, head=HEAD, handlers=BAD):
    """Put *plugins*, texts by the names of the functions, where the daemon's Python finds them, and use each."""
    site = daemon.folder / "site"
    info = site / "acme_bad-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_bad.py").write_text(head + "\n\n".join(plugins.values()), "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bad\nVersion: 1.0\n", "utf-8")
    points = "".join(f"{name} = acme_bad:{name}\n" for name in plugins)
    (info / "entry_points.txt").write_text(f"[rc_push.handlers]\n{points}", "utf-8")
    known = os.environ.get("PYTHONPATH")
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([known] if known else [])])
    daemon.handlers = HEALTHY.format(folder=daemon.folder) + "".join(handlers.format(name=name) for name in plugins)


def function(kind, name, does):
    return f"calls = []\n{kind} {name}(envelope):\n{textwrap.indent(textwrap.dedent(does), '    ')}\n"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_whatever_a_handler_raises_is_an_attempt_of_its_own(simulator, daemon, kind):
    install(daemon, {name: function(kind, name, does) for name, (does, _) in {**RAISES, **WAITS}.items()})
    await daemon.start().wait_live(within_s=30)
    uuids = [simulator.emit_sample("post.added")]
    await daemon.wait_until(lambda: len(daemon.lines("event_parked")) == len(RAISES), within_s=30)
    uuids.append(simulator.emit_sample("post.added"))
    await daemon.events.wait(uuids)
    assert await daemon.stop() == 0
    story = (await daemon.run("events", uuids[0])).stdout
    reasons = {row["handler"]: row["reason"] for row in await daemon.listed("parked")}
    for name, (_, told) in RAISES.items():
        assert told in reasons[name], name
    for name, (_, told) in WAITS.items():
        assert re.search(f"handler +{name}: waiting, next try at .*: {re.escape(told)}", story), (name, story)
