"""The `forward` handler against a receiver on loopback that behaves, and one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
import trustme
from forwarding import load, opened
from structlog.testing import capture_logs
from webhook_receiver import OK, Receiver, Request, status

import rc_push.testing
from rc_push.config import HandlerConfig, RetryConfig
from rc_push.dispatch import Dispatcher
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import ConfigError, Failed, HandlerError, Reject, Retry, UnreachableError, detail_of
from rc_push.handlers import forward, webhook_client
from rc_push.handlers.webhook_client import BYTES_MAX_BYTES, READ_MAX_BYTES, origin_of, proxy_for
from rc_push.journal import Journal, Reader
from rc_push.journal.fates import fates_of

SOURCE = Source("main", "team", "websocket")


def envelope(number: int = 1, text: str = "hello") -> Envelope:
    payload = json.dumps({"uuid": f"u-{number}", "event": "/x", "body": {"text": text}}).encode()
    return Envelope(f"u-{number}", "post.added", payload, SOURCE, 0, number)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def failure_of(answer, **settings: object) -> Exception:
    """Return what a hand-over raises where the receiver gives *answer* to it."""
    async with Receiver(answer).running() as receiver, opened(receiver.url, validate=False, **settings) as handler:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the test's question
            await handler.handle(envelope())
    return caught.value


# -------------------------------------------------------------------------------------------------------- what is sent


async def test_a_receiver_gets_what_ringcentral_sends_and_nothing_else():
    async with Receiver().running() as receiver, opened(receiver.url) as handler:
        await handler.handle(envelope())
    _, event = receiver.requests
    assert event.line == "POST /webhook HTTP/1.1"
    assert event.body == envelope().payload
    assert event.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "application/json",
        "accept-encoding": "UTF-8",
        "content-type": "application/json; charset=UTF-8",
        "content-length": str(len(envelope().payload)),
        "user-agent": "RingCentral-Webhook/8.3",
    }


async def test_a_url_is_asked_for_as_it_is_written():
    async with Receiver().running() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/a%2Fb/%7e?sig=%41%2b+x"
        async with opened(url, validate=False) as handler:
            await handler.handle(envelope())
    assert receiver.requests[0].line == "POST /a%2Fb/%7e?sig=%41%2b+x HTTP/1.1"


async def test_tokens_and_signatures_come_from_the_settings():
    async with (
        Receiver().running() as receiver,
        opened(receiver.url, verification_token={"env": "TOKEN"}, signing_key={"env": "KEY"}) as handler,
    ):
        await handler.handle(envelope())
    validation, event = receiver.requests
    assert validation.headers["verification-token"] == event.headers["verification-token"] == "PLANTED-token"
    assert event.headers["webhook-id"] == "u-1"
    assert event.headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_an_event_can_be_a_cloudevent(mode):
    settings = {"format": "cloudevents", "cloudevents_mode": mode, "validate": False}
    async with Receiver().running() as receiver, opened(receiver.url, **settings) as handler:
        await handler.handle(envelope())
        await handler.handle(Envelope("u-2", "other", b'{"uuid":"u-2","event":"/x"}', SOURCE, 0))
    first, second = receiver.requests
    if mode == "structured":
        assert json.loads(first.body)["data"] == {"text": "hello"}
    else:
        assert (first.headers["ce-id"], first.headers["content-type"]) == ("u-1", "application/json")
        assert (second.headers["ce-id"], second.body) == ("u-2", b"")
        assert "content-type" not in second.headers


async def test_line_ends_in_an_event_begin_no_header():
    payload = json.dumps({"uuid": "u-1", "event": "/x\r\nX-Evil: 1", "ownerId": "1\r\nX-Evil: 1", "body": {}}).encode()
    evil = Envelope("u\r\nX-Evil: 1", "other", payload, SOURCE, 0)
    settings = {"format": "cloudevents", "cloudevents_mode": "binary", "signing_key": {"env": "KEY"}, "validate": False}
    async with Receiver().running() as receiver, opened(receiver.url, **settings) as handler:
        await handler.handle(evil)
    (request,) = receiver.requests
    assert "x-evil" not in request.headers
    assert request.headers["ce-source"]


@pytest.mark.parametrize("size", [BYTES_MAX_BYTES + 1, 10 << 20])
async def test_a_large_event_arrives_whole(size):
    big = envelope(text="x" * size)
    async with Receiver().running() as receiver, opened(receiver.url, signing_key={"env": "KEY"}) as handler:
        await handler.handle(big)
        await handler.handle(envelope(2))
    assert [request.body for request in receiver.events] == [big.payload, envelope(2).payload]
    assert "transfer-encoding" not in receiver.events[0].headers


# ---------------------------------------------------------------------------------------------------------- validation


async def test_a_receiver_is_validated_before_it_gets_anything():
    async with Receiver().running() as receiver:
        for number in range(2):
            async with opened(receiver.url) as handler:
                await handler.handle(envelope(number))
                await handler.handle(envelope(number))
    first, *_, third, _, _ = receiver.requests
    assert [request.is_validation for request in receiver.requests] == [True, False, False] * 2
    assert (first.line, first.body, first.headers["content-length"]) == ("POST /webhook HTTP/1.1", b"", "0")
    assert first.headers["content-type"] == "application/json; charset=UTF-8"
    assert len(first.headers["validation-token"]) >= 32
    assert first.headers["validation-token"] != third.headers["validation-token"]


async def test_without_validate_nothing_is_asked():
    async with Receiver(validation=status(500)).running() as receiver, opened(receiver.url, validate=False) as handler:
        assert receiver.connections == 0
        await handler.handle(envelope())
        assert await handler.check() == ""


async def test_a_receiver_that_does_not_echo_is_a_mistake_that_ends_the_start():
    before = descriptors()
    async with Receiver(validation=OK).running() as receiver:
        with pytest.raises(
            HandlerError,
            match=rf"^handlers\.hook: http://127\.0\.0\.1:{receiver.port} does not echo Validation-Token; a request",
        ):
            await load(receiver.url).open()
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_a_receiver_that_is_down_at_the_start_is_validated_once_it_is_up():
    port = free_port()
    with capture_logs() as logs:
        async with opened(f"http://127.0.0.1:{port}/webhook") as handler:
            with pytest.raises(Failed, match=rf"http://127.0.0.1:{port}: connect: Connection refused$"):
                await handler.handle(envelope())
            async with Receiver().running(port) as receiver:
                await handler.handle(envelope())
    assert [request.is_validation for request in receiver.requests] == [True, False]
    (warning,) = logs
    assert (warning["event"], warning["log_level"]) == ("receiver_unreachable", "warning")
    assert warning["error"] == f"http://127.0.0.1:{port}: connect: Connection refused"


async def test_a_receiver_that_comes_up_wrong_gets_no_event():
    port = free_port()
    with capture_logs():
        handler = load(f"http://127.0.0.1:{port}/webhook")
        await handler.open()
    async with Receiver(validation=OK).running(port) as receiver:
        with pytest.raises(Failed, match="does not echo Validation-Token"):
            await handler.handle(envelope())
        await handler.close()
    assert receiver.events == []


async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
    await request.wait_until_given_up()


async def test_a_receiver_has_three_seconds_to_echo(monkeypatch):
    assert forward.VALIDATION_WITHIN_S == 3
    monkeypatch.setattr(forward, "VALIDATION_WITHIN_S", 0.05)
    async with Receiver(validation=silent).running() as receiver:
        with capture_logs() as logs:
            async with opened(receiver.url):
                pass
        with pytest.raises(UnreachableError, match=r"has not answered the validation request within 0\.05 s"):
            await load(receiver.url).check()
    assert [entry["event"] for entry in logs] == ["receiver_unreachable"]


async def test_many_that_wait_for_the_validation_share_one_and_one_that_is_cut_cuts_no_other():
    release = asyncio.Event()

    async def slowly(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(status(200, f"Validation-Token: {request.headers['validation-token']}"))

    port = free_port()
    with capture_logs():
        async with opened(f"http://127.0.0.1:{port}/webhook") as handler, Receiver(validation=slowly).running(
            port
        ) as receiver:  # fmt: skip
            calls = [asyncio.create_task(handler.handle(envelope(number))) for number in range(16)]
            await receiver.has_request.wait()
            calls[0].cancel()
            await asyncio.wait([calls[0]])
            release.set()
            await asyncio.gather(*calls[1:])
    assert [request.is_validation for request in receiver.requests].count(True) == 1
    assert len(receiver.events) == 15


async def test_closing_ends_a_validation_that_is_under_way(monkeypatch):
    monkeypatch.setattr(forward, "VALIDATION_WITHIN_S", 0.05)
    async with Receiver(validation=silent).running() as receiver:
        handler = load(receiver.url)
        with capture_logs():
            await handler.open()
        monkeypatch.setattr(forward, "VALIDATION_WITHIN_S", 60.0)
        receiver.has_request.clear()
        call = asyncio.create_task(handler.handle(envelope()))
        await receiver.has_request.wait()
        call.cancel()
        await asyncio.wait([call])
        await handler.close()
    assert len(asyncio.all_tasks()) == 1


async def test_check_validates_and_leaves_nothing_open():
    before = descriptors()
    async with Receiver().running() as receiver:
        assert await load(receiver.url).check() == f"http://127.0.0.1:{receiver.port} echoes the Validation-Token"
    with pytest.raises(UnreachableError, match=r"^handlers\.hook: http://127\.0\.0\.1:\d+: connect: "):
        await load(f"http://127.0.0.1:{receiver.port}/webhook").check()
    async with Receiver(validation=status(404)).running() as receiver:
        with pytest.raises(HandlerError, match="answered 404 Not Found to the validation request; "):
            await load(receiver.url).check()
    await asyncio.sleep(0)
    assert descriptors() == before


# ------------------------------------------------------------------------------------------------ answers, good and bad


async def test_a_refusal_is_parked_with_its_body_and_without_our_token():
    echo = status(422, body=b"PLANTED-token was sent with " + b"y" * 9000)
    exc = await failure_of(echo, verification_token={"env": "TOKEN"})
    assert isinstance(exc, Reject)
    assert " answered 422 Unprocessable " in exc.reason
    assert detail_of(exc).startswith("*** was sent with yyy")
    assert len(detail_of(exc)) == 4096
    assert "PLANTED" not in "".join(traceback.format_exception(exc))


async def test_a_server_error_is_a_failed_attempt():
    exc = await failure_of(status(503, body=b"maintenance"))
    assert isinstance(exc, Failed)
    assert (exc.reason.partition(" ")[2], detail_of(exc)) == ("answered 503 Service Unavailable", "maintenance")


async def test_a_redirect_is_not_followed():
    async with Receiver().running() as other:
        exc = await failure_of(status(307, f"Location: http://localhost:{other.port}/webhook"))
    assert isinstance(exc, Reject)
    assert "pointing to localhost; redirects are not followed" in exc.reason
    assert other.connections == 0


async def test_a_receiver_asks_for_time_for_all_events():
    exc = await failure_of(status(429, "Retry-After: 30", body=b"slowly"))
    assert isinstance(exc, Retry)
    assert (exc.delay_s, exc.for_all, detail_of(exc)) == (30, True, "slowly")


async def test_a_receiver_with_a_rate_limit_is_asked_no_more_than_it_wants_and_gets_all():
    limit = 10

    async def limited(request: Request, writer: asyncio.StreamWriter) -> None:
        if taken and len(taken) % limit == 0 and len(refused) * limit < len(taken):
            refused.append(request.body)
            writer.write(status(429, "Retry-After: 3600"))
        else:
            taken.append(request.body)
            writer.write(OK)

    taken: list[bytes] = []
    refused: list[bytes] = []
    async with Receiver(limited).running() as receiver:
        events = [rc_push.testing.envelope("fax.received", body={"id": str(number)}) for number in range(50)]
        with capture_logs() as logs:
            hook = load(receiver.url).handler
            result = await asyncio.to_thread(rc_push.testing.run_handler, hook, events, order="none")
    assert sorted(taken) == sorted(event.payload for event in result.delivered)
    assert len(taken) == len(events)
    assert len(result.calls) == len(events) + len(refused), "what waits costs no call"
    assert [line["event"] for line in logs] == ["handler_asks_for_time"] * 4
    assert result.slept_s == [3600.0] * 4


@pytest.mark.parametrize(
    ("answer", "outcome", "told", "detail"),
    [
        (status(409, body=b"exists"), "rejected", "answered 409 Conflict", "exists"),
        (status(302), "rejected", "answered 302 Found, pointing to another path of its own; redirects are not", ""),
        (status(503, body=b"maintenance"), "failed", "answered 503 Service Unavailable", "maintenance"),
        (status(429, "Retry-After: 7", body=b"slowly"), "later", "answered 429 Too Many Requests", "slowly"),
        (b"220 smtp.example.com ESMTP\r\n\r\n", "failed", "answer: it is no valid HTTP", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "failed", "answer: the connection was closed without one", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "failed", "answer: it broke off in the middle", ""),
    ],
)
async def test_each_trouble_leaves_an_attempt_that_says_which(tmp_path, answer, outcome, told, detail):
    async def once(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK if len(receiver.events) > 1 else answer)
        writer.close()
        raise ConnectionError

    receiver = Receiver(once)
    rules = HandlerConfig("hook", "forward", retry=RetryConfig(first_delay_s=0.01, max_delay_s=0.01))
    path = tmp_path / "journal.db"
    with capture_logs() as logs:
        async with receiver.running(), opened(receiver.url, validate=False) as handler, Journal(path) as journal:
            dispatcher = Dispatcher(rules, handler, journal, sleep=lambda _: asyncio.sleep(0), now=hurrying())
            await dispatcher.register()
            await journal.append(Batch("team", [envelope()]))
            running = asyncio.create_task(dispatcher.run())
            async with asyncio.timeout(10):
                while not (dispatcher.statistics().delivered or dispatcher.statistics().parked):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        [(_, fate, _, [first, *_])] = fates_of(db, 1)
    assert (fate, first.outcome) == ("parked" if outcome == "rejected" else "finished", outcome)
    assert f"http://127.0.0.1:{receiver.port}" in first.error
    assert told in first.error
    assert first.detail == detail
    assert not detail or detail not in str(logs)


def hurrying():
    """Return a clock on which delays are over at once."""
    return itertools.count(1.0, 100.0).__next__


def answering(data: bytes, *, close: bool = True):
    """Return what writes *data*, then closes or waits for ever."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if not close:
            await request.wait_until_given_up()
        writer.close()
        raise ConnectionError

    return answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (answering(b""), "answer: the connection was closed without one"),
        (answering(b"HTTP/1.1 200 O"), "answer: the connection was closed without one"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Le"), "answer: the connection was closed without one"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "answer: it broke off in the middle"),
        (
            answering(b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal"),
            "answer: it broke off in the middle",
        ),
        (answering(b"220 smtp.example.com ESMTP\r\n"), "answer: it is no valid HTTP"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), "answer: it is no valid HTTP"),
        (answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "answer: it is no valid HTTP"),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000, close=False), "answer: it is no valid HTTP"),
    ],
)
async def test_half_an_answer_and_nonsense_are_failed_attempts_with_a_clear_word(answer, told):
    exc = await failure_of(answer)
    assert isinstance(exc, Failed)
    assert exc.reason.partition(": ")[2] == told
    assert isinstance(exc.__context__, UnreachableError)
    assert exc.__context__.__context__ is None, "nothing of aiohttp's, which holds the address"


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 100000000000", "X: to the end"])
async def test_an_endless_answer_costs_the_connection_and_the_event_is_done(length):
    chunk = b"x" * 1000
    data = b"3e8\r\n" + chunk + b"\r\n" if "chunked" in length else chunk
    written = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(data)
            await writer.drain()
            written += len(data)

    async with Receiver(endless).running() as receiver, opened(receiver.url, validate=False) as handler:
        async with asyncio.timeout(10):
            await handler.handle(envelope(1))
            await handler.handle(envelope(2))
        assert (len(receiver.requests), receiver.connections) == (2, 2)


async def test_an_endless_refusal_is_parked_with_its_beginning():
    endless = answering(b"HTTP/1.1 400 No\r\n\r\n" + b"z" * 2 * READ_MAX_BYTES, close=False)
    exc = await failure_of(endless)
    assert isinstance(exc, Reject)
    assert detail_of(exc) == "z" * 4096


async def test_an_answer_that_trickles_for_ever_is_cut(monkeypatch):
    monkeypatch.setattr(webhook_client, "BODY_WITHIN_S", 0.05)
    half = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", close=False)
    async with Receiver(half).running() as receiver, opened(receiver.url, validate=False) as handler:
        await handler.handle(envelope(1))
        await handler.handle(envelope(2))
        assert receiver.connections == 2


async def test_what_is_small_on_the_wire_is_not_blown_up():
    bomb = gzip.compress(bytes(50 << 20))
    exc = await failure_of(status(400, "Content-Encoding: gzip", body=bomb))
    assert isinstance(exc, Reject)
    assert detail_of(exc).startswith("\x1f")


async def test_a_refusal_that_comes_before_the_event_is_sent_whole_is_heard():
    answer = answering(status(413, "Connection: close", body=b"too large"), close=False)
    async with (
        Receiver(answer, reads_bodies=False).running() as receiver,
        opened(receiver.url, validate=False) as handler,
    ):
        with pytest.raises(Reject, match="answered 413") as caught:
            await handler.handle(envelope(text="x" * (10 << 20)))
    assert detail_of(caught.value) == "too large"


async def test_a_call_that_is_cut_closes_its_connection():
    async with Receiver(silent).running() as receiver, opened(receiver.url) as handler:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await handler.handle(envelope())
        receiver.answer = OK
        await handler.handle(envelope())
        assert receiver.connections == 2


async def test_a_receiver_that_cannot_be_connected_to_fails_after_its_own_time():
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # a queue that is full answers nothing
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with opened(
            f"http://127.0.0.1:{full.getsockname()[1]}/", validate=False, connect_timeout_s=0.1
        ) as handler:
            with pytest.raises(Failed, match=r": connect: not within connect_timeout_s$"):
                await handler.handle(envelope())


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/PLANTED", "http://localhost:{port}/PLANTED"])
async def test_where_nobody_is_the_failure_names_the_host_and_not_the_path(url, monkeypatch):
    if "invalid" in url:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    async with opened(url.format(port=free_port()), validate=False) as handler:
        with pytest.raises(Failed, match=r"^http://(no-such-host\.invalid: dns|localhost:\d+: connect): ") as it:
            await handler.handle(envelope())
    assert "PLANTED" not in "".join(traceback.format_exception(it.value))


# -------------------------------------------------------------------------------------------------------- connections


async def test_connections_are_kept_and_used_again():
    async with Receiver().running() as receiver, opened(receiver.url) as handler:
        for number in range(50):
            await handler.handle(envelope(number))
        assert receiver.connections == 1
        await asyncio.gather(*(handler.handle(envelope(number)) for number in range(16)))
        assert receiver.connections <= 16
    assert len(receiver.events) == 66


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
@pytest.mark.parametrize("stray", [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha"])
async def test_an_answer_that_nobody_asked_for_is_not_that_to_the_next_request(delay_s: float, stray: bytes):
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(receiver.requests) > 3:
            writer.write(status(500))
            return
        writer.write(OK)
        await asyncio.sleep(delay_s)
        writer.write(stray)

    async with Receiver(answer).running() as receiver, opened(receiver.url, validate=False) as handler:
        await asyncio.gather(*(handler.handle(envelope(number)) for number in range(3)))
        await asyncio.sleep(0.05)
        with pytest.raises(Failed, match="answered 500"):
            await handler.handle(envelope(4))
        assert receiver.connections == 4


async def test_nor_one_that_the_loop_was_too_late_to_read():
    def serve() -> None:
        for answers in ([OK, OK], [status(500)]):
            with server.accept()[0] as connection:
                connection.recv(1 << 16)
                for answer in answers:
                    connection.sendall(answer)
                    time.sleep(0.05)
                with contextlib.suppress(ConnectionError):
                    connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        async with opened(url, validate=False) as handler:
            await handler.handle(envelope(1))
            time.sleep(0.2)  # noqa: ASYNC251 - another handler keeps the loop busy
            with pytest.raises(Failed, match="answered 500"):
                await handler.handle(envelope(2))
        serving.join(5)


async def test_an_idle_connection_is_given_up_before_the_receiver_does():
    assert webhook_client.KEEP_IDLE_S < 2
    async with Receiver().running() as receiver, opened(receiver.url) as handler:
        (connector,) = [handler.handler._client._session.connector]
        assert connector._keepalive_timeout == webhook_client.KEEP_IDLE_S


async def test_a_connection_that_the_receiver_has_closed_meanwhile_costs_no_attempt():
    async def once(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()
        raise ConnectionError

    async with Receiver(once).running() as receiver, opened(receiver.url, validate=False) as handler:
        for number in range(5):
            await handler.handle(envelope(number))
            await asyncio.sleep(0.02)
    assert receiver.connections == 5


async def test_cookies_of_a_receiver_are_not_sent_back():
    async with Receiver(status(200, "Set-Cookie: a=b")).running() as receiver, opened(receiver.url) as handler:
        await handler.handle(envelope(1))
        await handler.handle(envelope(2))
    assert "cookie" not in receiver.events[1].headers


async def test_no_descriptor_is_left_whatever_the_receiver_does():
    answers = [
        OK,
        status(500),
        status(404, body=b"x" * 20_000),
        status(302, "Location: /"),
        answering(b""),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
        answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000, close=False),
        silent,
    ]
    async with Receiver().running() as receiver, opened(receiver.url) as handler:

        async def hand_over(number: int) -> None:
            receiver.answer = answers[number % len(answers)]
            with contextlib.suppress(Failed, Reject, UnreachableError, TimeoutError):
                async with asyncio.timeout(0.1):
                    await handler.handle(envelope(number))

        async def round_of(events: int) -> int:
            for first in range(0, events, 16):
                await asyncio.gather(*(hand_over(number) for number in range(first, first + 16)))
            await asyncio.sleep(0.1)
            return descriptors()

        receiver.answer = OK
        first = await round_of(64)
        assert await round_of(320) <= first + 8  # idle connections in the pool and at the receiver come and go


async def test_a_thousand_events_leave_as_many_descriptors_as_a_hundred():
    async with Receiver().running() as receiver, opened(receiver.url) as handler:
        counts = []
        for events in (112, 2000):
            for first in range(0, events, 16):
                await asyncio.gather(*(handler.handle(envelope(number)) for number in range(first, first + 16)))
            counts.append(descriptors())
        assert counts[1] <= counts[0]
        assert receiver.connections <= 16


# --------------------------------------------------------------------------------------------------------- TLS, proxies


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority, tmp_path):
    """Return what a server with a certificate of *authority* needs, and write the authority to ca.pem."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_receiver_over_tls_is_verified_by_the_authority_that_the_user_names(tls, tmp_path):
    async with Receiver(tls=tls).running() as receiver:
        async with opened(receiver.url, ca_file=str(tmp_path / "ca.pem")) as handler:
            await handler.handle(envelope())
            await handler.handle(envelope())
        assert receiver.connections == 1
        async with opened(receiver.url, validate=False) as handler:
            with pytest.raises(Failed, match=r"^https://127\.0\.0\.1:\d+: tls: unable to get local issuer"):
                await handler.handle(envelope())
    assert len(receiver.events) == 2


async def test_a_certificate_of_another_host_is_refused(authority, tls, tmp_path):
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(other)
    async with (
        Receiver(tls=other).running() as receiver,
        opened(receiver.url, validate=False, ca_file=str(tmp_path / "ca.pem")) as handler,
    ):
        with pytest.raises(Failed, match=r": tls: IP address mismatch"):
            await handler.handle(envelope())


async def test_a_receiver_that_wants_a_certificate_gets_the_one_in_the_settings(authority, tls, tmp_path):
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    client = tmp_path / "client.pem"
    client.touch(0o600)
    authority.issue_cert("rc-push.example").private_key_and_cert_chain_pem.write_to_path(client)
    ca_file = str(tmp_path / "ca.pem")
    async with Receiver(tls=tls).running() as receiver:
        async with opened(receiver.url, ca_file=ca_file, client_certificate=str(client)) as handler:
            await handler.handle(envelope())
        async with opened(receiver.url, ca_file=ca_file, validate=False) as handler:
            with pytest.raises(Failed, match=r"https://127\.0\.0\.1:\d+: (tls: .*CERTIFICATE_REQUIRED|answer: )"):
                await handler.handle(envelope())
    assert len(receiver.events) == 1


async def test_a_receiver_without_tls_behind_an_https_url_is_told():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(status(400))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, opened(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", validate=False) as handler:
        with pytest.raises(Failed, match=r": tls: WRONG_VERSION_NUMBER$"):
            await handler.handle(envelope())


async def test_files_that_do_not_fit_end_the_start(tmp_path):
    with pytest.raises(HandlerError, match=r"^handlers\.hook: ca_file: .*no\.pem cannot be read"):
        await load("https://127.0.0.1:1/", ca_file=str(tmp_path / "no.pem")).open()


async def test_the_environments_proxy_is_used_but_not_for_loopback(monkeypatch):
    async with Receiver().running() as proxy, Receiver().running() as receiver:
        monkeypatch.setenv("http_proxy", f"http://user:PLANTED@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        async with opened("http://receiver.example/webhook") as handler, opened(receiver.url) as local:
            await handler.handle(envelope(1))
            await local.handle(envelope(2))
    assert [request.line for request in proxy.requests] == ["POST http://receiver.example/webhook HTTP/1.1"] * 2
    assert proxy.events[0].headers["proxy-authorization"].startswith("Basic ")
    assert len(receiver.events) == 1


async def test_a_proxy_that_is_down_or_refuses_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:PLANTED@127.0.0.1:{free_port()}")
    async with opened("http://receiver.example/", validate=False) as handler:
        with pytest.raises(Failed, match=r"receiver\.example: proxy: Connection refused$") as caught:
            await handler.handle(envelope())
        assert "PLANTED" not in "".join(traceback.format_exception(caught.value))
    async with Receiver(status(407)).running() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        async with opened("https://receiver.example/", validate=False) as handler:
            with pytest.raises(Failed, match=r"^https://receiver\.example: proxy: it opens no way there$"):
                await handler.handle(envelope())


@pytest.mark.parametrize(
    ("proxy", "bypass", "used"),
    [
        ("", "", None),
        ("proxy:3128", "", "http://proxy:3128"),
        ("http://proxy:3128", "", "http://proxy:3128"),
        ("http://proxy:3128", "receiver.example", None),
        ("http://proxy:3128", "*", None),
    ],
)
def test_a_proxy_is_what_the_environment_says(monkeypatch, proxy, bypass, used):
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", bypass)
    assert proxy_for("https://receiver.example/") == used
    assert proxy_for("https://[::1]:8443/") is None
    assert proxy_for("https://localhost/") is None


def test_a_proxy_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://user:PLANTED@proxy:1080")
    with pytest.raises(HandlerError, match=r"HTTPS_PROXY names no HTTP proxy; .*NO_PROXY=receiver\.example") as caught:
        proxy_for("https://receiver.example/")
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example/x?PLANTED", "https://a.example"),
        ("http://A.example:8080", "http://a.example:8080"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_an_origin_is_what_may_be_shown_of_a_url(url, origin):
    assert origin_of(url) == origin


# ------------------------------------------------------------------------------------------------------------- settings


def problem_of(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**{"url": "https://receiver.example/", **settings})
    (problem,) = caught.value.problems
    assert "PLANTED" not in str(problem)
    return str(problem)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("receiver.example/PLANTED", "url begins with neither https:// nor http://; write all of it, such as"),
        ("localhost:3000/PLANTED", "url begins with neither"),
        ("ftp://receiver.example/PLANTED", "url begins with neither"),
        ("", "url begins with neither"),
        ("https:///PLANTED", "url names no host"),
        ("https://:443/PLANTED", "url names no host"),
        ("http://receiver.example:0/", "url names no host"),
        ("http://receiver.example:99999/PLANTED", "url is none"),
        ("http://[::1/PLANTED", "url is none"),
        ("http://receiver.example/a b", "url has characters in it"),
        ("http://receiver.example/\u00fc", "url has characters in it"),
        ("http://user:PLANTED@receiver.example/", "url has a user or a password in it"),
        ("http://receiver.example/#PLANTED", "url has a # in it"),
    ],
)
def test_a_url_that_is_none_is_a_mistake_with_its_remedy_and_is_not_shown(url, told):
    text = problem_of(url=url)
    assert text.startswith(f"handlers.hook.url: {told}")
    assert "https://receiver.example.com/webhook" in text


@pytest.mark.parametrize(
    "text", ["http://receiver.example/\nx", "http://receiver.example/\r", "http://receiver\t.example/"]
)
def test_a_url_with_line_ends_is_a_mistake(text):
    assert "url has characters in it that no URL has" in problem_of(url=text)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"signing_key": {"env": "TOKEN"}}, "signing_key is no whsec_ and base64 of 24 to 64 bytes; make one: "),
        ({"client_key": "/key.pem"}, "client_key is given without client_certificate; "),
        (
            {"url": "http://a.example/", "ca_file": "/ca.pem"},
            "files for TLS are given, but url does not begin with https",
        ),
        ({"connect_timeout_s": 0}, "connect_timeout_s: expected `float` >= 0.1; it means: until connected"),
        ({"format": "xml"}, "format: invalid enum value 'xml'; it means: how events look"),
        ({"verification_header": "X-Token"}, "verification_header: invalid enum value"),
        ({"verification_token": {"env": "NO_SUCH"}}, "verification_token: the environment variable NO_SUCH is not set"),
    ],
)
def test_a_setting_that_does_not_fit_is_told(settings, told):
    assert told in problem_of(**settings)


def test_aiohttp_is_imported_when_a_handler_is_opened_and_not_before():
    code = (
        "import sys; from rc_push import handlers; from rc_push.config import HandlerConfig\n"
        "handlers.load(HandlerConfig('h', 'forward', settings={'url': 'https://receiver.example/'}))\n"
        "sys.exit(str([m for m in sys.modules if m in ('aiohttp', 'yarl', 'cloudevents')] or '') or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
