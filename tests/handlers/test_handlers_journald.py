"""The `journald` handler: one structured entry per event, however large, and a journald that may be away."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError
from rc_push.handlers import journald
from rc_push.handlers.hand_over import HandOver, begin_hand_over

AT_MS = 1_795_428_000_190


def envelope(position: int = 42, text: str = "Hello", **fields: object) -> Envelope:
    event = {
        "uuid": "u-1",
        "event": "/team-messaging/v1/posts",
        "timestamp": "2026-11-23T10:00:00.120Z",
        "subscriptionId": "2db5",
        "ownerId": "2336",
        "body": {"text": text},
    }
    payload = json.dumps(event | fields).encode()
    return Envelope("u-1", "post.added", payload, Source("main", "team", "websocket"), AT_MS, position)


class Journald:
    """A socket as journald has one; reads entries as journald does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)

    def entry(self) -> dict[str, bytes]:
        data, fds, *_ = socket.recv_fds(self.socket, 1 << 20, 1)
        if fds:
            assert data == b""
            with os.fdopen(fds[0], "rb") as file:
                with pytest.raises(PermissionError):
                    os.truncate(file.fileno(), 0)
                file.seek(0)
                data = file.read()
        return dict(fields_in(data))


def fields_in(data: bytes) -> Iterator[tuple[str, bytes]]:
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, end, rest = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        yield name.decode(), value
        data = rest


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journald]:
    running = Journald(tmp_path / "socket")
    yield running
    running.stop()


def load(journal: Journald, **settings: object) -> handlers.LoadedHandler:
    return handlers.load(HandlerConfig("syslog", "journald", settings={"socket": str(journal.path)} | settings))


async def test_an_event_is_an_entry_with_its_fields(journal):
    handler = load(journal)
    await handler.open()
    begin_hand_over(HandOver("syslog"))
    await handler.handle(envelope())
    await handler.close()
    assert journal.entry() == {
        "MESSAGE": b"post.added (team)",
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"rc-push",
        "RC_PUSH_UUID": b"u-1",
        "RC_PUSH_TYPE": b"post.added",
        "RC_PUSH_EVENT": b"/team-messaging/v1/posts",
        "RC_PUSH_TIMESTAMP": b"2026-11-23T10:00:00.120Z",
        "RC_PUSH_SUBSCRIPTION_ID": b"2db5",
        "RC_PUSH_OWNER_ID": b"2336",
        "RC_PUSH_POSITION": b"42",
        "RC_PUSH_RECEIVED_AT": b"2026-11-23T10:00:00.190Z",
        "RC_PUSH_ACCOUNT": b"main",
        "RC_PUSH_SUBSCRIPTION": b"team",
        "RC_PUSH_TRANSPORT": b"websocket",
        "RC_PUSH_ORIGIN": b"live",
        "RC_PUSH_HANDLER": b"syslog",
        "RC_PUSH_JSON": envelope().to_json(),
    }


async def test_text_priority_and_the_whole_event_are_the_users_choice(journal):
    handler = load(journal, message="{body.text} in {rcPush.subscription}", priority="warning", json=False)
    await handler.handle(envelope())
    await handler.close()
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["PRIORITY"]) == (b"Hello in team", b"4")
    assert "RC_PUSH_JSON" not in entry


async def test_no_event_can_make_fields_of_its_own(journal):
    handler = load(journal, message="{body.text}")
    await handler.handle(envelope(text="a\nPRIORITY=0\nb", ownerId="x\nPRIORITY=0"))
    await handler.close()
    entry = journal.entry()
    assert entry["MESSAGE"] == b"a\nPRIORITY=0\nb"
    assert entry["RC_PUSH_OWNER_ID"] == b"x\nPRIORITY=0"
    assert entry["PRIORITY"] == b"6"


async def test_fields_that_an_event_has_not_are_left_out(journal):
    handler = load(journal)
    await handler.handle(envelope(subscriptionId=None, timestamp=None))
    await handler.close()
    assert not {"RC_PUSH_SUBSCRIPTION_ID", "RC_PUSH_TIMESTAMP"} & journal.entry().keys()


async def test_a_batch_is_an_entry_for_each(journal):
    handler = load(journal)
    assert handler.handle_batch is not None
    await handler.handle_batch([envelope(number) for number in range(1, 4)])
    await handler.close()
    assert [journal.entry()["RC_PUSH_POSITION"] for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_large_entry_comes_as_a_sealed_file(journal):
    handler = load(journal)
    await handler.handle(envelope())
    assert journal.entry()["RC_PUSH_UUID"] == b"u-1"
    before = open_descriptors()
    await handler.handle(envelope(text="x" * 2_000_000))
    assert open_descriptors() == before
    entry = journal.entry()
    assert json.loads(entry["RC_PUSH_JSON"])["body"]["text"] == "x" * 2_000_000
    await handler.close()


async def test_a_journald_that_is_away_fails_the_attempt_and_is_found_again(journal):
    handler = load(journal)
    journal.stop()
    await handler.open()
    with pytest.raises(FileNotFoundError):
        await handler.handle(envelope(1))
    journal.start()
    await handler.handle(envelope(2))
    journal.stop()
    with pytest.raises(OSError, match="No such file or directory"):
        await handler.handle(envelope(3))
    journal.start()
    await handler.handle(envelope(4))
    assert journal.entry()["RC_PUSH_POSITION"] == b"4"
    await handler.close()


async def test_a_journald_that_was_started_anew_is_no_failure(journal):
    handler = load(journal)
    await handler.handle(envelope(1))
    journal.stop()
    journal.start()
    await handler.handle(envelope(2))
    assert journal.entry()["RC_PUSH_POSITION"] == b"2"
    await handler.close()


async def test_a_journald_that_stands_still_fails_the_attempt(journal, monkeypatch):
    monkeypatch.setattr(journald, "STALL_MAX_S", 0.01)
    handler = load(journal)

    async def write_until_it_fails():
        for number in range(10_000):
            await handler.handle(envelope(number))

    with pytest.raises(TimeoutError):
        await write_until_it_fails()
    journal.entry()
    await handler.handle(envelope())
    await handler.close()


def test_settings_that_make_no_sense_are_told():
    settings = {"message": "{x", "priority": "loud", "socket": "run/journal"}
    with pytest.raises(ConfigError) as caught:
        handlers.load(HandlerConfig("syslog", "journald", settings=settings))
    assert {problem.key for problem in caught.value.problems} == {
        f"handlers.syslog.{name}" for name in ("message", "priority", "socket")
    }
