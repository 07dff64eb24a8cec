"""The `file` handler: events as lines, batches as one write, everything that blocks in one thread of its own."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rc_push import handlers
from rc_push.config import HandlerConfig, LogConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, HandlerError
from rc_push.handlers.files import OPEN_MAX
from rc_push.log import configure
from rc_push.testing import run_handler

SOURCE = Source("main", "team", "websocket")


def envelope(position: int) -> Envelope:
    payload = json.dumps({"uuid": f"u-{position}", "event": "/x", "body": {"text": "a\nb"}}, separators=(",", ":"))
    return Envelope(f"u-{position}", "post.added", payload.encode(), SOURCE, 0, position)


def load(path: Path | str, **settings: object) -> handlers.LoadedHandler:
    return handlers.load(HandlerConfig(name="events", use="file", settings={"path": str(path), **settings}))


def positions(path: Path) -> list[int]:
    return [json.loads(line)["rcPush"]["position"] for line in path.read_bytes().splitlines()]


class Calls:
    """Counts calls of the system, and the threads that they come from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.threads: set[int] = set()
        for name in ("write", "fsync", "open"):
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.names.append(name)
            self.threads.add(threading.get_ident())
            return real(*args, **kwargs)

        return call


async def test_each_event_is_one_line_as_users_see_it(tmp_path: Path) -> None:
    handler = load(tmp_path / "events.jsonl")
    await handler.open()
    await handler.handle(envelope(1))
    await handler.close()
    assert (tmp_path / "events.jsonl").read_bytes() == envelope(1).to_json() + b"\n"


async def test_a_batch_is_one_write_and_one_fsync_off_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = load(tmp_path / "events.jsonl")
    await handler.open()
    assert handler.handle_batch is not None
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        await handler.handle_batch([envelope(n) for n in range(1, 257)])
    await handler.close()
    assert calls.names == ["write", "fsync"]
    assert len(calls.threads) == 1
    assert threading.get_ident() not in calls.threads
    assert positions(tmp_path / "events.jsonl") == list(range(1, 257))


async def test_fsync_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = load(tmp_path / "events.jsonl", fsync=False)
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        await handler.open()
        await handler.handle(envelope(1))
    await handler.close()
    assert "fsync" not in calls.names
    assert "write" in calls.names


async def test_the_file_is_there_once_the_handler_is_open(tmp_path: Path) -> None:
    handler = load(tmp_path / "events.jsonl")
    await handler.open()
    assert (tmp_path / "events.jsonl").read_bytes() == b""
    await handler.close()


async def test_reopening_opens_the_file_that_is_now_at_the_path(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    handler = load(path)
    await handler.open()
    await handler.handle(envelope(1))
    path.rename(tmp_path / "events.jsonl.1")
    await handler.reopen()
    assert path.read_bytes() == b""
    await handler.handle(envelope(2))
    await handler.close()
    assert (positions(tmp_path / "events.jsonl.1"), positions(path)) == ([1], [2])


async def test_a_call_that_is_cut_is_still_written_whole_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = load(tmp_path / "events.jsonl")
    await handler.open()
    started, may_go_on, real_write = threading.Event(), threading.Event(), os.write
    threads: list[int] = []

    def slow_write(fd: int, data: bytes) -> int:
        threads.append(threading.get_ident())
        started.set()
        may_go_on.wait()
        return real_write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", slow_write)
        cut = asyncio.ensure_future(handler.handle(envelope(1)))
        await asyncio.to_thread(started.wait)
        cut.cancel()
        await asyncio.wait([cut])
        again = asyncio.ensure_future(handler.handle(envelope(1)))
        await asyncio.sleep(0)
        may_go_on.set()
        await again
    await handler.close()
    assert cut.cancelled()
    assert len(threads) == 2
    assert len(set(threads)) == 1
    assert positions(tmp_path / "events.jsonl") == [1, 1]


async def test_closing_waits_for_what_is_being_written_and_leaves_no_thread(tmp_path: Path) -> None:
    others = set(threading.enumerate())
    handler = load(tmp_path / "events.jsonl")
    await handler.open()
    running = asyncio.ensure_future(handler.handle(envelope(1)))
    await asyncio.sleep(0)
    (thread,) = set(threading.enumerate()) - others
    await handler.close()
    await running
    await asyncio.to_thread(thread.join)
    assert positions(tmp_path / "events.jsonl") == [1]


async def test_a_missing_directory_is_created_for_owner_and_group(tmp_path: Path) -> None:
    handler = load(tmp_path / "no dir" / "events.jsonl")
    await handler.open()
    await handler.close()
    assert (tmp_path / "no dir").stat().st_mode & 0o777 == 0o750


async def test_a_directory_that_cannot_be_created_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(HandlerError, match=r"handlers\.events: cannot open .*mkdir -p '.*a file/logs'"):
        await load(tmp_path / "a file" / "logs" / "events.jsonl").open()


@pytest.mark.parametrize("path", ["events.jsonl", "", "/a\0b", 5])
def test_a_path_that_is_not_absolute_is_refused(path: object) -> None:
    with pytest.raises(ConfigError) as caught:
        handlers.load(HandlerConfig(name="events", use="file", settings={"path": path}))
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("handlers.events.path", "not an absolute path")


def test_the_path_is_required() -> None:
    with pytest.raises(ConfigError, match=r"handlers\.events\.path: missing"):
        handlers.load(HandlerConfig(name="events", use="file"))


# ------------------------------------------------------------------------------- formats, templates in paths, rotation


def of_type(position: int, type_: str, **body: object) -> Envelope:
    payload = json.dumps({"uuid": f"u-{position}", "event": "/x", "body": body})
    return Envelope(f"u-{position}", type_, payload.encode(), SOURCE, 1_795_428_000_190, position)


async def written(handler: handlers.LoadedHandler, *envelopes: Envelope) -> None:
    await handler.open()
    assert handler.handle_batch is not None
    await handler.handle_batch(envelopes)
    await handler.close()


async def tidied(handler: handlers.LoadedHandler) -> None:
    """Wait until what was rotated is compressed and removed."""
    await handler.handler._tidying


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


async def test_a_path_may_depend_on_the_event(tmp_path: Path) -> None:
    handler = load(tmp_path / "logs" / "{date}" / "{type}.jsonl")
    await written(handler, of_type(1, "post.added"), of_type(2, "sms.received"), of_type(3, "post.added"))
    folder = tmp_path / "logs" / "2026-11-23"
    assert positions(folder / "post.added.jsonl") == [1, 3]
    assert positions(folder / "sms.received.jsonl") == [2]
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "post.added.jsonl").stat().st_mode & 0o777 == 0o640


PRIVATE = "meet me at nine"


def _a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)


def _a_file_in_the_place_of_its_folder(path: Path) -> None:
    path.parent.touch()


def _a_link_to_itself(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path)


def _a_file_of_another_format(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"root:x:0")


def _a_half_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"a')


def _a_fifo_that_nobody_reads(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def _a_folder_in_the_place_of_its_note(path: Path) -> None:
    path.with_name(f".{path.name}.batch").mkdir(parents=True)


@pytest.mark.parametrize(
    ("disturb", "told"),
    [
        (_a_folder_in_its_place, "handler_failed"),
        (_a_file_in_the_place_of_its_folder, "handler_failed"),
        (_a_link_to_itself, "handler_failed"),
        (_a_file_of_another_format, "handler_failed"),
        (_a_half_line, "torn_line_removed"),
        (_a_fifo_that_nobody_reads, "fifo_without_reader"),
        (_a_folder_in_the_place_of_its_note, "batch_note_not_kept"),
    ],
)
def test_what_an_event_says_in_a_path_gets_into_no_log_and_no_reason(
    tmp_path: Path, disturb: Callable[[Path], None], told: str
) -> None:
    log = io.StringIO()
    configure(LogConfig(format="json"), log, {})
    template = f"{tmp_path}/{{body.text}}/{{body.text}}.jsonl"
    disturb(tmp_path / PRIVATE / f"{PRIVATE}.jsonl")
    handler = load(template).handler
    result = run_handler(handler, [of_type(1, "post.added", text=PRIVATE)], retry={"max_attempts": 2})
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    assert told in {entry["event"] for entry in entries}
    assert template in log.getvalue(), "the template tells which path is meant"
    assert PRIVATE not in log.getvalue()
    assert not any(PRIVATE in parked.reason for parked in result.parked)


async def test_no_event_can_write_outside_of_the_folder(tmp_path: Path) -> None:
    names = ["../out", "..", "/etc/out", "a/../../out", "x\0y", ".", "", "x-20261123T100000Z"]
    handler = load(tmp_path / "logs" / "{body.name}" / "{body.name}")
    await written(handler, *(of_type(number, "other", name=name) for number, name in enumerate(names)))
    files = files_in(tmp_path)
    assert sorted(number for path in files for number in positions(path)) == list(range(len(names)))
    assert {(path.relative_to(tmp_path).parts[0], len(path.relative_to(tmp_path).parts)) for path in files} == {
        ("logs", 3)
    }


@pytest.mark.parametrize(("format_", "begins"), [("cloudevents", b'{"'), ("text", b"post.added u-1\n")])
async def test_a_line_has_the_format_that_is_asked_for(tmp_path: Path, format_: str, begins: bytes) -> None:
    more = {"line": "{type} {uuid}"} if format_ == "text" else {}
    await written(load(tmp_path / "events", format=format_, **more), of_type(1, "post.added"))
    assert (tmp_path / "events").read_bytes().startswith(begins)
    assert (tmp_path / "events").read_bytes().count(b"\n") == 1


async def test_a_text_file_is_continued_whatever_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"Dear diary\nhalf a li")
    await written(load(tmp_path / "events", format="text", line="{type}"), of_type(1, "post.added"))
    assert (tmp_path / "events").read_bytes() == b"Dear diary\nhalf a li\npost.added\n"


async def test_what_is_rotated_is_compressed_and_the_oldest_removed(tmp_path: Path) -> None:
    handler = load(tmp_path / "events.jsonl", rotate_bytes=1024, keep=2)
    await handler.open()
    for number in range(1, 6):
        await handler.handle(of_type(number, "post.added", text="x" * 900))
    await tidied(handler)
    await handler.close()
    old = [path for path in files_in(tmp_path) if path.name != "events.jsonl"]
    assert sorted(json.loads(gzip.decompress(path.read_bytes()))["rcPush"]["position"] for path in old) == [3, 4]
    assert positions(tmp_path / "events.jsonl") == [5]


async def test_more_files_than_may_be_open_are_tidied_one_after_another_and_none_waits_twice(tmp_path: Path) -> None:
    handler = load(f"{tmp_path}/{{body.n}}.jsonl", rotate_bytes=1024, fsync="never")
    (tmp_path / "7.jsonl-20261123T090000Z").write_bytes(b"{}\n")
    events = [of_type(n, "post.added", n=n) for n in range(1, 3 * OPEN_MAX)]
    await handler.open()
    assert handler.handle_batch is not None
    others = len(asyncio.all_tasks())
    for _ in range(3):
        await handler.handle_batch(events)
        assert len(asyncio.all_tasks()) <= others + 1
        assert len(handler.handler._rotated) <= len(events)
    await tidied(handler)
    await handler.close()
    assert (tmp_path / "7.jsonl-20261123T090000Z.gz").exists()
    assert len(files_in(tmp_path)) == len(events) + 1


async def test_what_an_earlier_process_left_uncompressed_is_compressed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl-20261123T090000Z").write_bytes(b"{}\n")
    handler = load(tmp_path / "events.jsonl", rotate_every="day")
    await handler.open()
    await tidied(handler)
    await handler.close()
    assert {path.name for path in files_in(tmp_path)} == {"events.jsonl", "events.jsonl-20261123T090000Z.gz"}


@pytest.mark.parametrize(("setting", "flushes"), [(True, 1), (False, 0), ("batch", 1), ("always", 2), ("never", 0)])
async def test_fsync_says_what_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: object, flushes: int
) -> None:
    handler = load(tmp_path / "events.jsonl", fsync=setting)
    await handler.open()
    assert handler.handle_batch is not None
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        await handler.handle_batch([envelope(1), envelope(2)])
    await handler.close()
    assert calls.names.count("fsync") == flushes


@pytest.mark.parametrize(
    ("settings", "key", "found"),
    [
        ({"path": "/logs/{typ"}, "handlers.events.path", "at character 7: a { that is never closed"),
        ({"path": "/a", "format": "text"}, "handlers.events.line", "line is missing"),
        ({"path": "/a", "line": "{type}"}, "handlers.events.line", 'line is for format = "text"'),
        ({"path": "/a", "format": "text", "line": "{body.}"}, "handlers.events.line", "at character 7"),
        ({"path": "/a", "rotate_bytes": 5}, "handlers.events.rotate_bytes", "expected `int` >= 1024"),
        ({"path": "/a", "rotate_every": "week"}, "handlers.events.rotate_every", "invalid enum value 'week'"),
        ({"path": "/a", "keep": 0}, "handlers.events.keep", "expected `int` >= 1"),
        ({"path": "/a", "fsync": "sometimes"}, "handlers.events.fsync", "invalid enum value 'sometimes'"),
    ],
)
def test_settings_that_make_no_sense_are_told(settings: dict[str, object], key: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        handlers.load(HandlerConfig(name="events", use="file", settings=settings))
    (problem,) = caught.value.problems
    assert problem.key == key
    assert found in problem.found
