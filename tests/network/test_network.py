"""Which way and which trust the settings mean; and that REST, the gateway and PubNub all go that way."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from far import GATEWAY, PLATFORM, PUBNUB, Far, server_context
from simulated import Clock, Kept
from stub_network import Front, HttpProxy, Interception, SocksProxy, running

from rc_push import network as ways
from rc_push.config import NetworkConfig, Secret, SubscriptionConfig
from rc_push.errors import ConfigError, UnreachableError
from rc_push.network import SharedTls, is_exempt, proxy_for, proxy_from, tls_context
from rc_push.rest import Account
from rc_push.transports.gateway import open_gateway
from rc_push.transports.poll import PubNubPoller
from rc_push.transports.websocket import WebSocketTransport, uri_with

FAR = "https://platform.example.test/restapi"
WITHIN_S = 20.0


async def over_rest(far: Far, network: NetworkConfig) -> None:
    async with Account(far.account(), network, Kept()) as account:
        assert await account.access_token()


async def over_gateway(far: Far, network: NetworkConfig) -> None:
    try:
        await open_gateway(f"wss://{GATEWAY}/ws?access_token=none", network)
    except UnreachableError as exc:
        if exc.status != 401:  # the simulator refuses the token: it was reached
            raise


async def over_pubnub(far: Far, network: NetworkConfig) -> None:
    poller = PubNubPoller("sub-c-none", PUBNUB, network)
    try:
        await poller.poll("channel", "0", 0)
    except UnreachableError as exc:
        if "HTTP " not in str(exc):  # the simulator refuses the key: it was reached
            raise
    finally:
        await poller.close()


HOSTS = {over_rest: PLATFORM, over_gateway: GATEWAY, over_pubnub: PUBNUB}
each_way = pytest.mark.parametrize("go", HOSTS, ids=lambda go: go.__name__)
Go = Callable[[Far, NetworkConfig], Awaitable[None]]


async def reached(go: Go, far: Far, network: NetworkConfig) -> None:
    async with asyncio.timeout(WITHIN_S):
        await go(far, network)


# --------------------------------------------------------------------------------------- the same way for all of them


@each_way
async def test_the_proxy_of_the_file_is_asked_with_basic_authorization(far: Far, go: Go):
    async with running(HttpProxy(far.routes, login="us:pass:word/é")) as proxy:
        network = far.network(f"http://127.0.0.1:{proxy.port}", proxy_user="us", proxy_password=Secret("pass:word/é"))
        await reached(go, far, network)
    assert set(proxy.seen) == {f"{HOSTS[go]}:443"}


@each_way
async def test_the_proxy_of_the_environment_is_asked_with_its_login(far: Far, go: Go, monkeypatch):
    async with running(HttpProxy(far.routes, login="us:a b")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:a%20b@127.0.0.1:{proxy.port}")
        await reached(go, far, far.network())
    assert set(proxy.seen) == {f"{HOSTS[go]}:443"}


@each_way
async def test_a_proxy_that_speaks_tls_itself_is_asked_over_tls(far: Far, authority: trustme.CA, go: Go):
    async with running(HttpProxy(far.routes), server_context(authority, "127.0.0.1")) as proxy:
        await reached(go, far, far.network(f"https://127.0.0.1:{proxy.port}"))
    assert set(proxy.seen) == {f"{HOSTS[go]}:443"}


@each_way
async def test_a_socks_proxy_resolves_the_names(far: Far, go: Go):
    async with running(SocksProxy(far.routes, login="us:PLANTED")) as proxy:
        await reached(go, far, far.network(f"socks5://us:PLANTED@127.0.0.1:{proxy.port}"))
    assert set(proxy.seen) == {f"{HOSTS[go]}:443"}


@each_way
async def test_no_proxy_leads_there_directly(far: Far, go: Go, known_hosts: None):
    async with running(HttpProxy(far.routes)) as proxy:
        network = far.network(f"http://127.0.0.1:{proxy.port}", no_proxy=("example.test",))
        with pytest.raises(UnreachableError):  # this machine has nothing at port 443
            await reached(go, far, network)
    assert not proxy.seen


@each_way
async def test_an_authority_that_nobody_trusts_is_refused(far: Far, tmp_path: Path, go: Go):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with running(HttpProxy(far.routes)) as proxy:
        with pytest.raises(UnreachableError):
            await reached(go, far, far.network(f"http://127.0.0.1:{proxy.port}", ca_file=other))
    assert proxy.seen, "only TLS failed"
    assert not far.sim.state.calls


@each_way
async def test_the_authorities_of_the_environment_are_trusted_where_the_file_names_none(far: Far, go: Go, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(far.ca_file))
    async with running(HttpProxy(far.routes)) as proxy:
        await reached(go, far, far.network(f"http://127.0.0.1:{proxy.port}", ca_file=None))


@each_way
async def test_a_client_certificate_is_shown_to_who_asks(far: Far, authority: trustme.CA, tmp_path: Path, go: Go):
    ours = authority.issue_cert("rc-push.example.test")
    certificate, key = tmp_path / "client.pem", tmp_path / "client-key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in ours.cert_chain_pems))
    ours.private_key_pem.write_to_path(key)
    host = HOSTS[go]
    context = server_context(authority, host)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with (
        running(Front(far.fronts[host].to_port), context) as front,
        running(HttpProxy(far.routes | {f"{host}:443": front.port})) as proxy,
    ):
        plain = far.network(f"http://127.0.0.1:{proxy.port}", read_timeout_s=5.0)
        await reached(
            go, far, far.network(plain.proxy, client_certificate=certificate, client_key=key, read_timeout_s=5.0)
        )
        with pytest.raises(UnreachableError):
            await reached(go, far, plain)


@each_way
@pytest.mark.parametrize("status", [407, 403, 502])
async def test_a_proxy_that_refuses_is_an_error_without_the_password(far: Far, go: Go, status: int):
    async with running(HttpProxy(far.routes, status=status)) as proxy:
        with pytest.raises(UnreachableError) as caught:
            await reached(go, far, far.network(f"http://us:PLANTED@127.0.0.1:{proxy.port}"))
    assert "PLANTED" not in str(caught.value)
    if go is not over_pubnub:  # the package tells the kind of error only
        assert caught.value.phase == "proxy"
        assert f"HTTP {status}" in str(caught.value)


async def test_an_upgrade_that_is_answered_with_something_else_is_named_by_the_account(far: Far, authority: trustme.CA):
    interception = Interception(server_context(authority, PLATFORM, GATEWAY), "strip")
    async with running(HttpProxy(far.plain, interception=interception)) as proxy:
        network = far.network(f"http://127.0.0.1:{proxy.port}")
        async with Account(far.account(), network, Kept()) as account:
            token = await account.wstoken()
            with pytest.raises(UnreachableError) as caught:
                await open_gateway(uri_with(token, None), network)
            named = account.upgrade_failed(caught.value)
            assert "HTTP works, WebSocket is blocked" in str(named)
            calls = account.statistics().calls
            with pytest.raises(UnreachableError, match="WebSocket is blocked"):
                await account.wstoken()
            assert account.statistics().calls == calls, "nobody is asked for a token"


# ------------------------------------------------------------------------------------------------------ which way


def test_the_file_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://env.example.com:1")
    assert str(proxy_for(FAR, NetworkConfig())) == "http://env.example.com:1"
    assert str(proxy_for(FAR, NetworkConfig(proxy="http://file.example.com:2"))) == "http://file.example.com:2"


def test_no_proxy_of_the_file_goes_before_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "platform.example.test")
    network = NetworkConfig(proxy="http://p.example.com:1")
    assert proxy_for(FAR, network) is None
    assert proxy_for(FAR, NetworkConfig(proxy="http://p.example.com:1", no_proxy=("other.test",))) is not None


def test_all_proxy_is_taken_where_there_is_no_https_proxy(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://env.example.com")
    assert str(proxy_for(FAR, NetworkConfig())) == "socks5://env.example.com:1080"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ws://localhost:2/", "https://[::1]:3/"])
def test_this_machine_itself_is_never_reached_through_a_proxy(url: str):
    assert proxy_for(url, NetworkConfig(proxy="http://p.example.com:1")) is None


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_out"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "a.b.example.com", 443, True),
        (".example.com", "a.example.com", 443, True),
        ("*.example.com", "a.example.com", 443, True),
        ("EXAMPLE.com", "Example.Com.", 443, True),
        ("example.com", "notexample.com", 443, False),
        ("example.com:443", "example.com", 443, True),
        ("example.com:80", "example.com", 443, False),
        ("example.com:x", "example.com", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "example.com", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("[2001:db8::1]", "2001:db8::1", 443, True),
        ("2001:db8::/32", "[2001:db8::7]", 443, True),
        ("*", "anything", 1, True),
        ("", "example.com", 443, False),
        (":443", "example.com", 443, False),
        ("10.0.0.0/99", "10.0.0.1", 443, False),
    ],
)
def test_what_is_reached_without_a_proxy(entry: str, host: str, port: int, *, is_out: bool):
    assert is_exempt(host, port, [entry]) is is_out


@pytest.mark.parametrize(
    ("address", "shown", "user", "password"),
    [
        ("proxy.example.com:3128", "http://proxy.example.com:3128", "", ""),
        ("http://proxy.example.com", "http://proxy.example.com:80", "", ""),
        ("https://u%40x:p%3A@proxy.example.com", "https://proxy.example.com:443", "u@x", "p:"),
        ("socks5h://proxy.example.com", "socks5://proxy.example.com:1080", "", ""),
        ("http://[2001:db8::1]:8", "http://[2001:db8::1]:8", "", ""),
    ],
)
def test_an_address_of_a_proxy_in_every_form(address: str, shown: str, user: str, password: str):
    proxy = proxy_from(address, "network.proxy")
    assert (str(proxy), proxy.user, proxy.password) == (shown, user, password)
    assert proxy_from(proxy.url, "x") == proxy
    if user:
        assert base64.b64decode(proxy.authorization.removeprefix("Basic ")) == f"{user}:{password}".encode()
        assert password not in repr(proxy)


@pytest.mark.parametrize(
    "address", ["ftp://x", "http://", "http://x:PLANTED:y", "http://u:PLANTED@x:99999", "socks4://x"]
)
def test_what_is_no_proxy_is_told_with_its_key_and_without_a_password(address: str):
    with pytest.raises(ConfigError) as caught:
        proxy_from(address, "$HTTPS_PROXY")
    assert "$HTTPS_PROXY" in str(caught.value)
    assert "PLANTED" not in str(caught.value)


def test_a_socks_proxy_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("rc_push.network.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"rc-push\[socks\]"):
        proxy_from("socks5://x", "network.proxy")


# ------------------------------------------------------------------------------------------------------------- trust


def test_without_a_file_the_system_is_asked():
    import truststore

    context = tls_context(NetworkConfig())
    assert isinstance(context, truststore.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None):
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UnreachableError, match=r"ca\.pem") as caught:
        tls_context(NetworkConfig(ca_file=path))
    assert caught.value.phase == "tls"
    assert "network.ca_file" in str(caught.value)


def test_a_key_that_does_not_fit_or_has_a_passphrase_is_named_and_nobody_is_asked(
    tmp_path: Path, authority: trustme.CA
):
    first, second = authority.issue_cert("a.example.test"), authority.issue_cert("b.example.test")
    certificate, key = tmp_path / "client.pem", tmp_path / "key.pem"
    first.cert_chain_pems[0].write_to_path(certificate)
    second.private_key_pem.write_to_path(key)
    with pytest.raises(UnreachableError, match=r"client\.pem with .*key\.pem"):
        tls_context(NetworkConfig(ca_file=None, client_certificate=certificate, client_key=key))


def test_a_directory_of_authorities_is_taken_from_the_environment(tmp_path: Path, monkeypatch, ca_file: Path):
    folder = tmp_path / "certs"
    folder.mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))
    assert tls_context(NetworkConfig()).verify_mode == ssl.CERT_REQUIRED


@pytest.fixture
def contexts(monkeypatch) -> list[ssl.SSLContext]:
    """Keep what is read."""
    read: list[ssl.SSLContext] = []

    def reading(network: NetworkConfig) -> ssl.SSLContext:
        read.append(tls_context(network))
        return read[-1]

    monkeypatch.setattr(ways, "tls_context", reading)
    return read


def test_what_is_shared_is_read_once_for_each_that_is_spoken_to_and_anew_after_an_hour(contexts):
    clock = Clock()
    tls = SharedTls(NetworkConfig(), clock.now)
    first, proxys = tls.context(), tls.context("proxy")
    clock.jump(3590)
    assert (tls.context(), tls.context("proxy")) == (first, proxys)
    clock.jump(20)
    assert tls.context() is not first
    assert len(contexts) == 3


async def test_the_connections_of_a_subscription_share_what_was_read_until_one_fails(far: Far, contexts):
    """What a connection leaves behind goes when garbage is collected: it must not be 1 MiB each time."""
    async with running(HttpProxy(far.routes)) as proxy:
        network = far.network(f"http://127.0.0.1:{proxy.port}")
        async with Account(far.account(), network, Kept()) as account, asyncio.timeout(WITHIN_S):
            transport = WebSocketTransport(SubscriptionConfig("team", "main", "websocket"), account, network)
            for _ in range(2):
                async with transport.connect(None):
                    assert len(contexts) == 2, "REST's, and the gateway's"
            await far.sim.admin.faults({"fault": "http-error", "path": "/ws", "status": 503})
            with pytest.raises(UnreachableError):
                async with transport.connect(None):
                    pass
            async with transport.connect(None):
                assert len(contexts) == 3


async def test_rest_reads_the_authorities_anew_once_a_call_has_failed_by_them(
    far: Far, authority: trustme.CA, tmp_path: Path
):
    ca_file, other = tmp_path / "company.pem", trustme.CA()
    other.cert_pem.write_to_path(ca_file)
    async with running(HttpProxy(far.routes)) as proxy, asyncio.timeout(WITHIN_S):
        network = far.network(f"http://127.0.0.1:{proxy.port}", ca_file=ca_file)
        async with Account(far.account(), network, Kept()) as account:
            with pytest.raises(UnreachableError, match="tls"):
                await account.wstoken()
            authority.cert_pem.write_to_path(ca_file)
            await account.wstoken()


async def test_rest_reads_the_authorities_anew_after_an_hour(far: Far, contexts, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("rc_push.http.SharedTls", lambda network: SharedTls(network, clock.now))
    async with running(HttpProxy(far.routes)) as proxy, asyncio.timeout(WITHIN_S):
        network = far.network(f"http://127.0.0.1:{proxy.port}")
        async with Account(far.account(), network, Kept()) as account:
            for _ in range(2):
                await account.wstoken()
            assert len(contexts) == 1
            clock.jump(3610)
            await account.wstoken()
    assert len(contexts) == 2
