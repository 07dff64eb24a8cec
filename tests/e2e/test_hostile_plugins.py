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


# What a handler can do to its process that must not end it, and what the log says of it.
DOES = {
    "forks": ("if os.fork() == 0:\n    raise ValueError", "handler_forked"),
    "exits_in_a_task": ("async def f():\n    sys.exit(3)\ntasks.append(asyncio.ensure_future(f()))", "loop_left"),
    "exits_in_a_callback": ("asyncio.get_running_loop().call_soon(sys.exit)", "loop_left"),
    "exits_in_wait_for": ("async def f():\n    sys.exit(3)\nawait asyncio.wait_for(f(), 1)", "handler_failed"),
    "stops_the_loop": ("asyncio.get_running_loop().stop()", "loop_left"),
    "cancels_itself": ("asyncio.current_task().cancel()", ""),
    "closes_its_streams": ("sys.stdout.close(); sys.stderr.close(); os.close(2)", ""),
    "goes_elsewhere": ("os.chdir('/')", ""),
    "leaks_threads": ("for _ in range(500): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", ""),
    "leaves_an_executor": ("tasks.append(asyncio.ensure_future(asyncio.to_thread(time.sleep, 60)))", ""),
}


@pytest.mark.parametrize("name", DOES)
async def test_whatever_a_handler_does_to_the_process_the_others_go_on_and_it_stops_in_time(simulator, daemon, name):
    does, told = DOES[name]
    install(daemon, {name: "tasks = []\n" + function("async def", name, does)})
    await daemon.start().wait_live()
    uuids = []
    for _ in range(2):
        uuids.append(simulator.emit_sample("post.added"))
        await daemon.events.wait(uuids)
        if told:
            await daemon.wait_line(told)
    assert await daemon.stop() == 0
    daemon.handlers = HEALTHY.format(folder=daemon.folder)
    await daemon.start().wait_live()  # nothing holds the journal
    uuids.append(simulator.emit_sample("post.added"))
    await daemon.events.wait(uuids)


async def test_a_plain_function_that_forks_ends_its_child(simulator, daemon):
    install(daemon, {"forks": function("def", "forks", DOES["forks"][0])})
    await daemon.start().wait_live()
    uuids = [simulator.emit_sample("post.added")]
    await daemon.events.wait(uuids)
    assert (await daemon.wait_line("handler_forked"))["handler"] == "forks"
    uuids.append(simulator.emit_sample("post.added"))
    await daemon.events.wait(uuids)
    assert await daemon.stop() == 0


async def test_what_a_plug_in_leaves_running_is_named_at_the_end(simulator, daemon):
    does = "threading.Thread(target=time.sleep, args=(60,), name='x-1').start(); print('left', flush=True)"
    install(daemon, {"leaves": function("async def", "leaves", does)})
    await daemon.start().wait_live()
    simulator.emit_sample("post.added")
    await daemon.wait_until(lambda: "left" in daemon.said())
    assert await daemon.stop() == 0
    assert "ended, though something of a plug-in has not, in MainThread, x-1;" in daemon.said()


BROKEN = {
    "misses": ("import no_such_module_of_ours", "ModuleNotFoundError"),
    "syntax": ("def misses(:", "SyntaxError"),
    "exits": ("import sys; sys.exit(0)", "SystemExit"),
    "bare": ("raise BaseException('why')", "BaseException: why"),
    "built": ("class built:\n    def __init__(self): 1 / 0\n    def handle(self, envelope): ...", "ZeroDivisionError"),
    "opened": (
        "class opened:\n    async def __aenter__(self): 1 / 0\n    def handle(self, e): ...",
        "ZeroDivisionError",
    ),
    "yields": ("async def yields(envelope):\n    yield", "yield"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_plug_in_is_named_with_its_traceback_and_run_refuses_it(daemon, name):
    source, told = BROKEN[name]
    install(daemon, {name: source}, head="")
    daemon.start()
    assert await daemon.wait_exit() == 78
    assert f"handlers.{name}: " in daemon.said()
    if name != "opened":  # it is not opened
        checked = await daemon.run("check", "--offline")
        assert checked.returncode == 78
        assert f"handlers.{name}: " in checked.stdout
        assert told in checked.stdout
        assert name == "yields" or "Traceback" in checked.stderr
        shown = await daemon.run("plugins")
        assert name in {"built", "yields"} or (
            shown.returncode == 78 and told in shown.stdout and "file" in shown.stdout
        )


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_plug_in_that_a_reload_brings_changes_nothing(simulator, daemon, name):
    source, _ = BROKEN[name]
    install(daemon, {name: source}, head="")
    broken, daemon.handlers = daemon.handlers, HEALTHY.format(folder=daemon.folder)
    await daemon.start().wait_live()
    daemon.handlers = broken
    daemon.write_config()
    done = await daemon.run("reload")
    assert done.returncode == 78, done.stderr
    assert f"handlers.{name}: " in done.stderr
    uuid = simulator.emit_sample("post.added")
    await daemon.events.wait([uuid])
    assert await daemon.stop() == 0
