"""Is all refused cheaply that is no post of ours, and nothing harmed by it? Over sockets, with a desk of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import shutil
import socket
import ssl
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from simulated import wait_for
from structlog.testing import capture_logs
from webhook_world import Poster, payload

from rc_push.config.webhook import Place
from rc_push.errors import UnreachableError
from rc_push.log import redact_fields
from rc_push.transports import webhook_connections, webhook_door, webhook_server
from rc_push.transports.webhook_server import WebhookServer, WebhookServers
from rc_push.transports.webhook_tls import Certificate

TOKEN = "the-token-of-the-desk"
OTHER = "the-token-of-another"
ANYWHERE = Place("127.0.0.1", 0)


class Desk:
    """Takes everything at once."""

    def __init__(self, *tokens: str, trusted: tuple[str, ...] = ()) -> None:
        self.tokens = [token.encode() for token in tokens]
        self.is_validating = False
        self.trusted_proxies = trusted
        self.got: list[tuple[bytes, str]] = []
        self.missed = 0

    async def deliver(self, body: bytes, remote: str) -> int:
        self.got.append((body, remote))
        return 200

    def miss(self, ago_s: float) -> None:
        assert 0.0 <= ago_s < 10.0
        self.missed += 1


@pytest.fixture
def desk() -> Desk:
    return Desk(TOKEN)


@contextlib.asynccontextmanager
async def opened(desk: Desk, place: Place = ANYWHERE, tls: Certificate | None = None) -> AsyncIterator[Any]:
    server = WebhookServer(place, tls)
    server.desks.append(desk)
    await server.open()
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def server(desk) -> AsyncIterator[WebhookServer]:
    async with opened(desk) as running:
        yield running


@pytest.fixture
async def poster(server) -> AsyncIterator[Poster]:
    one = Poster(server.port, TOKEN)
    yield one
    await one.close()


async def say(port: int, *pieces: bytes) -> bytes:
    """Send *pieces* over a connection of its own; return all that comes until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(10):
                return await reader.read()
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def status_in(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


HEAD = (
    b"POST /hook HTTP/1.1\r\nHost: x\r\nVerification-Token: the-token-of-the-desk\r\nContent-Type: application/json\r\n"
)


# --------------------------------------------------------------------------------------------------------------- posts


async def test_a_post_with_the_token_is_taken(server, desk, poster):
    status, headers = await poster.whole(payload())
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Server"] == "rc-push"  # nothing of versions
    assert desk.got == [(payload(), "127.0.0.1")]
    assert server.statistics().answered == 1


async def test_the_whole_answer_is_small(server):
    answer = await say(server.port, HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert status_in(answer) == 200
    assert len(answer) < 400


@pytest.mark.parametrize(
    ("refused", "asked"),
    [
        ((401, "wrong verification"), {"Verification_Token": "wrong"}),
        ((401, "wrong verification"), {"Verification_Token": TOKEN + "x"}),
        ((401, "wrong verification"), {"Verification_Token": "tökén"}),
        ((401, "no verification"), {"Verification_Token": ""}),
        ((401, "no verification"), {"Verification_Token": "", "Validation_Token": "wrong"}),
        ((415, "content type"), {"Content_Type": "text/plain"}),
        ((415, "content type"), {"Content_Type": "application/x-www-form-urlencoded"}),
        ((405, "method"), {"method": "GET"}),
        ((405, "method"), {"method": "PUT"}),
        ((405, "method"), {"method": "OPTIONS"}),
    ],
)
async def test_what_is_no_post_of_ours_is_refused_and_counted(server, desk, poster, refused, asked):
    status, why = refused
    assert await poster.post(payload(), **asked) == status
    assert server.statistics().refused == {why: 1}
    assert (desk.got, desk.missed) == ([], 1 if status == 415 else 0)  # nobody without a token makes us miss one


async def test_the_log_tells_how_many_of_each_were_refused(desk):
    with capture_logs() as lines:
        async with opened(desk) as server:
            poster = Poster(server.port, TOKEN)
            for _ in range(2):
                assert await poster.post(payload(), Verification_Token="wrong") == 401
            assert await poster.post(payload(), Verification_Token="") == 401
            await poster.close()
    (told,) = [line for line in lines if line["event"] == "webhook_refused" and "refused" in line]
    assert redact_fields(None, "warning", told)["refused"] == {"wrong verification": 2, "no verification": 1}


async def test_each_desk_gets_what_has_its_token_and_an_old_token_counts_too(server, desk, poster):
    other = Desk(OTHER, "an-old-one")
    server.desks.append(other)
    for token in (TOKEN, OTHER, "an-old-one"):
        poster.token = token
        assert await poster.post(payload(token)) == 200
    assert [body for body, _ in desk.got] == [payload(TOKEN)]
    assert [body for body, _ in other.got] == [payload(OTHER), payload("an-old-one")]


async def test_a_body_of_several_chunks_is_taken(server, desk, poster):
    async def pieces():
        yield b'{"uuid":'
        await asyncio.sleep(0)
        yield b'"u-1"}'

    assert await poster.post(pieces()) == 200
    assert desk.got[0][0] == b'{"uuid":"u-1"}'


EXPECTING = HEAD + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n"


async def test_who_waits_for_our_word_before_the_body_gets_it(server, desk):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(5):
        for _ in range(2):
            writer.write(EXPECTING)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert status_in(await reader.readuntil(b"\r\n\r\n")) == 200
    writer.close()
    assert (desk.got, desk.missed) == ([(b"{}", "127.0.0.1")] * 2, 0)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (EXPECTING.replace(TOKEN.encode(), b"wrong"), 401),
        (EXPECTING.replace(b"json", b"pdf"), 415),
        (EXPECTING.replace(b"Length: 2", b"Length: 2000000"), 413),
        (EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"{}", 200),  # it does not know the word
    ],
)
async def test_whose_body_is_not_wanted_gets_no_such_word(server, head, status):
    assert status_in(await say(server.port, head)) == status


async def test_many_posts_go_over_one_connection(server, poster):
    for _ in range(20):
        assert await poster.post(payload()) == 200
    assert server.statistics().connections == 1


# --------------------------------------------------------------------------------------------------------- validation


async def test_a_validation_is_answered_while_a_subscription_is_being_created(server, desk, poster):
    desk.is_validating = True
    status, headers = await poster.whole(Validation_Token="prove-it", Verification_Token="")
    assert (status, headers["Validation-Token"], headers["Content-Type"]) == (200, "prove-it", "application/json")
    assert desk.got == []
    assert server.statistics().validated == 1


async def test_a_validation_is_refused_when_nobody_has_asked_for_it(server, poster):
    status, headers = await poster.whole(Validation_Token="prove-it", Verification_Token="")
    assert status == 403
    assert "Validation-Token" not in headers
    assert server.statistics().refused == {"validation": 1}


async def test_a_validation_with_a_token_is_for_the_desk_that_has_it(server, desk, poster):
    other = Desk(OTHER)
    other.is_validating = True
    server.desks.append(other)
    assert await poster.post(Validation_Token="prove-it", Verification_Token=TOKEN) == 403
    assert await poster.post(Validation_Token="prove-it", Verification_Token="nobody's") == 403
    assert await poster.post(Validation_Token="prove-it", Verification_Token=OTHER) == 200


@pytest.mark.parametrize("length", [512, 513])
async def test_an_answer_to_a_validation_has_less_than_1024_bytes(server, desk, length):
    desk.is_validating = True
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nValidation-Token: %b\r\n\r\n"
    answer = await say(server.port, head % (b"x" * length))
    assert status_in(answer) == (200 if length == 512 else 400)
    assert len(answer) < 1024


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("announced", [True, False])
async def test_what_is_too_large_is_refused(server, desk, poster, announced):
    body = b"x" * (webhook_server.BODY_MAX_BYTES + 1)

    async def pieces():
        for begin in range(0, len(body), 65536):
            yield body[begin : begin + 65536]

    with contextlib.suppress(aiohttp.ClientError):  # the connection may end while it still sends
        assert await poster.post(io.BytesIO(body) if announced else pieces()) == 413
    assert server.statistics().refused == {"too large": 1}
    assert (desk.got, desk.missed) == ([], 1)


async def test_a_body_that_never_ends_is_cut(server, desk, monkeypatch):
    monkeypatch.setattr(webhook_server, "BODY_WITHIN_S", 0.1)
    monkeypatch.setattr(webhook_server, "LINGER_S", 0.1)
    answer = await say(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert status_in(answer) == 408
    assert server.statistics().refused == {"slow body": 1}
    assert (desk.got, desk.missed) == ([], 1)


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(webhook_server, "BODY_WITHIN_S", 0.2)


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"nonsense\r\n"),
        (b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n", b"no gzip..."),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_a_body_that_is_not_packed_as_it_should_be_is_missed_and_no_error_of_ours(
    server, desk, caplog, head, rest
):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD + b"Connection: close\r\n" + head)
    await asyncio.sleep(0.05)  # until it is known whose post it is
    writer.write(rest)
    async with asyncio.timeout(5):
        assert status_in(await reader.read()) in (400, 408)
    writer.close()
    assert (desk.got, desk.missed) == ([], 1)
    assert not caplog.records


@pytest.mark.parametrize("is_reset", [False, True])
async def test_who_goes_away_in_the_middle_of_a_body_is_counted_and_is_no_error_of_ours(server, desk, caplog, is_reset):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    if is_reset:
        writer.transport.abort()
    else:
        writer.close()
    async with asyncio.timeout(5):
        while not server.statistics().refused:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert server.statistics().refused == {"connection lost": 1}
    assert (desk.got, desk.missed) == ([], 1)
    assert not caplog.records


async def test_a_body_that_nobody_reads_has_no_token(server, desk):
    """It is refused before the body has come."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    answer = await say(server.port, head)
    assert status_in(answer) == 401
    assert desk.got == []


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where there is none
        b"GARBAGE\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        HEAD + b"X\x00Y: 1\r\n\r\n",
        HEAD + b" folded: 1\r\n\r\n",
    ],
)
async def test_what_is_no_http_ends_the_connection_and_nothing_else(server, desk, poster, nonsense):
    answer = await say(server.port, nonsense)
    assert answer == b"" or 400 <= status_in(answer) < 500
    assert desk.got == []
    assert await poster.post(payload()) == 200


async def test_who_says_nothing_is_sent_away(server, monkeypatch):
    monkeypatch.setattr(webhook_connections, "HEADERS_WITHIN_S", 0.05)
    assert await say(server.port, b"POST / HTTP/1.1\r\nHost:") == b""
    assert server.statistics().refused == {"slow headers": 1}
    await wait_for(lambda: server.statistics().connections == 0)


async def test_too_many_connections_are_ended_before_anything_is_read(server, poster, monkeypatch):
    monkeypatch.setattr(webhook_connections, "CONNECTIONS_MAX", 20)
    assert await poster.post(payload()) == 200
    streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    await wait_for(lambda: server.statistics().refused["too many connections"] == 181)
    assert server.statistics().connections == 20
    assert await poster.post(payload()) == 200  # it is connected
    for _, writer in streams:
        writer.close()
    await wait_for(lambda: server.statistics().connections == 1)


async def test_one_address_does_not_get_all_connections(desk, monkeypatch):
    monkeypatch.setattr(webhook_connections, "LOCAL", ())
    monkeypatch.setattr(webhook_connections, "CONNECTIONS_MAX_EACH", 3)
    async with opened(desk) as server:
        streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        await wait_for(lambda: server.statistics().refused.get("too many connections") == 2)
        other = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        await wait_for(lambda: server.statistics().connections == 4)
        for _, writer in (*streams, other):
            writer.close()


# ------------------------------------------------------------------------------------------------------------- senders


@pytest.mark.parametrize(
    ("trusted", "forwarded", "sender"),
    [
        ((), "203.0.113.7", "127.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.7", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.7", "203.0.113.7"),
        (("127.0.0.0/8", "10.0.0.0/8"), "198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # what is left of it, anybody could have written
        (("127.0.0.1",), "<script>", "127.0.0.1"),
        (("127.0.0.1",), "", "127.0.0.1"),
    ],
)
async def test_who_has_sent_it_is_what_a_trusted_proxy_says(desk, poster, trusted, forwarded, sender):
    desk.trusted_proxies = trusted
    assert await poster.post(payload(), X_Forwarded_For=forwarded) == 200
    assert desk.got[0][1] == sender


async def test_who_has_reset_the_connection_is_known_all_the_same(server, desk):
    desk.trusted_proxies = ("unix",)
    with socket.create_connection(("127.0.0.1", server.port)) as caller:  # the loop does not run: it waits to be taken
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.sendall(HEAD + b"X-Forwarded-For: 203.0.113.7\r\nContent-Length: 2\r\n\r\n{}")
    await wait_for(lambda: desk.got == [(b"{}", "127.0.0.1")])


# -------------------------------------------------------------------------------------------------- places to listen


async def test_a_unix_socket_is_for_the_proxys_group_and_goes_with_the_server(tmp_path):
    desk, path = Desk(TOKEN, trusted=("unix",)), tmp_path / "webhook"
    async with opened(desk, Place(path=str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        headers = {"Verification-Token": TOKEN, "Content-Type": "application/json", "X-Forwarded-For": "203.0.113.7"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.post("http://x/hook", data=payload(), headers=headers) as answer,
        ):
            assert answer.status == 200
    assert desk.got == [(payload(), "203.0.113.7")]
    assert not path.exists()


async def test_a_socket_that_a_crash_has_left_is_no_hindrance(tmp_path, desk):
    path = tmp_path / "webhook"
    async with opened(desk, Place(path=str(path))):
        os.link(path, tmp_path / "left")
    (tmp_path / "left").rename(path)
    async with opened(desk, Place(path=str(path))):
        assert path.is_socket()


async def test_subscriptions_at_one_place_share_a_server_which_ends_with_the_last(tmp_path):
    servers, place = WebhookServers(), Place(path=str(tmp_path / "webhook"))
    one, two = Desk("one"), Desk("two")
    async with servers.serving(place, None, one) as first:
        async with servers.serving(place, None, two) as second:
            assert first is second
            assert first.desks == [one, two]
        assert first.desks == [one]
        assert (tmp_path / "webhook").is_socket()
    assert not (tmp_path / "webhook").exists()
    async with servers.serving(place, None, one) as third:
        assert third is not first


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_pair(authority: trustme.CA, folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    leaf = authority.issue_cert(name)
    chain, key = folder / "chain.pem", folder / "key.pem"
    for path, parts in ((chain, leaf.cert_chain_pems), (key, [leaf.private_key_pem])):
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(part.bytes() for part in parts))
        new.chmod(0o600)
        new.rename(path)
    return chain, key


async def shown(port: int, authority: trustme.CA, **options: Any) -> dict[str, Any]:
    """Return the certificate that the server shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    authority.configure_trust(context)
    for name, value in options.items():
        setattr(context, name, value)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return dict(writer.get_extra_info("peercert"))
    finally:
        writer.close()
        await writer.wait_closed()


async def test_its_own_tls_is_1_2_or_newer(tmp_path, desk, authority):
    async with opened(desk, tls=Certificate(*write_pair(authority, tmp_path))) as server:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        headers = {"Verification-Token": TOKEN, "Content-Type": "application/json"}
        url = f"https://localhost:{server.port}/hook"
        connector = aiohttp.TCPConnector(family=2)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(url, data=payload(), headers=headers, ssl=context) as answer,
        ):
            assert answer.status == 200
        await shown(server.port, authority, maximum_version=ssl.TLSVersion.TLSv1_2)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises((ssl.SSLError, ConnectionError)):
            await shown(server.port, authority, maximum_version=ssl.TLSVersion.TLSv1_1)
    assert desk.got == [(payload(), "127.0.0.1")]


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path, desk, authority, monkeypatch):
    monkeypatch.setattr(webhook_server, "LOOK_EVERY_S", 0.02)
    async with opened(desk, tls=Certificate(*write_pair(authority, tmp_path))) as server:
        first = (await shown(server.port, authority))["serialNumber"]
        write_pair(authority, tmp_path)
        async with asyncio.timeout(10):
            while (await shown(server.port, authority))["serialNumber"] == first:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)


async def test_a_chain_without_its_key_changes_nothing(tmp_path, authority):
    certificate = Certificate(*write_pair(authority, tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(write_pair(authority, other)[0], tmp_path / "chain.pem")
    assert certificate.reload() is False
    async with opened(Desk(), tls=certificate) as server:
        assert await shown(server.port, authority)
    assert certificate.reload() is False  # looked at once


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda chain, key: chain.write_bytes(b"no certificate"), "name a chain and its key"),
        (lambda chain, key: key.chmod(0o644), "everybody can read the key"),
        (lambda chain, key: chain.unlink(), "let this user read both"),
    ],
)
def test_an_unusable_certificate_is_told_with_its_remedy(tmp_path, authority, spoil, told):
    chain, key = write_pair(authority, tmp_path)
    spoil(chain, key)
    with pytest.raises(UnreachableError, match=told):
        Certificate(chain, key)


def test_a_key_with_a_password_asks_nobody(tmp_path, authority):
    from cryptography.hazmat.primitives import serialization

    chain, key = write_pair(authority, tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(UnreachableError, match="it has a password"):
        Certificate(chain, key)


@pytest.fixture
async def secured(tmp_path, desk, authority) -> AsyncIterator[WebhookServer]:
    async with opened(desk, tls=Certificate(*write_pair(authority, tmp_path))) as running:
        yield running


async def test_tls_nonsense_is_ended_soon(secured, authority, caplog):
    answer = await say(secured.port, b"GET / HTTP/1.1\r\n\r\n")
    assert b"HTTP/1.1 200" not in answer
    assert await shown(secured.port, authority)
    assert secured.statistics().refused == {"bad TLS": 1}
    assert not caplog.records


async def test_who_says_nothing_of_tls_is_counted_from_the_start(secured, authority, monkeypatch):
    """It costs a file as anybody does."""
    monkeypatch.setattr(webhook_connections, "CONNECTIONS_MAX", 3)
    streams = [await asyncio.open_connection("127.0.0.1", secured.port) for _ in range(5)]
    await wait_for(lambda: secured.statistics().refused == {"too many connections": 2})
    assert secured.statistics().connections == 3
    for _, writer in streams:
        writer.close()
    await wait_for(lambda: secured.statistics().connections == 0)
    assert await shown(secured.port, authority)


async def test_one_address_does_not_get_all_connections_of_tls_either(secured, monkeypatch):
    monkeypatch.setattr(webhook_connections, "LOCAL", ())
    monkeypatch.setattr(webhook_connections, "CONNECTIONS_MAX_EACH", 3)
    streams = [await asyncio.open_connection("127.0.0.1", secured.port) for _ in range(5)]
    await wait_for(lambda: secured.statistics().refused == {"too many connections": 2})
    streams.append(await asyncio.open_connection("127.0.0.1", secured.port, local_addr=("127.0.0.2", 0)))
    await wait_for(lambda: secured.statistics().connections == 4)
    for _, writer in streams:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_who_does_not_finish_tls_is_sent_away(secured, monkeypatch, caplog, said):
    monkeypatch.setattr(webhook_door, "TLS_WITHIN_S", 0.05)
    assert await say(secured.port, said) == b""
    assert secured.statistics().refused == {"slow TLS": 1}
    assert secured.statistics().connections == 0
    assert not caplog.records


async def test_who_does_not_answer_the_goodbye_of_tls_is_let_go(secured, authority, monkeypatch):
    monkeypatch.setattr(webhook_door, "TLS_WITHIN_S", 0.5)
    monkeypatch.setattr(webhook_connections, "HEADERS_WITHIN_S", 0.05)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def call() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", secured.port)), server_hostname="localhost")

    with await asyncio.to_thread(call):
        await wait_for(lambda: secured.statistics().refused == {"slow headers": 1})
        await wait_for(lambda: secured.statistics().connections == 0)


async def test_who_only_looks_whether_somebody_listens_is_not_told_as_refused(secured, caplog):
    _, writer = await asyncio.open_connection("127.0.0.1", secured.port)
    await wait_for(lambda: secured.statistics().connections == 1)
    writer.close()
    await wait_for(lambda: secured.statistics().connections == 0)
    assert secured.statistics().refused == {}
    assert not caplog.records


async def test_who_has_not_finished_tls_does_not_outlive_the_server(tmp_path, desk, authority):
    async with opened(desk, tls=Certificate(*write_pair(authority, tmp_path))) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await wait_for(lambda: server.statistics().connections == 1)
    assert server.statistics().connections == 0
    assert await reader.read() == b""
    writer.close()


# ------------------------------------------------------------------------------------------------------- out of files


@contextlib.contextmanager
def without_files() -> Iterator[None]:
    """Let this process open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 8, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        yield


@contextlib.asynccontextmanager
async def left_waiting(desk: Desk) -> AsyncIterator[WebhookServer]:
    """Give a server that has no file for whoever has posted to it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as caller:
        caller.setblocking(False)
        async with opened(desk) as server:
            with without_files():
                await loop.sock_connect(caller, ("127.0.0.1", server.port))
                await loop.sock_sendall(caller, HEAD + b"Content-Length: 2\r\n\r\n{}")
                await wait_for(lambda: server.statistics().refused)
            yield server


async def test_who_comes_while_no_file_is_left_is_served_when_there_is_one(desk, monkeypatch, caplog):
    monkeypatch.setattr(webhook_door, "ACCEPT_AGAIN_S", 0.2)
    async with left_waiting(desk) as server:
        assert desk.got == []
        await wait_for(lambda: desk.got == [(b"{}", "127.0.0.1")])
        assert server.statistics().refused["too many open files"] < 5  # not one in each turn of the loop
    assert not caplog.records


async def test_a_server_that_waits_for_files_can_be_closed(desk, monkeypatch, caplog):
    monkeypatch.setattr(webhook_door, "ACCEPT_AGAIN_S", 0.05)
    async with left_waiting(desk):
        pass
    await asyncio.sleep(0.1)  # nothing of it is left that looks again
    assert (desk.got, caplog.records) == ([], [])
