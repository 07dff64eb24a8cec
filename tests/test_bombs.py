"""What is small on the wire does not become large in memory, and what does not end is cut off."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
import requests

from rc_push import http
from rc_push.config import NetworkConfig
from rc_push.config.webhook import Place
from rc_push.envelope import Source
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.http import Http
from rc_push.payload import envelope_from_payload
from rc_push.transports import poll
from rc_push.transports.gateway import open_gateway
from rc_push.transports.poll import PubNubPoller
from rc_push.transports.webhook_server import WebhookServer

# 256 MiB of blanks, in 256 KiB; twice packed, in 1 KiB.
UNPACKED_BYTES = 256 << 20
BEARABLE_BYTES = 64 << 20
WITHIN_S = 20.0
SOURCE = Source("main", "team", "websocket")


def _packed(layers: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(UNPACKED_BYTES >> 20)) + packer.flush()
    for _ in range(layers - 1):
        packed = gzip.compress(packed)
    return packed


def _answer(layers: int) -> bytes:
    body = _packed(layers)
    encoding = ", ".join(["gzip"] * layers).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (encoding, len(body)) + body


@contextlib.asynccontextmanager
async def answering(*pieces: bytes, for_ever: bytes = b"", pause_s: float = 0.0) -> AsyncIterator[int]:
    """Answer every request with *pieces*, then *for_ever* again and again, with a pause between; give the port."""
    served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served[asyncio.current_task()] = writer
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
            while for_ever:
                writer.write(for_ever)
                await writer.drain()
                await asyncio.sleep(pause_s)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in served.values():
            writer.transport.abort()
        await asyncio.gather(*served)


@contextlib.contextmanager
def bearable():
    """Fail where more memory was needed than can be borne."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BEARABLE_BYTES, f"{peak >> 20} MiB"


async def _rest(port: int, network: NetworkConfig | None = None) -> http.Answer:
    client = Http(network or NetworkConfig())
    try:
        return await asyncio.to_thread(client.send, requests.Request("GET", f"http://127.0.0.1:{port}/restapi/v1.0"))
    finally:
        client.close()


@contextlib.asynccontextmanager
async def polling(port: int) -> AsyncIterator[PubNubPoller]:
    poller = PubNubPoller("sub-c-x", f"127.0.0.1:{port}", NetworkConfig())
    try:
        yield poller
    finally:
        await poller.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("layers", [1, 2])
async def test_an_answer_of_rest_is_not_blown_up(layers):
    async with answering(_answer(layers)) as port, asyncio.timeout(WITHIN_S):
        with bearable(), pytest.raises(ProtocolError, match="more than 8388608 bytes"):
            await _rest(port)


async def test_an_answer_of_rest_that_does_not_end_is_cut_off():
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with answering(head, for_ever=b" " * 65536) as port, asyncio.timeout(WITHIN_S):
        with bearable(), pytest.raises(ProtocolError, match="more than 8388608 bytes"):
            await _rest(port)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
async def test_an_answer_of_rest_that_drips_is_cut_off_in_time(head, drop, monkeypatch):
    monkeypatch.setattr(http, "ANSWER_TIMEOUTS", 1)
    async with answering(head, for_ever=drop, pause_s=0.05) as port, asyncio.timeout(WITHIN_S):
        with bearable(), pytest.raises(UnreachableError) as caught:
            await _rest(port, NetworkConfig(read_timeout_s=1.0))
    assert caught.value.phase == "timeout"


async def test_each_answer_of_rest_over_a_connection_has_its_own_time(monkeypatch):
    monkeypatch.setattr(http, "ANSWER_TIMEOUTS", 1)
    served = []

    async def serve(reader, writer):
        served.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.2)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    client = Http(NetworkConfig(read_timeout_s=0.5))
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(WITHIN_S):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/restapi/v1.0"
        for _ in range(4):
            assert (await asyncio.to_thread(client.send, requests.Request("GET", url))).body == b"{}"
        client.close()
        await asyncio.gather(*served)
    assert len(served) == 1


async def test_a_proxy_that_makes_no_way_is_given_up_as_soon_as_a_server_that_is_not_reached():
    async with answering(b"") as port, asyncio.timeout(WITHIN_S):
        network = NetworkConfig(proxy=f"http://127.0.0.1:{port}", connect_timeout_s=0.3, read_timeout_s=60.0)
        request = requests.Request("GET", "https://platform.example.com/restapi/v1.0")
        with pytest.raises(UnreachableError) as caught:
            await asyncio.to_thread(Http(network).send, request)
    assert caught.value.phase in ("proxy", "timeout")


async def test_a_packed_answer_of_rest_within_the_bounds_is_read():
    body = gzip.compress(b'{"records":[]}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with answering(head, body) as port, asyncio.timeout(WITHIN_S):
        assert (await _rest(port)).body == b'{"records":[]}'


@pytest.mark.parametrize("layers", [1, 2])
async def test_an_answer_of_pubnub_is_not_blown_up(layers):
    async with answering(_answer(layers)) as port, polling(port) as poller, asyncio.timeout(WITHIN_S):
        with bearable(), pytest.raises(UnreachableError, match="DecodingError"):
            await poller.poll("channel", "1", 0)


async def test_an_answer_of_pubnub_that_does_not_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(poll, "ANSWER_MAX_BYTES", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    async with answering(head, for_ever=b" " * 65536) as port, polling(port) as poller, asyncio.timeout(WITHIN_S):
        with bearable(), pytest.raises(UnreachableError, match="ReadError"):
            await poller.poll("channel", "1", 0)


async def test_a_post_to_the_webhook_server_is_not_blown_up():
    class Desk:
        tokens = (b"the-token",)
        is_validating = False
        trusted_proxies = ()

        async def deliver(self, body: bytes, remote: str) -> int:
            raise AssertionError((len(body), remote))

        def miss(self, ago_s: float) -> None:
            pass

    body = _packed(1)
    head = (
        "POST / HTTP/1.1\r\nHost: x\r\nVerification-Token: the-token\r\nContent-Type: application/json\r\n"
        f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    server = WebhookServer(Place("127.0.0.1", 0), None)
    server.desks.append(Desk())
    await server.open()
    try:
        with bearable():
            async with asyncio.timeout(WITHIN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(head.encode() + body)
                with contextlib.suppress(ConnectionResetError):  # what it does not read, it does not wait for
                    assert (await reader.read()).startswith(b"HTTP/1.1 413")
                writer.close()
        assert server.statistics().refused == {"too large": 1}
    finally:
        await server.close()


async def _gateway(extensions: str, frame: bytes) -> str:
    """Open a connection to a gateway that answers with *extensions* and sends *frame*; return the code that ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        offered.append(head)
        key = next(line for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")).split(": ")[1]
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        answer = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n{extensions}\r\n"
        )
        writer.write(answer.encode() + frame)
        with contextlib.suppress(ConnectionError):
            await reader.read(1)  # the client's close frame
        writer.close()

    offered: list[str] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(WITHIN_S):
            socket = await open_gateway(f"ws://127.0.0.1:{port}/ws?access_token=PLANTED", NetworkConfig())
            try:
                await socket.wait_closed()
            finally:
                await socket.close()
    finally:
        server.close()
    assert "permessage-deflate" not in offered[0]
    return str(socket.close_code)


async def test_a_gateway_that_packs_frames_unasked_is_not_taken():
    with bearable(), pytest.raises(UnreachableError, match="does not answer as a WebSocket does"):
        await _gateway("Sec-WebSocket-Extensions: permessage-deflate\r\n", b"")


async def test_a_packed_frame_ends_the_connection():
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(256)) + packer.flush(zlib.Z_SYNC_FLUSH)
    frame = b"\xc1\x7f" + len(packed).to_bytes(8, "big") + packed  # the bit RSV1 says: packed
    with bearable():
        assert await _gateway("", frame) == "1006"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"uuid":"1","event":"/x","body":' + b"[" * (8 << 20),
        b'{"uuid":"1","event":"/x","body":[' + b"[]," * (1 << 20) + b"1]}",
        b'{"uuid":"1","event":"/x","body":' + b"9" * (8 << 20) + b"}",
        b'{"uuid":"1","event":"/x","body":1e' + b"9" * (1 << 20) + b"}",
        b'{"uuid":"1","event":"/x","body":{' + b'"a":1,' * (1 << 20) + b'"a":1}}',
        b'{"uuid":"1","event":"/x","body":"' + b"\\u0000" * (1 << 20) + b'"}',
        b'"' * (8 << 20),
        b'{"uuid":"' + b"1" * (8 << 20) + b'","event":"/x"}',
    ],
    ids=["depth", "lists", "an integer", "an exponent", "the same key", "escapes", "quotes", "a uuid"],
)
def test_a_json_of_megabytes_takes_no_more_than_its_time(payload):
    began = time.process_time()
    taken = envelope_from_payload(payload, SOURCE, 0)
    assert time.process_time() - began < 10
    assert taken is not None
