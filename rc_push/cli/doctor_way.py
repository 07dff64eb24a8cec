"""Does the way to a host work? DNS, proxy, TCP, TLS, HTTP and the clock, one after the other, without credentials.

Knows networks; knows nothing of accounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from rc_push.cli.certificate import Certificate, certificate_from
from rc_push.cli.hops import Hop, Report, Rule
from rc_push.config import NetworkConfig, is_loopback
from rc_push.dial import dial, secured, words_of
from rc_push.errors import EXIT_UNREACHABLE, ConfigError, UnreachableError
from rc_push.http import Answer, Http
from rc_push.network import Proxy, proxy_for, tls_context, unverified_context

# OpenSSL's reasons against a certificate (X509_V_ERR_…).
NOT_YET_VALID, EXPIRED, WRONG_NAME = 9, 10, 62
# An answer takes part of a second, and its Date has whole ones.
CLOCK_SLACK_S = 5.0
# From here on what we record of times is wrong.
CLOCK_WRONG_S = 60.0
PEEK_WITHIN_S = 10.0


class Way:
    """The way to *url*; `look` says whether it works, and the report has the hops."""

    def __init__(self, url: str, network: NetworkConfig, report: Report, wall: Callable[[], float] = time.time) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.is_tls = parts.scheme in ("https", "wss")
        self.port = parts.port or (443 if self.is_tls else 80)
        self.target = f"{self.host}:{self.port}"
        self._url = url
        self._network = network
        self._report = report
        self._wall = wall
        self._proxy: Proxy | None = None

    async def look(self) -> bool:
        """Look at one hop after the other; return whether all of them work."""
        try:
            self._proxy = proxy_for(self._url, self._network)
        except ConfigError as exc:
            self._report.failed("proxy", self.target, exc)
            return False
        return await self._look_at_dns() and await self._look_at_connection() and await self._look_at_tls()

    async def look_at_http(self, path: str) -> bool:
        """Ask for *path*, without credentials: whatever RingCentral says, it says when."""
        try:
            answer = await asyncio.to_thread(self._get, path)
        except (UnreachableError, ConfigError) as exc:
            self._report.failed("http", self.target, exc, self._rule("HTTPS", "let HTTPS pass"))
            return False
        kind = answer.headers.get("Content-Type", "no type").partition(";")[0]
        found = f"HTTP {answer.status}, {kind}"
        if kind == "text/html" or 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's redirects
            rule = self._rule("HTTPS", "do not answer in the place of this host, and do not redirect")
            remedy = "something on the way answers: a login page, a filter"
            self._report.add(Hop("problem", "http", self.target, found, remedy, rule, EXIT_UNREACHABLE))
            return False
        self._report.ok("http", self.target, found)
        self._look_at_clock(answer.headers.get("Date", ""))
        return True

    # ----------------------------------------------------------------------------------------------------------- hops

    async def _look_at_dns(self) -> bool:
        name = self._proxy.host if self._proxy else self.host
        with contextlib.suppress(ValueError):
            self._report.ok(
                "dns", name, f"an address, nothing to resolve (version {ipaddress.ip_address(name).version})"
            )
            return True
        loop, started_at = asyncio.get_running_loop(), time.monotonic()
        try:
            async with asyncio.timeout(self._network.connect_timeout_s):
                found = await loop.getaddrinfo(name, None)
        except OSError as exc:  # a time-out is one, too
            words = str(exc.strerror or f"no answer within {self._network.connect_timeout_s:g} s")
            rule = Rule("this machine's DNS server", 53, "DNS (UDP and TCP)", f"let it resolve {name}")
            self._report.failed("dns", name, UnreachableError(words, phase="dns"), rule)
            return False
        addresses = ", ".join(sorted({str(entry[4][0]) for entry in found})[:4])
        took_ms = (time.monotonic() - started_at) * 1000
        self._report.ok("dns", name, f"{addresses} ({took_ms:.0f} ms)")
        return True

    async def _look_at_connection(self) -> bool:
        try:
            transport = await dial(self.host, self.port, self._proxy, self._network)
        except UnreachableError as exc:
            self._report.failed("proxy" if self._proxy else "connect", self.target, exc, self._connection_rule(exc))
            return False
        transport.abort()
        if self._proxy:
            self._report.ok("proxy", self.target, f"{self._proxy} lets us through")
        else:
            self._report.ok("connect", self.target, "TCP connects, without a proxy")
        return True

    def _connection_rule(self, exc: UnreachableError) -> Rule:
        if self._proxy is None:
            return self._rule("TCP", "let this machine connect")
        if "CONNECT" in str(exc) or "HTTP " in str(exc) or "SOCKS" in str(exc):
            return self._rule(f"through the proxy {self._proxy}", "let this machine connect through the proxy")
        return Rule(self._proxy.host, self._proxy.port, "TCP", "let this machine reach its proxy")

    async def _look_at_tls(self) -> bool:
        if not self.is_tls:
            self._report.skipped("tls", self.target, "there is none: this machine itself")
            return is_loopback(self.host)
        try:
            spoken = await self._handshake(tls_context(self._network))
        except ssl.SSLCertVerificationError as exc:
            await self._tell_distrust(exc)
        except UnreachableError as exc:
            self._report.failed("tls", self.target, exc)
        except OSError as exc:
            remedy = "TLS is cut on the way, or a client certificate is asked for (network.client_certificate)"
            rule = self._rule("TLS", "let TLS pass, whatever server name it asks for")
            self._report.add(Hop("problem", "tls", self.target, words_of(exc), remedy, rule, EXIT_UNREACHABLE))
        else:
            self._report.ok("tls", self.target, spoken)
            return True
        return False

    async def _handshake(self, context: ssl.SSLContext) -> str:
        """Return what was agreed on, for people."""
        transport = await self._secured(context, asyncio.Protocol())
        try:
            spoken: ssl.SSLObject = transport.get_extra_info("ssl_object")
            certificate = certificate_from(spoken.getpeercert(binary_form=True) or b"")
            by = f"{certificate.issuer}, until {certificate.not_after:%Y-%m-%d}" if certificate else "nobody"
            return f"{spoken.version()}, certificate by {by}"
        finally:
            transport.abort()

    async def _secured(self, context: ssl.SSLContext, protocol: asyncio.Protocol) -> asyncio.Transport:
        transport = await dial(self.host, self.port, self._proxy, self._network)
        async with asyncio.timeout(self._network.connect_timeout_s):
            return await secured(transport, protocol, context, self.host)

    async def _tell_distrust(self, exc: ssl.SSLCertVerificationError) -> None:
        """Tell why the certificate is not trusted: whose it is, and what the clock has to do with it."""
        certificate, date = await self._peek()
        found = exc.verify_message
        if certificate:
            found += f"; it is by {certificate.issuer}"
        rule = self._rule("TLS", "do not intercept TLS")
        remedy = "something on the way speaks TLS in the place of this host. Is it your company's? Then name its"
        remedy += " authority in network.ca_file, or add that to the system's. If not, do not go on"
        if exc.verify_code in (NOT_YET_VALID, EXPIRED) and certificate:
            found += f", from {certificate.not_before:%Y-%m-%d} until {certificate.not_after:%Y-%m-%d}"
            remedy = "set this machine's clock, or have the certificate renewed"
            self._look_at_clock(date)
        self._report.add(Hop("problem", "tls", self.target, found, remedy, rule, EXIT_UNREACHABLE))

    async def _peek(self) -> tuple[Certificate | None, str]:
        """Return whose certificate answers, and its Date, from a connection that carries nothing of ours."""
        head = _Head()
        try:
            async with asyncio.timeout(PEEK_WITHIN_S / 2):
                transport = await self._secured(unverified_context(self._network), head)
        except (OSError, UnreachableError):
            return None, ""
        try:
            der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            transport.write(f"HEAD / HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(head.ended.wait(), PEEK_WITHIN_S / 2)
        finally:
            transport.abort()
        return certificate_from(der or b""), head.value_of("date")

    def _get(self, path: str) -> Answer:
        from requests import Request

        http = Http(self._network)
        try:
            return http.send(Request("GET", f"{'https' if self.is_tls else 'http'}://{self.target}{path}"))
        finally:
            http.close()

    def _look_at_clock(self, date: str) -> None:
        """Compare this machine's clock with the *date* of an answer."""
        try:
            there = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            self._report.skipped("clock", self.target, "the answer has no Date to compare with")
            return
        skew_s = self._wall() - there.replace(tzinfo=there.tzinfo or UTC).timestamp()
        if abs(skew_s) <= CLOCK_SLACK_S:
            self._report.ok("clock", self.target, "right")
            return
        now = datetime.fromtimestamp(self._wall(), UTC)
        found = (
            f"{abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}: {now:%H:%M:%S} here, {there:%H:%M:%S} there"
        )
        is_wrong = abs(skew_s) > CLOCK_WRONG_S
        rule = (
            Rule("a time server of yours", 123, "NTP (UDP)", "let this machine ask for the time") if is_wrong else None
        )
        remedy = "have this machine's clock set: timedatectl set-ntp true"
        self._report.add(Hop("problem" if is_wrong else "warning", "clock", self.target, found, remedy, rule))

    def _rule(self, protocol: str, ask: str) -> Rule:
        return Rule(self.host, self.port, protocol, ask)


class _Head(asyncio.Protocol):
    """The head of an answer. *ended* is set once it is there, or never will be."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data = (self._data + data)[: 16 << 10]
        if b"\r\n\r\n" in self._data:
            self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.ended.set()

    def value_of(self, name: str) -> str:
        """Return the value of a header; empty where it is not there."""
        for line in self._data.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n"):
            header, _, value = line.partition(":")
            if header.strip().lower() == name:
                return value.strip()
        return ""
