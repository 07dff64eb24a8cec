"""Who posts to us, and may they? The server where webhooks arrive: looked at as little as is needed, refused cheaply.

Knows HTTP, tokens and limits; knows nothing of what bodies mean. It is no public web server: nothing is answered with
more than its status, and only whoever knows a verification token has its body read.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from aiohttp import HttpVersion11, web

from rc_push.config.webhook import UNIX_PEER, Place
from rc_push.errors import UnreachableError
from rc_push.measures import Refusals
from rc_push.transports.webhook_connections import Connection, Connections, Doorkeeper
from rc_push.transports.webhook_door import Door
from rc_push.transports.webhook_posts import BUSY, OK
from rc_push.transports.webhook_tls import Certificate

log = structlog.get_logger()

VERIFICATION, VALIDATION = "Verification-Token", "Validation-Token"
# Of an event. Those that RingCentral documents have a few KB.
BODY_MAX_BYTES = 1 << 20
BODY_WITHIN_S = 5.0
# All of an answer to a validation has to fit into 1 024 bytes (protocol.md 6).
VALIDATION_MAX_CHARS = 512
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CONTENT_TYPES = ("application/json", "text/json")
# RingCentral keeps a connection; a proxy does, too.
KEEP_ALIVE_S = 75.0
# What a refused body gets to run out, so that the answer is seen before the connection ends.
LINGER_S = 0.5
STOP_WITHIN_S = 1.0
# The certificate's files are looked at so often, and what was refused is told.
LOOK_EVERY_S = 5.0
TELL_EVERY_S = 60.0

_HEADERS = {"Content-Type": "application/json", "Server": "rc-push"}


class Desk(Protocol):
    """Where the posts for one subscription are handed in."""

    @property
    def tokens(self) -> Sequence[bytes]:
        """The verification tokens that are ours; an old one counts until RingCentral has forgotten it."""
        ...

    @property
    def is_validating(self) -> bool:
        """Say whether RingCentral may look now whether somebody is here."""
        ...

    @property
    def trusted_proxies(self) -> Sequence[str]:
        """Whose X-Forwarded-For is believed."""
        ...

    async def deliver(self, body: bytes, remote: str) -> int:
        """Take a post in; return the HTTP status to answer with, when it is known."""
        ...

    def miss(self, ago_s: float) -> None:
        """Note that a post with one of the tokens, begun *ago_s* seconds ago, was refused or broke off unread."""
        ...


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has done. *refused* counts by reason, connections that were not let in among them.

    No reason is named as secrets are: the log would hide its count.
    """

    answered: int
    validated: int
    refused: dict[str, int]
    connections: int


class WebhookServer:
    """One place to listen, for all the subscriptions that name it."""

    def __init__(self, place: Place, certificate: Certificate | None) -> None:
        self.place = place
        self.desks: list[Desk] = []
        self._certificate = certificate
        self._answered = self._validated = 0
        self._noted_at = -TELL_EVERY_S
        self._refused = Refusals()
        self._doorkeeper = Doorkeeper(self._refused)
        self._connections = Connections(
            self._answer,
            self._doorkeeper,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
        )
        self._door = Door(place, self._connections, self._doorkeeper, certificate.context if certificate else None)
        self._looking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port; of interest where the file says 0."""
        return self._door.port

    def statistics(self) -> ServerStatistics:
        """Return what it has done so far."""
        return ServerStatistics(self._answered, self._validated, dict(self._refused), self._doorkeeper.count)

    async def open(self) -> None:
        """Listen. Raises UnreachableError where that is impossible."""
        try:
            await self._door.open()
        except OSError as exc:
            what = f"listen = {str(self.place)!r}: {exc.strerror or exc}"
            raise UnreachableError(f"{what}; end what uses it, or name another", phase="listen") from None
        self._looking = asyncio.get_running_loop().create_task(self._look(), name="webhook-look")
        log.info("webhook_listens", listen=str(self.place), tls=self._certificate is not None)

    async def close(self) -> None:
        """Stop. What is being answered gets a moment."""
        if self._looking:
            self._looking.cancel()
        await self._door.close()
        if self.place.path:
            with suppress(OSError):
                os.unlink(self.place.path)  # noqa: PTH108 - a socket
        self._connections.pre_shutdown()
        await self._connections.shutdown(STOP_WITHIN_S)
        self._tell()

    # ------------------------------------------------------------------------------------------------------- answering

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. The cheapest looks come first, and the body is read last."""
        if request.method != "POST":
            return self._refuse(405, "method", request)
        headers = request.headers
        verification, validation = headers.get(VERIFICATION), headers.get(VALIDATION)
        if validation is not None and not request.can_read_body:
            return self._validate(request, validation, verification)
        desk = self._desk_of(verification) or self._desk_of(validation)  # protocol.md 6: two spellings are documented
        if desk is None:
            return self._refuse(401, "no verification" if verification is None else "wrong verification", request)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        body, status, why = await self._read(request)
        if body is None:
            desk.miss(loop.time() - began_at)  # who it was may post it again, or not
            return self._refuse(status, why, request)
        status = await desk.deliver(body, self._remote_of(request, desk))
        if status == OK:
            self._answered += 1
            return web.Response(headers=_HEADERS)
        return self._refuse(status, "busy" if status == BUSY else "unreadable", request)

    async def _read(self, request: web.BaseRequest) -> tuple[bytes | None, int, str]:
        """Return the body, or None with the status and the reason to refuse it with."""
        if request.content_type not in CONTENT_TYPES:
            return None, 415, "content type"
        if (request.content_length or 0) > BODY_MAX_BYTES:
            return None, 413, "too large"
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                if _expects_word(request):
                    await request.writer.write(CONTINUE)
                    request.writer.output_size = 0  # for the library, an answer has not begun
                return await request.read(), OK, ""
        except web.HTTPRequestEntityTooLarge:
            return None, 413, "too large"
        except TimeoutError:
            return None, 408, "slow body"
        except web.RequestPayloadError:
            request.content.feed_eof()  # else the library reads on, and logs this as an error of ours
            return None, 400, "bad HTTP"
        except OSError:
            return None, 400, "connection lost"  # nobody hears it

    def _validate(self, request: web.BaseRequest, validation: str, verification: str | None) -> web.Response:
        """Return the token, where RingCentral has a reason to ask: a subscription is being created or renewed."""
        desks = [desk for desk in self.desks if desk.is_validating]
        if verification is not None:
            known = self._desk_of(verification)
            desks = [desk for desk in desks if desk is known]
        if not desks:
            self._note_validation(_peer_of(request))
            return self._refuse(403, "validation", request)
        if len(validation) > VALIDATION_MAX_CHARS or not validation.isascii() or not validation.isprintable():
            return self._refuse(400, "validation", request)
        self._validated += 1
        return web.Response(headers=_HEADERS | {VALIDATION: validation})

    def _note_validation(self, remote: str) -> None:
        """Say that somebody wants to know whether we are here, not more often than the refusals are told."""
        now = asyncio.get_running_loop().time()
        if now >= self._noted_at + TELL_EVERY_S:
            self._noted_at = now
            log.warning("webhook_validation_refused", remote=remote, why="no subscription is being created or renewed")

    def _desk_of(self, token: str | None) -> Desk | None:
        """Return whose token it is. Takes as long for one that is nearly right as for any other."""
        if token is None:
            return None
        given, found = token.encode("utf-8", "surrogateescape"), None
        for desk in self.desks:
            for known in desk.tokens:
                if hmac.compare_digest(given, known):
                    found = desk
        return found

    def _refuse(self, status: int, why: str, request: web.BaseRequest) -> web.Response:
        self._refused[why] += 1
        log.debug("webhook_refused", why=why, status=status, remote=_peer_of(request))
        headers = _HEADERS | ({"Retry-After": "1"} if status == BUSY else {"Allow": "POST"} if status == 405 else {})  # noqa: PLR2004
        return web.Response(status=status, headers=headers)

    def _remote_of(self, request: web.BaseRequest, desk: Desk) -> str:
        """Return who has sent it: what a proxy says, where that is trusted, else who is connected."""
        peer, trusted = _peer_of(request), desk.trusted_proxies
        if not trusted:
            return peer
        forwarded = [
            part.strip() for value in request.headers.getall("X-Forwarded-For", ()) for part in value.split(",")
        ]
        while _is_trusted(peer, trusted) and forwarded:
            nearer = forwarded.pop()
            if not _is_address(nearer):
                break
            peer = nearer
        return peer

    # --------------------------------------------------------------------------------------------------------- beside

    async def _look(self) -> None:
        """Look at the certificate, and tell what was refused, for ever."""
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + TELL_EVERY_S
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._certificate:
                self._certificate.reload()
            if loop.time() >= tell_at:
                self._tell()
                tell_at = loop.time() + TELL_EVERY_S

    def _tell(self) -> None:
        """Say what was refused since the last time."""
        if news := self._refused.news():
            log.warning("webhook_refused", listen=str(self.place), refused=news)


class WebhookServers:
    """The servers of one daemon, each there as long as a subscription needs it."""

    def __init__(self) -> None:
        self._servers: dict[str, tuple[WebhookServer, set[object]]] = {}
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def serving(self, place: Place, certificate: Certificate | None, desk: Desk) -> AsyncIterator[WebhookServer]:
        """Have *desk* served at *place*. The first of several there decides about TLS."""
        key, holder = str(place), object()
        async with self._changing:
            server, holders = self._servers.get(key, (None, set()))
            if server is None:
                server = WebhookServer(place, certificate)
                await server.open()
                self._servers[key] = server, holders
            holders.add(holder)
        server.desks.append(desk)
        try:
            yield server
        finally:
            server.desks.remove(desk)
            holders.discard(holder)
            async with self._changing:
                if not holders and self._servers.get(key, (None,))[0] is server:
                    del self._servers[key]
                    await server.close()


def _expects_word(request: web.BaseRequest) -> bool:
    """Say whether the body comes when we have asked for it only (RFC 9110, 10.1.1)."""
    return request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue"


def _peer_of(request: web.BaseRequest) -> str:
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101 - there are no others
    return connection.peer or UNIX_PEER


def _is_trusted(peer: str, trusted: Sequence[str]) -> bool:
    if peer == UNIX_PEER:
        return UNIX_PEER in trusted
    address = ipaddress.ip_address(peer.partition("%")[0])
    return any(address in ipaddress.ip_network(network) for network in trusted if network != UNIX_PEER)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
