"""How is the site served? Real sockets on loopback: bounds hold, and a failure says nothing to who asks."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections import Counter

import pytest

from rc_push import log
from rc_push.config import LogConfig
from rc_push.web import server
from rc_push.web.site import Site, json_answer

SECRET = "abcdefghij0123456789"


async def page():
    return json_answer(200, {})


async def broken():
    raise RuntimeError(f"Authorization: Bearer {SECRET}")


@pytest.fixture
async def url():
    async with server.serving_site(Site({"/page": page, "/broken": broken}), "127.0.0.1", 0) as url:
        yield url


def address(url):
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


async def ask(url, path="/page", request=None):
    """Return all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection(*address(url))
    writer.write(request or f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await rest_of(reader)
    writer.close()
    return answer


async def rest_of(reader):
    """Return what comes until the other side hangs up."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b"reset"


async def test_a_page_comes_over_the_wire_and_says_nothing_of_what_serves_it(url):
    answer = await ask(url)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"server:" not in answer.lower()


async def test_what_is_no_request_is_refused(url):
    assert (await ask(url, request=b"\x16\x03\x01\x02\x00\x01\r\n\r\n")).startswith(b"HTTP/1.1 400")
    huge = b"GET /page HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000
    assert (await ask(url, request=huge)).startswith((b"HTTP/1.1 400", b"reset"))


async def test_a_failure_inside_is_logged_without_secrets_and_tells_nothing(url):
    said = io.StringIO()
    log.configure(LogConfig(format="json"), said, {})
    answer = await ask(url, "/broken")
    assert answer.startswith(b"HTTP/1.1 500")
    assert SECRET.encode() not in answer
    assert "RuntimeError" in said.getvalue()
    assert SECRET not in said.getvalue()


async def test_whoever_asks_badly_again_and_again_costs_the_log_one_line_in_a_while(monkeypatch):
    monkeypatch.setattr(server, "TELL_EVERY_S", 0.05)
    said = io.StringIO()
    log.configure(LogConfig(format="json"), said, {})
    async with server.serving_site(Site({"/page": page}, token=SECRET), "127.0.0.1", 0) as url:
        for _ in range(20):
            await ask(url, request=b"GARBAGE\r\n\r\n")
            await ask(
                url, request=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            await ask(url)
        monkeypatch.setattr(server, "TELL_EVERY_S", 60.0)
        await asyncio.sleep(0.1)
        lines = [json.loads(line) for line in said.getvalue().splitlines()]
        assert {(line["event"], line["url"]) for line in lines} == {("web_refused", url)}
        await ask(url)
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    counts = sum((Counter(line["refused"]) for line in lines), Counter())
    assert counts == {"bad HTTP": 20, "host": 20, "bearer": 21}


async def test_more_connections_than_there_may_be_are_hung_up_on_and_it_goes_on():
    site = Site({"/page": page})
    async with server.serving_site(site, "127.0.0.1", 0) as url:
        idle = [await asyncio.open_connection(*address(url)) for _ in range(server.CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)
        reader, one_more = await asyncio.open_connection(*address(url))
        assert await rest_of(reader) in {b"", b"reset"}
        one_more.close()
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.05)
        assert (await ask(url)).startswith(b"HTTP/1.1 200")
    assert site.refused == {"too many connections": 1}


async def test_a_connection_does_not_live_for_long(monkeypatch):
    monkeypatch.setattr(server, "CONNECTION_LIFE_S", 0.05)
    async with server.serving_site(Site({"/page": page}), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection(*address(url))
        writer.write(b"GET /page HTTP/1.1\r\nHost: loc")
        assert await rest_of(reader) in {b"", b"reset"}
        writer.close()


async def test_an_address_that_is_taken_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with server.serving_site(Site({}), *taken.getsockname()):
            pass


async def test_it_listens_at_ipv6_too():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        async with server.serving_site(Site({"/page": page}), "::1", 0) as url:
            assert url.startswith("http://[::1]:")
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6 on loopback: {exc}")
