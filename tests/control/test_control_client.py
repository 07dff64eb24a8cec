"""How does a command ask the running daemon? And what is it told where it cannot?"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from rc_push.control.client import call, stream
from rc_push.control.place import SUN_PATH_MAX_BYTES, address_of
from rc_push.errors import ControlError, NotRunning


async def ask(path, op, **fields):
    return await asyncio.to_thread(call, path, op, **fields)


async def listed(path, op, **fields):
    return await asyncio.to_thread(lambda: list(stream(path, op, **fields)))


async def test_an_operation_gets_the_fields_and_its_result_comes_back(server):
    fields = {"handler": "events", "text": "ünïcode\nand a line", "n": None, "list": [1, 2.5, {"a": True}]}
    assert await ask(server.path, "echo", **fields) == fields
    assert await ask(server.path, "echo") == {}


async def test_a_stream_ends_with_its_last_result(server):
    assert await listed(server.path, "count", to=1000) == list(range(1000))
    assert await listed(server.path, "count", to=0) == []


async def test_a_large_result_comes_whole(server):
    results = await listed(server.path, "count", to=3)
    assert results == [0, 1, 2]
    first = await asyncio.to_thread(lambda: next(stream(server.path, "forever", bytes=5_000_000)))
    assert len(first) == 5_000_000


async def test_an_error_of_ours_comes_with_its_exit_code(server):
    with pytest.raises(ControlError, match="no room on the disk") as caught:
        await ask(server.path, "full")
    assert caught.value.exit_code == 74
    with pytest.raises(ControlError, match=r"checked: Expected `int`, got `str` - at `\$.count`"):
        await ask(server.path, "checked", count="many")


async def test_an_unknown_operation_hints_at_a_daemon_that_is_older_than_the_command(server):
    with pytest.raises(ControlError, match="knows no operation 'shrug'; restart it"):
        await ask(server.path, "shrug")


async def test_an_error_in_the_midst_of_a_stream_comes_behind_its_results(server):
    def consume():
        results = []
        try:
            results.extend(stream(server.path, "broken_stream"))
        except ControlError as exc:
            return results, exc.exit_code
        return None

    assert await asyncio.to_thread(consume) == ([1], 70)


async def test_a_stream_that_the_client_closes_ends_at_the_daemon_too(server, ops):
    def take_three():
        results = stream(server.path, "forever")
        taken = [next(results) for _ in range(3)]
        results.close()
        return taken

    assert await asyncio.to_thread(take_three) == ["x"] * 3
    async with asyncio.timeout(10):
        await ops.closed.wait()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(), lambda path: path.mkdir()])
def test_without_a_daemon_it_says_so(path, make):
    make(path)
    with pytest.raises(
        NotRunning, match=r"no daemon is running: nobody listens at .*; start it, .*has changed since"
    ) as caught:
        call(path, "echo")
    assert caught.value.exit_code == 3


def test_a_socket_left_by_a_killed_daemon_is_no_daemon(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert stat.S_ISSOCK(path.stat().st_mode)
    with pytest.raises(NotRunning):
        call(path, "echo")
    with pytest.raises(NotRunning):
        list(stream(path.parent / "none" / "x", "echo"))


@pytest.fixture
def listener(path):
    """Return a socket that listens; nobody accepts."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        yield listening


def test_a_daemon_that_hangs_is_told_from_none(path, listener):
    before = time.monotonic()
    with pytest.raises(ControlError, match=r"does not answer within 0\.2 s") as caught:
        call(path, "echo", timeout_s=0.2)
    assert not isinstance(caught.value, NotRunning)
    assert time.monotonic() - before < 5


def test_a_hanging_daemon_that_many_wait_for_is_told_the_same(path, listener):
    waiting = []
    try:
        while len(waiting) < 10:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(str(path))
            except BlockingIOError:
                break
        else:
            pytest.fail("the backlog has no end")
        with pytest.raises(ControlError, match=r"does not answer within 0\.2 s"):
            call(path, "echo", timeout_s=0.2)
    finally:
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request",
        b"[]",
        b"{}",
        b'{"ok":1}',
        b'{"ok":false,"error":5}',
        b'{"ok":false,"error":"x","exitCode":"y"}',
        b'{"colour":"red"}',
        b"\xff",
    ],
)
def test_another_program_that_answers_is_no_daemon(path, listener, answer):
    def answered():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer + b"\n")

    for ask_it in (call, lambda *asked: list(stream(*asked))):
        thread = threading.Thread(target=answered)
        thread.start()
        with pytest.raises(ControlError, match=f"^{path}: what answers there is no daemon of this rc-push; ") as caught:
            ask_it(path, "echo")
        thread.join()
        assert caught.value.exit_code == 1


async def test_a_daemon_that_stops_while_it_answers_is_told(serve, ops):
    server = await serve()
    asking = asyncio.create_task(ask(server.path, "later"))
    await ops.begun.wait()
    ops.begun.clear()
    streaming = asyncio.create_task(listed(server.path, "stuck"))
    await ops.begun.wait()
    await server.__aexit__()
    for task in (asking, streaming):
        with pytest.raises(ControlError, match="has ended before it had answered"):
            await task


@pytest.mark.parametrize("length", [SUN_PATH_MAX_BYTES, SUN_PATH_MAX_BYTES + 1, 400])
async def test_a_path_may_be_longer_than_the_kernel_takes(serve, tmp_path, length):
    folder = tmp_path
    while len(str(folder)) < length - 60:
        folder /= "d" * min(50, length - len(str(folder)) - 12)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("s" * (length - len(str(folder)) - 1))
    assert len(os.fsencode(path)) == length
    server = await serve(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert await ask(path, "echo", n=1) == {"n": 1}
    with pytest.raises(ControlError, match="another daemon does"):
        await serve(path)
    await server.__aexit__()
    assert not path.exists()
    with pytest.raises(NotRunning):
        await ask(path, "echo")


def test_a_name_that_no_detour_helps_is_an_error(tmp_path):
    with pytest.raises(ControlError, match="cannot be asked"):
        call(tmp_path / ("n" * 200), "echo")


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_detour_leaves_no_open_file(tmp_path):
    before = open_files()
    with address_of(tmp_path / ("n" * 200)) as address:
        assert open_files() == before + 1
        assert address.startswith("/proc/self/fd/")
    assert open_files() == before
