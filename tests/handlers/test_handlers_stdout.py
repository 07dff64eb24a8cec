"""The `stdout` handler: whole lines for whoever reads, and nothing worse than a failed attempt where nobody does."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, HandlerError
from rc_push.handlers import stalling
from rc_push.handlers.stdout import StdoutHandler, StdoutSettings


def envelope(position: int, size: int = 1) -> Envelope:
    payload = json.dumps({"uuid": f"u-{position}", "event": "/x", "body": {"text": "x" * size}}).encode()
    return Envelope(f"u-{position}", "post.added", payload, Source("main", "team", "websocket"), 0, position)


def line(position: int, size: int = 1) -> bytes:
    return envelope(position, size).to_json() + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def taken(reader: int) -> bytes:
    """Return all that is in the pipe now."""
    data = b""
    while select.select([reader], [], [], 0)[0]:
        part = os.read(reader, 1 << 20)
        if not part:
            break
        data += part
    return data


def handler_for(fd: int, **settings: object) -> StdoutHandler:
    return StdoutHandler(StdoutSettings(**settings), fd)


def test_each_event_is_one_line(pipe):
    handler = handler_for(pipe[1])
    handler.handle(envelope(1))
    handler.handle_batch([envelope(2), envelope(3)])
    assert taken(pipe[0]) == line(1) + line(2) + line(3)


async def test_it_is_loaded_by_its_name_and_writes_to_the_standard_output(capfd):
    handler = handlers.load(HandlerConfig("out", "stdout", settings={"format": "text", "line": "{type} {uuid}"}))
    await handler.open()
    await handler.handle(envelope(1))
    await handler.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "post.added u-1\nstill open\n"


def test_formats_that_do_not_fit_are_told():
    with pytest.raises(ConfigError, match="line is missing"):
        handlers.load(HandlerConfig("out", "stdout", settings={"format": "text"}))


def test_a_reader_that_went_away_fails_the_call_only(pipe):
    handler = handler_for(pipe[1])
    os.close(pipe[0])
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            handler.handle(envelope(1))


def test_a_reader_that_stands_still_fails_the_call_and_gets_whole_lines_in_the_end(pipe, monkeypatch):
    monkeypatch.setattr(stalling, "STALL_MAX_S", 0.0)
    reader, writer = pipe
    handler = handler_for(writer)
    big = [envelope(number, 50_000) for number in range(3)]
    for _ in range(3):
        with pytest.raises(TimeoutError, match="its reader took nothing for 0 s"):
            handler.handle_batch(big)
    half = taken(reader)
    assert 0 < len(half) < 150_000
    with pytest.raises(TimeoutError):
        handler.handle_batch(big)  # more than the pipe holds
    seen = half + taken(reader)
    handler.handle(envelope(9))
    seen += taken(reader)
    assert seen.endswith(line(9))
    positions = [json.loads(each)["rcPush"]["position"] for each in seen.splitlines()]
    assert positions[:2] == [0, 1]
    assert positions[-1] == 9


def test_the_flags_of_the_descriptor_stay_as_they_are(pipe):
    handler_for(pipe[1]).handle(envelope(1))
    assert os.get_blocking(pipe[1])


def test_a_socket_gets_its_lines_and_never_blocks(monkeypatch):
    monkeypatch.setattr(stalling, "STALL_MAX_S", 0.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = handler_for(ours.fileno())
        handler.handle(envelope(1))
        assert theirs.recv(1 << 16) == line(1)
        with pytest.raises(TimeoutError):
            handler.handle_batch([envelope(number, 50_000) for number in range(20)])
        assert ours.getblocking()
        seen = b""
        theirs.setblocking(False)
        while select.select([theirs], [], [], 0)[0]:
            seen += theirs.recv(1 << 20)
        handler.handle(envelope(7))
        seen += theirs.recv(1 << 20)
        assert [json.loads(each)["uuid"] for each in seen.splitlines()][-1] == "u-7"


def test_a_file_is_written_where_it_stands(tmp_path: Path):
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        handler_for(file.fileno()).handle(envelope(1))
    assert (tmp_path / "out").read_bytes() == b"before\n" + line(1)


async def test_without_a_standard_output_nothing_else_is_taken_for_it(monkeypatch):
    monkeypatch.setattr(sys, "__stdout__", None)
    handler = handlers.load(HandlerConfig("out", "stdout"))
    with pytest.raises(HandlerError, match=r"handlers\.out: the daemon was started without a standard output; give"):
        await handler.open()


def test_a_terminal_is_not_commanded_by_an_event():
    payload = json.dumps({"uuid": "u", "event": "/x", "body": "a\x9b2J\u202eb"}, ensure_ascii=False).encode()
    event = Envelope("u", "other", payload, Source("main", "team", "websocket"), 0, 1)
    shown, terminal = os.openpty()
    try:
        handler_for(terminal).handle(event)
        got = os.read(shown, 1 << 16)
    finally:
        os.close(terminal)
        os.close(shown)
    assert rb"a\u009b2J\u202eb" in got
    assert json.loads(got) == json.loads(event.to_json())
