"""Log lines: readable by people or machines, one line per fact, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rc_push import log as rc_log
from rc_push.config import LogConfig
from rc_push.log import VALUE_MAX_LENGTH, configure, redact


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore():
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, rc_log._Stdlib)]


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


@pytest.fixture
def stream() -> io.StringIO:
    """Where JSON lines of every level go."""
    stream = io.StringIO()
    configure(LogConfig(level="debug", format="json"), stream, {})
    return stream


def test_json_has_time_level_event_and_the_fields(stream):
    structlog.get_logger().info("connected", subscription="team", delay_s=1.5, tries=3, last=None)
    (line,) = lines_of(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("timestamp")))
    assert line == {
        "level": "info",
        "event": "connected",
        "subscription": "team",
        "delay_s": 1.5,
        "tries": 3,
        "last": None,
    }


def test_auto_is_text_with_colours_on_a_terminal_and_json_elsewhere():
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        configure(LogConfig(), out, {})
        structlog.get_logger().warning("slow", handler="events")
    assert "\x1b[33mwarning" in terminal.getvalue()
    assert terminal.getvalue().endswith("slow  handler=events\n")
    assert lines_of(file)[0]["handler"] == "events"


def test_text_has_no_colours_where_nobody_sees_them():
    out = io.StringIO()
    configure(LogConfig(format="text"), out, {})
    structlog.get_logger().info("start", text="two words", quote='a"b', empty="", number=5, nested={"a": [1]})
    text = out.getvalue().partition(" ")[2]
    assert text == 'info     start  text="two words"  quote="a\\"b"  empty=""  number=5  nested={"a":[1]}\n'


def test_what_is_below_the_level_is_not_told():
    out = io.StringIO()
    configure(LogConfig(level="warning", format="json"), out, {})
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [line["event"] for line in lines_of(out)] == ["loud"]


def test_text_from_outside_cannot_begin_a_line_or_command_the_terminal():
    out = Terminal()
    configure(LogConfig(format="text"), out, {})
    structlog.get_logger().info("one\nforged", text="\x1b[2Jx\r\n\u2028y", **{"a\nb": 1})
    text = out.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert not set(text[:-1]) & set("\r\u2028")


def test_an_exception_is_one_string_in_json(stream):
    try:
        int("no")
    except ValueError:
        structlog.get_logger().exception("broken")
    (line,) = lines_of(stream)
    assert str(line["exception"]).startswith("Traceback")
    assert "ValueError: invalid literal" in str(line["exception"])
    assert line["level"] == "error"


def test_an_exception_is_indented_below_its_text_line():
    out = io.StringIO()
    configure(LogConfig(format="text"), out, {})
    structlog.get_logger().error("broken", exc_info=ValueError("no"))
    first, *rest = out.getvalue().splitlines()
    assert first.endswith("broken")
    assert rest == ["    ValueError: no"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET /x Authorization: Basic cGxhbnRlZA==", "GET /x Authorization: Basic ***"),
        ("{'authorization': 'bearer PLANTED.a-b_c'}", "{'authorization': '***'}"),
        ("wss://x/ws?access_token=PLANTED&wsc=PLANTED", "wss://x/ws?access_token=***&wsc=***"),
        ("Newscast=5 {'wsc': 'PLANTED'} at %26wsc%3DPLANTED", "Newscast=5 {'wsc': '***'} at %26wsc%3D***"),
        ("grant_type=jwt&assertion=PLANTED", "grant_type=jwt&assertion=***"),
        ("redirect%3Faccess_token%3DPLANTED", "redirect%3Faccess_token%3D***"),
        ('{"refresh_token": "PLANTED", "scope": "x"}', '{"refresh_token": "***", "scope": "x"}'),
        ('{\\"ws_access_token\\":\\"PLANTED\\"}', '{\\"ws_access_token\\":\\"***\\"}'),
        ("{'client_secret': b'PLANTED'}", "{'client_secret': b'***'}"),
        ("got eyJPLANTED.eyJb.c-d_e, refused", "got ***, refused"),
        ("proxy http://user:PLANTED@proxy:3128/x", "proxy http://***@proxy:3128/x"),
        ("timetoken=17 and 5 tokens: none", "timetoken=17 and 5 tokens: none"),
        ("a-eyJPLANTED.eyJb.c --jwt-eyJPLANTED.b", "a-*** --jwt-***"),
    ],
)
def test_secrets_inside_of_texts_are_hidden(text, left):
    assert redact(text) == left


@pytest.mark.parametrize("text", ["token", "token-", "eyJ-", "a-eyJ", "a.eyJ", "token='", "a://", "bearer ", 'token" '])
def test_no_text_takes_long_to_search_since_all_wait_meanwhile(text):
    """A post of repeated "token" in an exception took a second, and 64 KB of it most of a minute."""
    began_at = time.process_time()
    redact((text * 65536)[:65536])
    assert time.process_time() - began_at < 1.0


def test_of_a_text_without_end_the_beginning_is_told_and_no_half_of_a_secret(stream):
    end = " a=1 http://user:PLANTED"
    text = "x" * (VALUE_MAX_LENGTH - len(end)) + end + "@host" + " and so on" * 1000
    structlog.get_logger().error("broken", error=text)
    structlog.get_logger().error("broken", exc_info=ValueError("y" * (32 << 20)))
    cut, exception = lines_of(stream)
    assert str(cut["error"]).startswith("xxx")
    assert str(cut["error"]).endswith("xxx a=1[… 10025 characters left out …]")
    assert str(exception["exception"]).startswith("ValueError:[… ")


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": "PLANTED"},
        {"Authorization": "PLANTED"},
        {"clientSecret": "PLANTED"},
        {"jwt": b"PLANTED"},
        {"password": 5550123, "other": "5550123 is not checked"},
        {"headers": {"X-Token": "PLANTED", "Host": "x"}},
        {"calls": [{"body": {"assertion": ["PLANTED"]}}]},
        {"error": RuntimeError("access_token=PLANTED refused")},
        {"body": b"access_token=PLANTED&x=1"},
        {"deep": [[[[[[[[[[{"token": "PLANTED"}]]]]]]]]]]},
        {"event": "login with jwt=PLANTED"},
    ],
)
@pytest.mark.parametrize("format_", ["json", "text"])
def test_secrets_in_fields_are_hidden_however_deep(fields, format_):
    out = io.StringIO()
    configure(LogConfig(format=format_), out, {})
    structlog.get_logger().info(**{"event": "call"} | fields)
    assert "PLANTED" not in out.getvalue()
    assert "password=5550123" not in out.getvalue()
    assert '"password":5550123' not in out.getvalue()
    assert "***" in out.getvalue()


def test_secrets_in_tracebacks_and_their_causes_are_hidden(stream):
    error = RuntimeError("wss://x?access_token=PLANTED")
    error.__cause__ = ValueError("Authorization: Bearer PLANTED")
    structlog.get_logger().error("broken", exc_info=error)
    (line,) = lines_of(stream)
    assert "RuntimeError: wss://x?access_token=***" in str(line["exception"])
    assert "ValueError: Authorization: Bearer ***" in str(line["exception"])


def test_what_is_no_secret_stays(stream):
    structlog.get_logger().info("x", timetoken="17", has_token=True, refresh_token=None)
    (line,) = lines_of(stream)
    assert (line["timetoken"], line["has_token"], line["refresh_token"]) == ("17", True, None)


VALUES = st.none() | st.text() | st.integers() | st.floats() | st.binary() | st.datetimes()


@given(VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text() | st.integers(), VALUES, max_size=3))
def test_whatever_is_logged_is_one_line_of_json(value):
    out = io.StringIO()
    configure(LogConfig(format="json"), out, {})
    structlog.get_logger().info("x", value=value, lone="\ud800")
    assert len(lines_of(out)) == 1


def test_libraries_are_heard_once_from_warnings_upwards(stream):
    configure(LogConfig(level="debug", format="json"), stream, {})
    root = logging.getLogger()  # without pytest's own handlers, which raise at the last line below
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, rc_log._Stdlib)]
    logging.getLogger("websockets.client").info("chatter")
    logging.getLogger("websockets.server").warning("port %d is %s", 80, "taken")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")  # as often as a stranger likes
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    logging.getLogger("urllib3.connectionpool").warning("Authorization: Bearer PLANTED")
    logging.getLogger("other").error("%d items", "no number")
    told = [(line["logger"], line["level"], line["event"]) for line in lines_of(stream)]
    assert told == [
        ("websockets.server", "warning", "port 80 is taken"),
        ("uvicorn.error", "error", "Exception in ASGI application"),
        ("urllib3.connectionpool", "warning", "Authorization: Bearer ***"),
        ("other", "error", "%d items"),
    ]


def test_a_further_call_changes_loggers_that_exist_already(stream):
    logger = structlog.get_logger()
    logger.info("first")
    other = io.StringIO()
    configure(LogConfig(format="json"), other, {})
    logger.info("second")
    assert [line["event"] for line in lines_of(other)] == ["second"]
    assert [line["event"] for line in lines_of(stream)] == ["first"]


@pytest.mark.parametrize(("format_", "lines"), [("json", 1), ("text", 2)])
def test_journald_gets_the_priority_at_every_line(tmp_path, format_, lines):
    with (tmp_path / "log").open("w+") as file:
        about = os.fstat(file.fileno())
        configure(LogConfig(format=format_), file, {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})
        structlog.get_logger().warning("slow", exc_info=ValueError("no"))
        told = (tmp_path / "log").read_text().splitlines()
    assert len(told) == lines
    assert all(line.startswith("<4>") for line in told)


@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "1:2"}])
def test_a_stream_that_is_not_journalds_gets_no_priority(tmp_path, environ):
    with (tmp_path / "log").open("w+") as file:
        configure(LogConfig(format="json"), file, environ)
        structlog.get_logger().info("x")
        assert (tmp_path / "log").read_text().startswith("{")


def test_that_nobody_reads_the_log_stops_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", closefd=True, buffering=1) as gone:
        configure(LogConfig(format="json"), gone, {})
        structlog.get_logger().info("x")
        os.dup2(os.open(os.devnull, os.O_WRONLY), gone.fileno())  # so that closing it has something to write to
    structlog.get_logger().info("closed")


def test_every_level_has_a_priority_and_a_colour():
    assert rc_log.PRIORITIES.keys() == rc_log.COLOURS.keys() == rc_log.LEVELS.keys()


def test_a_line_of_json_has_nothing_in_it_that_a_terminal_obeys():
    stream = io.StringIO()
    configure(LogConfig(format="json"), stream, {})
    structlog.get_logger().info("x", text="a\x9b2J\x1b[2J\u202eb")
    assert r"a\u009b2J\u001b[2J\u202eb" in stream.getvalue()
    assert json.loads(stream.getvalue())["text"] == "a\x9b2J\x1b[2J\u202eb"
