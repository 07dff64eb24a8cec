"""How does the daemon answer commands? Whoever asks whatever, it stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rc_push.control.client import call
from rc_push.control.server import CLIENTS_MAX, REQUEST_MAX_BYTES, ControlServer
from rc_push.errors import ControlError


@pytest.fixture
async def connect(server):
    """Make connections; all are closed."""
    writers = []

    async def connect(limit=1 << 24):
        reader, writer = await asyncio.open_unix_connection(str(server.path), limit=limit)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()


async def answer_to(server, request):
    """Send the bytes of *request*, as far as they are taken; return all lines that come until the end."""

    def ask():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(server.path))
            with contextlib.suppress(OSError):
                connection.sendall(request)
            lines = connection.makefile("rb")
            return [json.loads(line) for line in iter(lambda: first_line_of(lines), b"")]

    return await asyncio.to_thread(ask)


def first_line_of(lines):
    try:
        return lines.readline()
    except ConnectionResetError:  # it had no need to read all that was sent
        return b""


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def refusal(error, code=2):
    return [{"ok": False, "error": error, "exitCode": code}]


# ------------------------------------------------------------------------------------------------------------ the lines


async def test_what_goes_over_the_wire_is_what_the_package_says(server):
    assert await answer_to(server, b'{"op":"echo","a":1}\n') == [{"ok": True, "result": {"a": 1}}]
    assert await answer_to(server, b'{"op":"full"}\n') == refusal("no room on the disk", 74)


async def test_a_stream_is_lines_and_an_end(connect):
    reader, writer = await connect()
    writer.write(b'{"op":"count","to":2}\n')
    assert await reader.read() == b'{"ok":true,"result":0}\n{"ok":true,"result":1}\n{"end":true}\n'


async def test_a_client_that_closes_its_side_after_asking_gets_its_answer(connect):
    reader, writer = await connect()
    writer.write(b'{"op":"echo"}\n')
    writer.write_eof()
    assert json.loads(await reader.read())["ok"]


async def test_a_payload_with_line_ends_in_it_stays_one_line(server):
    assert await answer_to(server, b'{"op":"raw"}\n') == [{"ok": True, "result": {"a": 1}}]


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("op", ["bug", "exit", "cancelled", "unwritable"])
async def test_what_an_operation_raises_is_answered_logged_and_goes_no_further(server, op):
    with capture_logs() as logs:
        answered = await answer_to(server, json.dumps({"op": op}).encode() + b"\n")
    assert answered == refusal("an error inside the daemon; its log has the details, please report it", 70)
    [line] = [line for line in logs if line["event"] == "control_failed"]
    assert line["op"] == op
    assert line["exc_info"].__traceback__ is not None
    assert (await answer_to(server, b'{"op":"echo"}\n'))[0]["ok"]


@pytest.mark.parametrize("op", ["broken_stream", "exiting_stream"])
async def test_what_a_stream_raises_is_its_last_line(server, op):
    answered = await answer_to(server, json.dumps({"op": op}).encode() + b"\n")
    assert answered[0] == {"ok": True, "result": 1}
    assert answered[1:] == refusal("an error inside the daemon; its log has the details, please report it", 70)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"\n", "the request is no JSON object"),
        (b"GET / HTTP/1.1\r\n\r\n", "the request is no JSON object"),
        (bytes(range(256)) + b"\n", "the request is no JSON object"),
        (b'{"op":"\xff\xfe"}\n', "the request is no JSON object"),
        (b'["op"]\n', "the request is no JSON object"),
        (b'{"op":' + b"[" * 30000 + b"\n", "the request is no JSON object"),
        (b"{}\n", "the request names no op"),
        (b'{"op":["echo"]}\n', "the request names no op"),
        (b'{"op":"echo","x":"' + b"x" * REQUEST_MAX_BYTES + b'"}\n', "the request is longer than 65536 bytes"),
        (b"x" * 1_000_000, "the request is longer than 65536 bytes"),
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_nonsense_is_refused_with_a_reason(server, request_, error):
    assert await answer_to(server, request_) == refusal(error)
    assert (await answer_to(server, b'{"op":"echo"}\n'))[0]["ok"]


async def test_half_a_request_is_refused(connect):
    reader, writer = await connect()
    writer.write(b'{"op":"echo"')
    writer.write_eof()
    assert json.loads(await reader.read())["error"] == "the request does not end with a newline"


async def test_a_line_without_end_costs_no_memory_and_is_cut(connect):
    _, writer = await connect()
    taken = 0
    try:
        while taken < 1 << 30:
            writer.write(b"x" * 65536)
            await writer.drain()
            taken += 65536
    except OSError:
        assert taken < 1 << 22
    else:
        pytest.fail("it takes whatever is sent")


async def test_a_client_that_asks_nothing_is_sent_away(serve, tmp_path):
    server = await serve(tmp_path / "other.sock", request_timeout_s=0.05)
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    assert json.loads(await reader.read())["error"] == "no request within 0.05 s"
    writer.close()


async def test_a_client_that_never_reads_is_cut_and_its_stream_closed(serve, tmp_path, ops):
    server = await serve(tmp_path / "other.sock", send_timeout_s=0.1)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(server.path))
        deaf.sendall(b'{"op":"forever","bytes":50000}\n')
        async with asyncio.timeout(20):
            await ops.closed.wait()
        assert ops.yielded < 1000, "it has made more than the kernel can hold"
        assert await asyncio.to_thread(call, server.path, "echo") == {}


async def test_a_fast_stream_leaves_the_loop_its_turns(connect, ops):
    reader, writer = await connect()
    writer.write(b'{"op":"forever"}\n')
    taking = asyncio.create_task(take_for_ever(reader))
    before = time.monotonic()
    for _ in range(100):
        await asyncio.sleep(0)
    assert time.monotonic() - before < 5
    taking.cancel()


async def take_for_ever(reader):
    while await reader.read(1 << 16):
        pass


async def test_a_stream_without_news_ends_when_its_client_hangs_up(connect, ops):
    _, writer = await connect()
    writer.write(b'{"op":"stuck"}\n')
    await ops.begun.wait()
    assert not ops.closed.is_set()
    writer.transport.abort()
    async with asyncio.timeout(10):
        await ops.closed.wait()


async def test_an_operation_goes_on_to_its_end_when_its_client_hangs_up(connect, ops):
    _, writer = await connect()
    writer.write(b'{"op":"later"}\n')
    await ops.begun.wait()
    writer.transport.abort()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ops.closed.is_set()
    ops.finish.set()
    async with asyncio.timeout(10):
        await ops.closed.wait()


async def test_beyond_its_bound_clients_are_turned_away_and_later_taken_again(serve, tmp_path, ops):
    server = await serve(tmp_path / "other.sock", clients_max=2)
    asking = [asyncio.create_task(asyncio.to_thread(call, server.path, "later")) for _ in range(2)]
    await until(lambda: server._clients == 2)
    with pytest.raises(ControlError, match="busy with too many other commands; try again"):
        await asyncio.to_thread(call, server.path, "echo")
    ops.finish.set()
    assert await asyncio.gather(*asking) == ["done"] * 2
    assert await asyncio.to_thread(call, server.path, "echo") == {}


@pytest.fixture
def many_files():
    """Allow as many open files as a thousand connections need, at both ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip(f"needs 4096 open files, may have {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_thousand_idle_connections_do_not_keep_the_thousand_and_first_out(serve, tmp_path, many_files):
    server = await serve(tmp_path / "other.sock", request_timeout_s=0.5)
    idle = [socket.socket(socket.AF_UNIX) for _ in range(1000)]
    files = open_files()
    try:
        for connection in idle:
            await asyncio.to_thread(connection.connect, str(server.path))
        assert open_files() - files <= CLIENTS_MAX + 10, "those beyond the bound are let go"
        await until(lambda: not server._clients)
        assert await asyncio.to_thread(call, server.path, "echo") == {}
    finally:
        for connection in idle:
            connection.close()


# ------------------------------------------------------------------------------------------------------------- the peer


ASK = """
import os, socket, sys
path, uid = sys.argv[1:]
os.setgid(int(uid)); os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    try: s.sendall(b'{"op":"echo"}\\n')
    except BrokenPipeError: pass
    sys.stdout.write(s.makefile().readline())
"""


async def ask_as(uid, path):
    """Ask as another user; return the process that has."""
    command = (sys.executable, "-I", "-S", "-c", ASK, str(path), str(uid))
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


@pytest.fixture
def open_path(tmp_path):
    """Return a path that other users reach."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    here = tmp_path
    while here != here.parent and here.stat().st_uid == 0 and not here.stat().st_mode & 0o001:
        here.chmod(here.stat().st_mode | 0o011)
        here = here.parent
    return tmp_path / "open.sock"


async def test_the_socket_is_private_whatever_the_umask(path, ops):
    before = os.umask(0)
    try:
        async with ControlServer(path, ops.table):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_there_is_no_moment_in_which_the_socket_is_open_to_others(path, ops, monkeypatch):
    seen = []
    bind = socket.socket.bind

    def binding(self, address):
        bind(self, address)
        seen.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", binding)
    before = os.umask(0)
    try:
        async with ControlServer(path, ops.table):
            assert seen == [0o600]
    finally:
        os.umask(before)


async def test_another_user_cannot_connect(serve, open_path):
    await serve(open_path)
    done = await ask_as(65534, open_path)
    assert "PermissionError" in done.stderr


async def test_another_user_is_refused_even_where_the_socket_lets_it_in(serve, open_path):
    await serve(open_path)
    open_path.chmod(0o666)
    with capture_logs() as logs:
        done = await ask_as(65534, open_path)
    assert json.loads(done.stdout) == {
        "ok": False,
        "error": "the user 65534 may not ask this daemon; its own user and root may",
        "exitCode": 1,
    }
    assert [line["uid"] for line in logs if line["event"] == "control_refused"] == [65534]


async def test_root_and_the_daemons_own_user_are_answered(serve, open_path, monkeypatch):
    await serve(open_path)
    open_path.chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert json.loads((await ask_as(65534, open_path)).stdout)["ok"]
    assert json.loads((await ask_as(0, open_path)).stdout)["ok"]
    assert not json.loads((await ask_as(65533, open_path)).stdout)["ok"]


# ------------------------------------------------------------------------------------------------------------- the file


async def test_a_socket_that_a_killed_daemon_left_is_replaced(path, serve):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    await serve()
    assert await asyncio.to_thread(call, path, "echo") == {}


async def test_a_living_daemon_keeps_its_socket(server, serve):
    with pytest.raises(ControlError, match="another daemon does; stop it, or name another place"):
        await serve()
    assert await asyncio.to_thread(call, server.path, "echo") == {}


async def test_a_daemon_that_answers_nobody_keeps_its_socket_too(path, serve):
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(str(path))
        with pytest.raises(ControlError, match="another daemon does"):
            await serve()
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("make", [lambda path: path.write_text("precious"), lambda path: path.mkdir()])
async def test_what_is_no_socket_is_left_alone_and_is_a_mistake_in_the_file(path, serve, make):
    make(path)
    with pytest.raises(ControlError, match="it is there, and no socket; name another place") as caught:
        await serve()
    assert caught.value.exit_code == 78
    assert path.exists()


async def test_a_place_that_cannot_be_used_is_told_with_the_remedy(tmp_path, serve):
    with pytest.raises(ControlError, match="No such file or directory; make its directory writable"):
        await serve(tmp_path / "none" / "x.sock")
    with pytest.raises(ControlError, match="cannot listen for commands"):
        await serve(tmp_path / ("n" * 200))


async def test_at_the_end_the_socket_is_gone_and_nothing_is_left(path, ops):
    files = open_files()
    threads = threading.active_count()
    async with ControlServer(path, ops.table):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"op":"stuck"}\n')
        await ops.begun.wait()
    assert not path.exists()
    assert await reader.read() == b""
    assert ops.closed.is_set()
    writer.close()
    await writer.wait_closed()
    assert open_files() == files
    assert threading.active_count() == threads


async def test_a_socket_that_somebody_else_has_put_there_meanwhile_stays(path, ops):
    async with ControlServer(path, ops.table):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"
