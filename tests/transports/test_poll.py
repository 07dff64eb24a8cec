"""How one long poll goes: over which way, for how long, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from rc_push.config import NetworkConfig
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.network import SharedTls
from rc_push.protocol.pubnub import Answer, Message
from rc_push.transports import poll as polling
from rc_push.transports.poll import PubNubPoller

# A name that no resolver knows: whoever reaches it has come through the proxy.
HOST = "ps.example.test"
KEY, CHANNEL = "sub-c-planted", "54770517599294_planted"
SAID = {"t": {"t": "14818963573055360", "r": 12}, "m": [{"c": CHANNEL, "d": "text", "p": {"t": "14818963573025400"}}]}
WITHIN_S = 10.0


class Server:
    """An HTTP/1.1 server with one answer for all: bytes, None = none ever, or a JSON value."""

    def __init__(self, said: object = SAID, status: int = 200) -> None:
        self.said = said
        self.status = status
        self.targets: list[str] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.targets.append(head.split(b" ")[1].decode())
                self.asked.set()
                if self.said is None:
                    await reader.read()
                    break
                body = self.said if isinstance(self.said, bytes) else json.dumps(self.said).encode()
                writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%b" % (self.status, len(body), body))
        self.left.set()

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


class Proxy(Server):
    """An HTTP proxy that leads every CONNECT to one port of this machine."""

    def __init__(self, to_port: int) -> None:
        super().__init__()
        self.to_port = to_port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        method, target, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
        self.targets.append(f"{method} {target}")
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        yield server
    async with asyncio.timeout(WITHIN_S):
        await server.end()


@contextlib.asynccontextmanager
async def poller_of(
    origin: str, network: NetworkConfig | None = None, tls: SharedTls | None = None
) -> AsyncIterator[PubNubPoller]:
    poller = PubNubPoller(KEY, origin, network or NetworkConfig(), tls)
    try:
        yield poller
    finally:
        await poller.close()
        await asyncio.sleep(0)
        gc.collect()  # what was left open would warn now


@contextlib.asynccontextmanager
async def answered(said: object = SAID, status: int = 200) -> AsyncIterator[tuple[Server, PubNubPoller]]:
    async with (
        running(Server(said, status)) as server,
        poller_of(f"127.0.0.1:{server.port}") as poller,
        asyncio.timeout(WITHIN_S),
    ):
        yield server, poller


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
async def behind_proxy(authority) -> AsyncIterator[tuple[Server, Proxy]]:
    """Run a PubNub with TLS that only a proxy leads to."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    async with running(Server(), context) as server, running(Proxy(server.port)) as proxy, asyncio.timeout(WITHIN_S):
        yield server, proxy


@pytest.fixture
def without_proxies(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# ------------------------------------------------------------------------------------------------------- one exchange


async def test_a_poll_says_where_it_goes_on_and_an_answer_is_taken_as_it_is():
    async with answered() as (server, poller):
        answer = await poller.poll(CHANNEL, "14818963571353315", 12)
    assert answer == Answer("14818963573055360", 12, [Message("text", 1481896357302)])
    (target,) = server.targets
    query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
    assert urlsplit(target).path == f"/v2/subscribe/{KEY}/{CHANNEL}/0"
    assert (query.pop("tt"), query.pop("tr"), query.pop("uuid")) == ("14818963571353315", "12", "rc-push")
    assert query.keys() == {"pnsdk"}


async def test_one_connection_serves_one_poll_after_the_other_and_no_goodbye_is_sent():
    async with answered() as (server, poller):
        for _ in range(3):
            await poller.poll(CHANNEL, "0", 0)
    assert len(server._tasks) == 1
    assert [urlsplit(target).path for target in server.targets] == [f"/v2/subscribe/{KEY}/{CHANNEL}/0"] * 3
    assert "tr=" not in server.targets[0]


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 502, 503])
async def test_another_status_is_unreachable_and_only_the_status_is_told(status):
    async with answered({"message": f"Forbidden {CHANNEL}", "status": status, "error": True}, status) as (_, poller):
        with pytest.raises(UnreachableError) as caught:
            await poller.poll(CHANNEL, "1", 1)
    assert str(caught.value) == f"PubNub answered the poll with HTTP {status}"


@pytest.mark.parametrize("body", [b"<html>blocked by your firewall</html>", b"", b'{"t":', b"\xff\xfe"])
async def test_what_is_no_json_is_worth_another_try(body):
    async with answered(body) as (_, poller):
        with pytest.raises((UnreachableError, ProtocolError)) as caught:
            await poller.poll(CHANNEL, "1", 1)
    assert CHANNEL not in repr(caught.value)
    assert KEY not in repr(caught.value)


async def test_json_without_a_place_is_a_protocol_error():
    async with answered([[], "14818963573055360"]) as (_, poller):
        with pytest.raises(ProtocolError, match="timetoken"):
            await poller.poll(CHANNEL, "1", 1)


async def test_nothing_of_a_poll_is_logged(caplog):
    caplog.set_level(logging.DEBUG, "pubnub")
    logging.getLogger("pubnub").setLevel(logging.CRITICAL)  # as the module has it
    async with answered() as (_, poller):
        await poller.poll(CHANNEL, "1", 1)
    async with answered({}, 500) as (_, poller):
        with pytest.raises(UnreachableError):
            await poller.poll(CHANNEL, "1", 1)
    assert [record for record in caplog.records if record.name == "pubnub"] == []


# ------------------------------------------------------------------------------------------------------------ the end


async def test_a_poll_that_nobody_answers_ends_by_itself(monkeypatch):
    monkeypatch.setattr(polling, "POLL_WITHIN_S", 1)  # the package takes whole seconds only
    async with answered(None) as (_, poller):
        with pytest.raises(UnreachableError, match="PubNub: "):
            await poller.poll(CHANNEL, "1", 1)


@pytest.mark.parametrize(("configured_s", "used_s"), [(10.0, 10), (2.5, 3), (0.1, 1)])
async def test_the_time_for_connecting_is_the_configured_one_in_whole_seconds(configured_s, used_s):
    async with poller_of("127.0.0.1:1", NetworkConfig(connect_timeout_s=configured_s)) as poller:
        assert poller._client.config.connect_timeout == used_s
        assert poller._client.config.subscribe_request_timeout == polling.POLL_WITHIN_S == 310


async def test_a_cancelled_poll_is_cancelled_and_lets_go_of_its_connection():
    async with answered(None) as (server, poller):
        task = asyncio.create_task(poller.poll(CHANNEL, "1", 1))
        await server.asked.wait()
        started = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await server.left.wait()
    assert time.monotonic() - started < 10


async def test_a_deadline_around_a_poll_is_a_deadline():
    async with answered(None) as (_, poller):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await poller.poll(CHANNEL, "1", 1)


async def test_a_cut_connection_is_unreachable_and_the_next_poll_makes_another():
    async with answered() as (server, poller):
        server.said = None
        task = asyncio.create_task(poller.poll(CHANNEL, "1", 1))
        await server.asked.wait()
        for serving in server._tasks:
            serving.cancel()
        await asyncio.gather(*server._tasks, return_exceptions=True)
        server._tasks.clear()
        with pytest.raises(UnreachableError, match="PubNub: RemoteProtocolError"):
            await task
        server.said = SAID
        assert (await poller.poll(CHANNEL, "1", 1)).messages


async def test_one_that_was_never_used_is_closed_too():
    async with poller_of(HOST):
        pass


async def test_one_that_is_closed_leaves_no_task_behind():
    before = asyncio.all_tasks()
    async with answered() as (_, poller):
        await poller.poll(CHANNEL, "1", 1)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


# ------------------------------------------------------------------------------------------------------------ the way


async def test_a_configured_proxy_and_authority_lead_to_pubnub(behind_proxy, ca_file, without_proxies):
    server, proxy = behind_proxy
    network = NetworkConfig(proxy=f"http://127.0.0.1:{proxy.port}", ca_file=ca_file)
    async with poller_of(HOST, network) as poller:
        assert (await poller.poll(CHANNEL, "1", 1)).messages
    assert proxy.targets == [f"CONNECT {HOST}:443"]
    assert len(server.targets) == 1


async def test_a_port_of_the_origin_is_asked_for(behind_proxy, ca_file, without_proxies):
    _, proxy = behind_proxy
    network = NetworkConfig(proxy=f"http://127.0.0.1:{proxy.port}", ca_file=ca_file)
    async with poller_of(f"{HOST}:8443", network) as poller:
        await poller.poll(CHANNEL, "1", 1)
    assert proxy.targets == [f"CONNECT {HOST}:8443"]


async def test_without_a_configured_proxy_the_environment_says(behind_proxy, ca_file, without_proxies, monkeypatch):
    _, proxy = behind_proxy
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    async with poller_of(HOST, NetworkConfig(ca_file=ca_file)) as poller:
        await poller.poll(CHANNEL, "1", 1)
    assert proxy.targets == [f"CONNECT {HOST}:443"]


async def test_an_authority_that_we_do_not_trust_is_refused(behind_proxy, without_proxies):
    server, proxy = behind_proxy
    async with poller_of(HOST, NetworkConfig(proxy=f"http://127.0.0.1:{proxy.port}")) as poller:
        with pytest.raises(UnreachableError, match="ConnectError"):
            await poller.poll(CHANNEL, "1", 1)
    assert server.targets == []


async def test_an_authority_that_is_added_after_a_refusal_counts_at_the_next_try(
    behind_proxy, ca_file, without_proxies
):
    _, proxy = behind_proxy
    trusted = ca_file.read_bytes()
    trustme.CA().cert_pem.write_to_path(ca_file)
    network = NetworkConfig(proxy=f"http://127.0.0.1:{proxy.port}", ca_file=ca_file)
    tls = SharedTls(network)
    async with poller_of(HOST, network, tls) as poller:
        with pytest.raises(UnreachableError, match="ConnectError"):
            await poller.poll(CHANNEL, "1", 1)
    ca_file.write_bytes(trusted)
    async with poller_of(HOST, network, tls) as poller:
        assert (await poller.poll(CHANNEL, "1", 1)).messages


@pytest.mark.parametrize("make_network", [lambda proxy: NetworkConfig(proxy=proxy), lambda _: NetworkConfig()])
async def test_a_proxy_that_nobody_answers_at_is_unreachable(
    make_network: Callable[[str], NetworkConfig], unused_tcp_port, without_proxies, monkeypatch
):
    proxy = f"http://127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with poller_of(HOST, make_network(proxy)) as poller:
        with pytest.raises(UnreachableError, match="PubNub: "):
            await poller.poll(CHANNEL, "1", 1)


async def test_this_machine_is_reached_without_tls_and_without_a_proxy(unused_tcp_port, monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    network = NetworkConfig(proxy=f"http://127.0.0.1:{unused_tcp_port}")
    async with running(Server()) as server, poller_of(f"127.0.0.1:{server.port}", network) as poller:
        assert (await poller.poll(CHANNEL, "1", 1)).messages
