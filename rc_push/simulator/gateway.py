"""What happens on a connection to the WebSocket gateway? The asyncio driver of `protocol.wsg.ServerSession`.

Knows sockets and tasks, and how faults look on them; what is said stands in the session. A port of its own, since
faults need the transport below the WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import math
import socket
import struct
from collections.abc import Coroutine, Iterable
from email.utils import formatdate
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from rc_push.protocol import frames, wsg
from rc_push.simulator import rest
from rc_push.simulator.answers import Answer, Call, Refused
from rc_push.simulator.faults import AbsoluteTimeout, ConnectionFault, Drop, FailRecovery, HalfOpen, IdleTimeout
from rc_push.simulator.limits import too_many
from rc_push.simulator.state import GatewaySession, Traffic, World
from rc_push.simulator.tokens import OAuthSession

PATH = "/ws"
# A pong deadline below it measures the machine, not the client, whatever `speed` says.
PONG_MIN_S = 1.0
# What may wait in the transport before `drain` waits.
WRITE_LIMIT_BYTES = 256 << 10
CLOSE_WITHIN_S = 1.0

# A client that breaks off is what we are for, not an error to print.
_quiet = logging.getLogger("rc_push.simulator.websockets")
_quiet.setLevel(logging.CRITICAL)


class Connection(ServerConnection):
    """A WebSocket connection that can write many frames at once, and play dead."""

    oauth: OAuthSession | None = None
    is_silent = False

    def send_data(self) -> None:
        """Write what the protocol wants written, or lose it."""
        if self.is_silent:
            self.protocol.data_to_send()
        else:
            super().send_data()

    def write_messages(self, messages: Iterable[bytes]) -> None:
        """Write *messages*, JSON texts, in one piece; lose them where the connection is not open."""
        if self.protocol.state is State.OPEN and not self.is_silent:
            self.transport.write(text_frames(messages))

    def play_dead(self) -> None:
        """Let nothing pass any more, and TCP say nothing."""
        self.is_silent = True
        if self.keepalive_task:
            self.keepalive_task.cancel()
        self.transport.pause_reading()

    def reset(self) -> None:
        """End the TCP connection by a reset: what it still holds is lost."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def text_frames(messages: Iterable[bytes]) -> bytes:
    """Return *messages* as unmasked text frames, one after the other (RFC 6455, 5.2)."""
    parts: list[bytes] = []
    for message in messages:
        size = len(message)
        if size < 126:  # noqa: PLR2004 - RFC 6455: up to here the length stands in the second byte
            parts.append(bytes((0x81, size)))
        elif size < 1 << 16:
            parts.append(b"\x81\x7e" + size.to_bytes(2, "big"))
        else:
            parts.append(b"\x81\x7f" + size.to_bytes(8, "big"))
        parts.append(message)
    return b"".join(parts)


class GatewayLink:
    """One connection of one session (see `state.Link`)."""

    def __init__(self, world: World, connection: Connection, session: GatewaySession) -> None:
        self.session = session
        self.traffic = Traffic(len(world.traffic) + 1, session.wsg.session_id, world.clock.iso())
        self._world = world
        self._connection = connection
        self._requests: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_closing = False

    async def run(self) -> None:
        """Serve the connection until it ends."""
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                self._receive(await self._connection.recv(decode=False))
        except ConnectionClosed:
            self._end(f"closed {self._connection.close_code}")
        finally:
            self._end("stopped")
            for task in (watch, *self._requests):
                task.cancel()

    def flush(self) -> None:
        """Write what the session has to say."""
        messages = self.session.wsg.data_to_send()
        if messages:
            self._connection.write_messages(messages)

    async def drain(self) -> None:
        """Wait until the client has taken what was written, or is gone."""
        if not self._connection.is_silent:
            with contextlib.suppress(OSError):
                await self._connection.drain()

    def strike(self, fault: ConnectionFault) -> None:
        """Let *fault* happen to the connection."""
        match fault:
            case Drop(clean=True):
                self._close("drop")
            case Drop():
                self.abort("drop")
            case HalfOpen():
                self._go_silent()
            case AbsoluteTimeout():
                self._close(wsg.ABSOLUTE_TIMEOUT, wsg.ABSOLUTE_TIMEOUT)
            case IdleTimeout():
                self._close(wsg.IDLE_TIMEOUT, wsg.IDLE_TIMEOUT)

    def oauth_ended(self, how: Literal["nothing", "close", "error"]) -> None:
        """Show the client in the manner of *how* that its token or session is over."""
        if how != "nothing":
            self._close("oauth", "OAU-213" if how == "error" else "")

    def look_at_timers(self) -> None:
        """Do what has become due by a change of the world."""
        self._wake.set()

    def abort(self, why: str) -> None:
        """Let go of the connection at once."""
        self._end(why)
        self._connection.reset()

    def _receive(self, data: bytes) -> None:
        self.traffic.received += 1
        if self.session.link is not self:
            return
        fact = self.session.wsg.receive(bytes(data), self._world.clock.now())
        if isinstance(fact, wsg.Requested):
            self._request(fact)
        self.flush()  # undocumented: what nonsense of a client meets; here it is passed over

    def _request(self, asked: wsg.Requested) -> None:
        path, _, text = asked.path.partition("?")
        query = dict(parse_qsl(text)) | (asked.query if isinstance(asked.query, dict) else {})
        call = Call(asked.method, path, asked.body, query, gateway=self.session, oauth=self.session.oauth)
        knobs = self._world.knobs
        if len(self._requests) >= knobs.max_active_requests and knobs.above_max_requests == "refuse":
            self._world.limits.hit("maxActiveRequests", self.session.oauth.user.extension_id)
            self._answer(asked.message_id, too_many(None).answer)
            return
        waiting = rest.pause(self._world, path)
        if waiting is None:
            self._answer(asked.message_id, rest.answer(self._world, call))
            return
        task = asyncio.create_task(self._answer_later(asked.message_id, call, waiting))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answer_later(self, message_id: str, call: Call, waiting: Coroutine[Any, Any, object]) -> None:
        await waiting
        if self.session.link is self:
            self._answer(message_id, rest.answer(self._world, call))
            self.flush()

    def _answer(self, message_id: str, said: Answer) -> None:
        kind = frames.CLIENT_REQUEST if said.status < http.HTTPStatus.MULTIPLE_CHOICES else self._failed_type()
        headers = {"Server": "nginx", "Date": formatdate(usegmt=True), "Content-Type": "application/json"}
        content = said.content() or None
        self.session.wsg.answer(message_id, said.status, content, headers=headers | said.headers, kind=kind)

    def _failed_type(self) -> str:
        return self._world.knobs.failed_request_type

    async def _watch(self) -> None:
        """Do what is due, until it is time to close."""
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._due_at() - self._world.clock.now())):
                    await self._wake.wait()
            self._wake.clear()
            self._handle_timers()
        await self._connection.close(self._world.knobs.close_code)

    def _due_at(self) -> float:
        return min(self.session.wsg.timer_at(), self._token_until())

    def _handle_timers(self) -> None:
        now = self._world.clock.now()
        if self._is_closing or self.session.link is not self:
            return
        code = self.session.wsg.handle_timer(now)
        if code:
            self._close(code, code)
        elif now >= self._token_until():
            self.oauth_ended(self._world.knobs.on_token_expired)

    def _token_until(self) -> float:
        """Return when the client's access token expires, where that shows on the connection."""
        token, how = self.session.oauth.access, self._world.knobs.on_token_expired
        return math.inf if token is None or how == "nothing" else token.expires_at

    def _close(self, why: str, code: str = "") -> None:
        """Say the Error *code*, if there is one, then close."""
        if self._is_closing or self.session.link is not self:
            return
        if code:
            message = wsg.MESSAGES.get(code, "Token not found")
            self.session.wsg.fail(code, message, bare=self._world.knobs.bare_errors)
        self.flush()
        self._is_closing = True
        self._end(why)
        if code in (wsg.IDLE_TIMEOUT, wsg.ABSOLUTE_TIMEOUT) and not self._world.knobs.recovers_after_timeout:
            self._world.end_session(self.session)
        self._wake.set()

    def _go_silent(self) -> None:
        """Play dead; notice it oneself when a pong is missing, and let the recovery window begin."""
        self._connection.play_dead()
        knobs, clock = self._world.knobs, self._world.clock
        if knobs.missed_pong == "close" and knobs.ping_period_s:
            noticed_after_s = clock.scaled_s(knobs.ping_period_s) + _pong_within_s(self._world)
            asyncio.get_running_loop().call_later(noticed_after_s, self._end, "pong missing")

    def _end(self, why: str) -> None:
        """Take the connection from its session, once."""
        if self in self._world.links:
            self._world.links.discard(self)
            self.traffic.closed_at, self.traffic.ended_by = self._world.clock.iso(), why
        if self.session.link is self:
            self.session.link = None
            self.session.wsg.disconnect(self._world.clock.now())


class Gateway:
    """The server: `async with Gateway(world, host)`; clients find it by the `uri` that wstoken answers."""

    def __init__(self, world: World, host: str) -> None:
        self._world = world
        self._host = host
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            self._host,
            0,
            process_request=self._admit,
            create_connection=Connection,
            compression=None,
            close_timeout=CLOSE_WITHIN_S,
            write_limit=WRITE_LIMIT_BYTES,
            logger=_quiet,
            server_header=None,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self._world.gateway_url = f"ws://{self._host}:{port}{PATH}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server:
            for connection in list(self._server.handlers):
                if isinstance(connection, Connection) and connection.is_silent:
                    connection.transport.abort()
            self._server.close()
            await self._server.wait_closed()

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Decide on the upgrade (protocol.md 4.2): the token stands in the query or in a header."""
        assert isinstance(connection, Connection)  # noqa: S101 - see create_connection
        url = urlsplit(request.path)
        if url.path != PATH:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "")
        waiting = rest.pause(self._world, PATH)
        if waiting:
            await waiting
        try:
            self._world.faults.refuse(PATH)
        except Refused as refused:
            response = connection.respond(refused.answer.status, "")
            response.headers.update(refused.answer.headers)
            return response
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = dict(parse_qsl(url.query)).get("access_token", bearer)
        connection.oauth = self._world.tokens.redeem_ws_token(token)
        if connection.oauth is None and self._world.knobs.bad_ws_token == "refuse":  # noqa: S105 - no password
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "")
        self._set_pings(connection)
        return None

    def _set_pings(self, connection: Connection) -> None:
        knobs = self._world.knobs
        connection.ping_interval = self._world.clock.scaled_s(knobs.ping_period_s) or None
        connection.ping_timeout = _pong_within_s(self._world) if knobs.missed_pong == "close" else None

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)  # noqa: S101 - see create_connection
        if connection.oauth is None:
            await self._turn_away(connection, "OAU-149", "Unparsable access token", 401)
            return
        query = dict(parse_qsl(urlsplit(connection.request.path).query)) if connection.request else {}
        entry = self._enter(connection.oauth, query.get("wsc"))
        if entry is None:
            await self._turn_away(connection, wsg.MALFORMED_WSC, wsg.MESSAGES[wsg.MALFORMED_WSC], 400)
            return
        link = self._connect(connection, *entry)
        await link.run()

    def _connect(self, connection: Connection, session: GatewaySession, state: str, code: str) -> GatewayLink:
        """Begin the connection: ConnectionDetails, then what was kept, then the faults that wait for it."""
        world = self._world
        link = GatewayLink(world, connection, session)
        session.link = link
        world.links.add(link)
        world.traffic.append(link.traffic)
        link.traffic.sent = session.wsg.kept
        with_wsc = world.knobs.details_with_wsc
        session.wsg.connect(world.clock.now(), session.created_at, recovery=state, error_code=code, with_wsc=with_wsc)
        link.flush()
        fault = world.faults.take(ConnectionFault)
        if fault:
            link.strike(fault)
        return link

    def _enter(self, oauth: OAuthSession, wsc: str | None) -> tuple[GatewaySession, str, str] | None:
        """Return the session to serve, its recoveryState and its recoveryErrorCode; None where *wsc* is malformed."""
        world = self._world
        world.expire_sessions()
        if wsc is None:
            return world.open_session(oauth), "", ""
        session_id = wsc.rpartition("-")[0]
        old = world.sessions.get(session_id)
        if old is None and session_id not in world.ended_sessions:
            return None
        code = self._refusal(old, session_id, oauth, wsc)
        if old is None or code:
            if old and old.oauth is oauth:
                world.end_session(old)  # "context lost" (protocol.md 4.10)
            return world.open_session(oauth), "Failed", code
        if old.link:
            old.link.abort("replaced")
        return old, "Successful", ""

    def _refusal(self, old: GatewaySession | None, session_id: str, oauth: OAuthSession, wsc: str) -> str:
        """Return the recoveryErrorCode that the recovery of *old* meets; empty where it succeeds."""
        knobs = self._world.knobs
        fault = self._world.faults.take(FailRecovery)
        if fault:
            return fault.code
        if old is None:
            is_own = self._world.ended_sessions[session_id] == oauth.id
            return knobs.expired_window_code if is_own else wsg.OTHER_OAUTH_SESSION
        if knobs.old_wsc == "refused" and wsc != old.wsg.wsc_token:
            return knobs.expired_window_code
        if knobs.second_connection == "fails" and old.link:
            return knobs.expired_window_code
        return old.wsg.refusal_to_recover(oauth.id, self._world.clock.now(), expired_code=knobs.expired_window_code)

    async def _turn_away(self, connection: Connection, code: str, message: str, status: int) -> None:
        """Say why in an Error frame, in the place of ConnectionDetails, and close."""
        meta: dict[str, Any] = {"type": frames.ERROR}
        if not self._world.knobs.bare_errors:
            meta |= {"messageId": str(connection.id), "status": status}
        connection.write_messages([frames.encode(meta, msgspec.json.encode({"errorCode": code, "message": message}))])
        await connection.close(self._world.knobs.close_code)


def _pong_within_s(world: World) -> float:
    return max(PONG_MIN_S, world.clock.scaled_s(world.knobs.pong_within_s))
