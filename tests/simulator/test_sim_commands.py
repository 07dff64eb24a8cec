"""The commands `simulate` and `trigger`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
import requests
from click.testing import CliRunner
from sim_client import POSTS

from rc_push.cli.simulate import simulate
from rc_push.cli.trigger import trigger
from rc_push.errors import RcPushError, UnreachableError
from rc_push.simulator.samples import SAMPLES
from rc_push.simulator.server import Simulator

WITHIN_S = 20


def run(command, *arguments, **environ):
    return CliRunner(env={"RC_SERVER_URL": None} | environ).invoke(command, arguments)


async def run_beside(command, *arguments, **environ):
    """Run a command while the event loop serves the simulator."""
    return await asyncio.to_thread(run, command, *arguments, **environ)


class Running:
    """`rc-push simulate` as a process."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "rc_push", "simulate", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.ready = json.loads(self.process.stdout.readline() or "{}")

    def state(self):
        return requests.get(f"{self.ready['server']}/simulator/state", timeout=WITHIN_S).json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        """Return the exit code, and the rest of what it said."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, out, err


# ------------------------------------------------------------------------------------------------------- simulate


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_simulate_says_one_line_serves_and_ends_in_order(how):
    with Running("--speed", "60", "--knob", "auth_limit=9", "--knob", "permissions=WebSocket") as running:
        assert running.ready.keys() >= {"server", "clientId", "clientSecret", "jwt"}
        knobs = running.state()["knobs"]
        assert (knobs["auth_limit"], knobs["permissions"]) == (9, ["WebSocket"])
        code, out, err = running.end(how)
    assert (code, out) == (0, "")
    assert running.ready["server"] in err
    assert running.ready["clientSecret"] not in err


@pytest.mark.e2e
def test_simulate_plays_a_script(tmp_path: Path):
    script = tmp_path / "script.jsonl"
    script.write_text('{"atS": 0, "path": "/simulator/faults", "body": {"fault": "duplicate", "times": 7}}\n')
    with Running("--script", str(script)) as running:
        assert [fault["left"] for fault in running.state()["faults"]] == [7]
        assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.e2e
def test_simulate_tells_what_is_wrong_with_a_step(tmp_path: Path):
    script = tmp_path / "script.jsonl"
    script.write_text('{"atS": 0, "path": "/simulator/nonsense"}\n')
    with Running("--script", str(script)) as running:
        _, err = running.process.communicate(timeout=WITHIN_S)
        assert running.process.returncode == 1
    assert "script: /simulator/nonsense is none of /simulator/events" in err
    assert "Traceback" not in err


async def test_simulate_tells_that_its_port_is_taken(sim):
    result = await run_beside_in_main("--port", sim.server.rpartition(":")[2])
    assert result.returncode == 1
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_simulate_does_not_take_a_full_disk_behind_stdout_for_its_port():
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "rc_push", "simulate"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WITHIN_S, check=False)
    assert (done.returncode, done.stderr) == (1, "rc-push: the output cannot be written: No space left on device\n")


async def run_beside_in_main(*options):
    command = [sys.executable, "-m", "rc_push", "simulate", *options]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--speed", "0"], "--speed"),
        (["--speed", "nan"], "--speed"),
        (["--port", "70000"], "--port"),
        (["--knob", "auth_limit"], "not NAME=VALUE"),
        (["--knob", "nonsense=1"], "the knobs are"),
        (["--knob", "auth_limit=many"], "auth_limit"),
        (["--script", "/nonexistent"], "--script"),
    ],
)
def test_simulate_refuses_options_that_make_no_sense(arguments, says):
    result = run(simulate, *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_simulate_names_the_line_of_a_wrong_script(tmp_path: Path):
    script = tmp_path / "script.jsonl"
    script.write_text("\n{}\n")
    result = run(simulate, "--script", str(script))
    assert result.exit_code == 2
    assert "line 2" in result.output


# -------------------------------------------------------------------------------------------------------- trigger


async def test_trigger_emits_a_sample_and_prints_its_uuid(socket, sim):
    result = await run_beside(trigger, "post.added", "--server", sim.server)
    assert result.exit_code == 0, result.output
    _, envelope = await socket.recv()
    assert result.output == envelope["uuid"] + "\n"
    assert envelope["body"]["eventType"] == "PostAdded"


async def test_trigger_finds_the_simulator_in_the_environment_and_emits_several(socket, sim):
    result = await run_beside(trigger, "post.added", "--count", "3", RC_SERVER_URL=sim.server + "/")
    received = [(await socket.recv())[1] for _ in range(3)]
    assert result.output.split() == [envelope["uuid"] for envelope in received]
    assert len({envelope["body"]["id"] for envelope in received}) == 3


async def test_trigger_changes_what_it_is_told_to(socket, sim):
    settings = ["body.text=Hello", "body.mentions=[1,2]", "body.mentions.1={}", "body.new=007", f"event={POSTS}"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = await run_beside(trigger, "post.changed", *options, "--server", sim.server)
    assert result.exit_code == 0, result.output
    body = (await socket.recv())[1]["body"]
    assert (body["text"], body["mentions"], body["new"]) == ("Hello", [1, {}], "007")


@pytest.mark.parametrize(
    "setting",
    [
        "body.nowhere.x=1",
        "body.text.x=1",
        "body.to.9.x=1",
        "body.to.9=1",
        "body.to.x=1",
        "nowhere=1",
        "body.text",
        "=1",
    ],
)
def test_trigger_refuses_places_that_are_not_there(setting):
    result = run(trigger, "sms.received", "--set", setting, "--server", "http://127.0.0.1:1")
    assert result.exit_code == 2, result.output
    assert "no such place" in result.output


def test_trigger_lists_the_types_when_it_does_not_know_one():
    result = run(trigger, "nonsense", "--server", "http://127.0.0.1:1")
    assert result.exit_code == 2
    flat = "".join(result.output.split())
    assert all(type_ in flat for type_ in SAMPLES)


@pytest.mark.parametrize(
    "server",
    [
        "https://platform.ringcentral.com",
        "http://192.0.2.1:80",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@192.0.2.1/",
        "https://127.0.0.1:1",
        "file:///etc/hostname",
        "http://[::1",
        "http://127.0.0.1:abc",
        "http://127.0.0.1:99999",
        "nonsense",
        "",
    ],
)
def test_trigger_speaks_to_loopback_only(server):
    assert run(trigger, "post.added", "--server", server).exit_code == 2


def test_trigger_wants_to_know_the_simulator():
    assert run(trigger, "post.added").exit_code == 2


async def test_trigger_says_when_nothing_is_there():
    async with Simulator() as gone:
        server = gone.server
    result = await run_beside(trigger, "post.added", "--server", server)
    assert isinstance(result.exception, UnreachableError)
    assert "is the simulator running?" in str(result.exception)


async def test_trigger_says_when_it_is_no_simulator(sim):
    result = await run_beside(trigger, "post.added", "--server", sim.server + "/nonsense")
    assert isinstance(result.exception, RcPushError)
    assert "404" in str(result.exception)
    assert "is that a simulator?" in str(result.exception) or "Not Found" in str(result.exception)


@contextlib.asynccontextmanager
async def stranger(answer: bytes):
    """Listen on loopback; whoever connects gets *answer*."""

    async def serve(reader, writer):
        await reader.readuntil(b"}}]")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())


OK = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"<html>",
        OK + b"\xff",
        OK + b"[]",
        OK + b"{}",
        OK + b'{"uuids": 1}',
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_trigger_says_when_what_answers_is_no_simulator(answer):
    async with stranger(answer) as server:
        result = await run_beside(trigger, "post.added", "--server", server)
    assert isinstance(result.exception, RcPushError)
    assert "is that a simulator?" in str(result.exception)


def test_trigger_says_when_no_request_can_be_sent_to_what_it_is_given():
    result = run(trigger, "post.added", "--server", "http://127.0.0.1:1/a b")
    assert isinstance(result.exception, RcPushError)
    assert "URL can't contain" in str(result.exception)


async def test_trigger_does_not_use_a_proxy(socket, sim):
    result = await run_beside(trigger, "post.added", "--server", sim.server, http_proxy="http://127.0.0.1:1")
    assert result.exit_code == 0, result.output
