"""What no handler calls: link-local and metadata addresses, however they are written or named."""

from __future__ import annotations

import asyncio
import socket

import pytest
from forwarding import load, opened
from hypothesis import given
from hypothesis import strategies as st
from webhook_receiver import Receiver

from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, Failed
from rc_push.handlers.reachable import AddressForbidden, guarded_socket, is_forbidden

FORBIDDEN = [
    *("169.254.169.254", "169.254.0.0", "169.254.255.255", "169.254.170.2"),
    *("fe80::1", "fe80::1%eth0", "febf:ffff::1", "FE80::1"),
    *("fd00:ec2::254", "fd00:ec2:0:0::23", "fd20:ce::254"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"),
    *("::ffff:0:169.254.169.254", "::ffff:0:a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1::100.100.100.200"),
    *("64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1::a9:fea9:fe00:0"),  # of 48, 56 and 64 bits
]
ALLOWED = [
    *("127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "203.0.113.7", "::ffff:127.0.0.1"),
    *("169.253.255.255", "169.255.0.0", "fec0::1", "fd00:ec3::254", "fd20:ce::253", "2001:db8::1", "0.0.0.0", "::"),
    *(
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1::203.0.113.7",
        "64:ff9b:2::a9fe:a9fe",
        "::fffe:0:a9fe:a9fe",
    ),
    *("localhost", "metadata.google.internal", "", "169.254.169.254.example.com"),
]
EVENT = Envelope("u", "other", b'{"uuid":"u","event":"/x"}', Source("main", "team", "websocket"), 0, 1)


@pytest.fixture
def name_server(monkeypatch):
    """Let names mean what the test says; return the dict to say it in. Nothing goes to any DNS."""
    names: dict[str, list[str]] = {}

    async def resolve(_loop, host, port, **more):
        found = names.get(host, [host])
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
            if ":" in one
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in found
        ]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", resolve)
    return names


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_link_local_or_metadata_address_is_forbidden_in_every_spelling(host):
    assert is_forbidden(host)


@pytest.mark.parametrize("host", ALLOWED)
def test_loopback_private_and_public_addresses_are_not_nor_is_a_name(host):
    assert not is_forbidden(host)


@given(st.ip_addresses(v=4, network="169.254.0.0/16"))
def test_no_address_of_the_network_is_forgotten(address):
    assert is_forbidden(str(address))
    for prefix in ("::ffff:", "::ffff:0:", "64:ff9b::", "64:ff9b:1::"):
        assert is_forbidden(f"{prefix}{address}")


@given(st.text() | st.ip_addresses().map(str))
def test_any_text_is_judged(host):
    assert is_forbidden(host) in (True, False)


@pytest.mark.parametrize("host", [host for host in FORBIDDEN if "%" not in host])
def test_a_url_that_names_one_is_a_mistake_in_the_file(host):
    url = f"http://[{host}]/latest" if ":" in host else f"http://{host}/latest"
    with pytest.raises(ConfigError, match="link-local or metadata address; allow_link_local = true allows it"):
        load(url)
    assert load(url, allow_link_local=True)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"])
async def test_a_name_that_leads_there_is_not_called(name_server, address):
    name_server["hook.example.test"] = [address]
    async with opened("http://hook.example.test/", validate=False) as handler:
        with pytest.raises(Failed, match=r"link-local or metadata address; allow_link_local = true"):
            await handler.handle(EVENT)


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"])
async def test_a_number_that_the_system_reads_as_one_is_not_called(host):
    async with opened(f"http://{host}/", validate=False) as handler:
        # aiohttp takes no such spelling since 3.14; before, the system did
        with pytest.raises(Failed, match=r"link-local or metadata address|InvalidUrlClientError"):
            await handler.handle(EVENT)


async def test_a_name_with_two_addresses_is_called_at_the_other(name_server):
    async with Receiver().running() as receiver:
        name_server["hook.example.test"] = ["169.254.169.254", "127.0.0.1"]
        async with opened(f"http://hook.example.test:{receiver.port}/", validate=False) as handler:
            await handler.handle(EVENT)
        assert len(receiver.events) == 1


async def test_a_name_that_changes_its_meaning_is_judged_at_each_connection(name_server):
    async with Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").running() as receiver:
        name_server["hook.example.test"] = ["127.0.0.1"]
        async with opened(f"http://hook.example.test:{receiver.port}/", validate=False) as handler:
            await handler.handle(EVENT)
            handler.handler._client._session.connector.clear_dns_cache()  # after its ten seconds
            name_server["hook.example.test"] = ["169.254.169.254"]
            with pytest.raises(Failed, match="link-local or metadata address"):
                await handler.handle(EVENT)
        assert len(receiver.events) == 1


async def test_loopback_is_what_it_is_for():
    async with Receiver().running() as receiver, opened(receiver.url, validate=False) as handler:
        await handler.handle(EVENT)
        assert len(receiver.events) == 1


def test_no_socket_is_made_for_one():
    with pytest.raises(AddressForbidden):
        guarded_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))
    with guarded_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))) as made:
        assert made.family == socket.AF_INET
