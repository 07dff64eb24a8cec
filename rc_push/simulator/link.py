"""What happens on one connection to the gateway? The asyncio driver of `protocol.wsg_server.ServerSession`.

Knows tasks, timers and faults; what is said stands in the session, and what is written in `wire.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import math
from email.utils import formatdate
from typing import Literal
from urllib.parse import parse_qsl

from websockets.exceptions import ConnectionClosed

from rc_push.protocol import frames, wsg
from rc_push.protocol.wsg_server import MESSAGES, Requested
from rc_push.simulator import rest
from rc_push.simulator.answers import Answer, Call
from rc_push.simulator.faults import AbsoluteTimeout, ConnectionFault, Drop, HalfOpen, Hang, IdleTimeout, Slow
from rc_push.simulator.limits import too_many
from rc_push.simulator.state import GatewaySession, Traffic, World
from rc_push.simulator.wire import Connection

# A pong deadline below it measures the machine, not the client, whatever `speed` says.
PONG_MIN_S = 1.0


class GatewayLink:
    """One connection of one session (see `state.Link`)."""

    def __init__(self, world: World, connection: Connection, session: GatewaySession) -> None:
        self.session = session
        self.traffic = Traffic(len(world.traffic) + 1, session.wsg.session_id, world.clock.iso())
        self._world = world
        self._connection = connection
        connection.on_end = self.ended
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
            pass  # `ended` has been told
        finally:
            self.ended("stopped")
            for task in (watch, *self._requests):
                task.cancel()

    @property
    def ws_token(self) -> str:
        """The token that the connection was made with."""
        return self._connection.ws_token

    def begin(self) -> None:
        """Write ConnectionDetails, and a moment later what was kept for the connection."""
        self.flush()
        if self.session.wsg.kept:
            delay_s = self._world.clock.scaled_s(self._world.knobs.kept_after_s)
            asyncio.get_running_loop().call_later(delay_s, self._hand_over)
        else:
            self._hand_over()

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
        self.ended(why)
        self._connection.reset()

    def _hand_over(self) -> None:
        """Write what was kept; from now on notifications go straight to the client."""
        if self.session.link is self and not self.session.wsg.is_live:
            self.traffic.sent += self.session.wsg.kept
            self.session.wsg.hand_over()
            self.flush()

    def _receive(self, data: bytes) -> None:
        self.traffic.received += 1
        if self.session.link is not self:
            return
        fact = self.session.wsg.receive(bytes(data), self._world.clock.now())
        if isinstance(fact, Requested):
            self._request(fact)
        self.flush()  # undocumented: what nonsense of a client meets; here it is passed over

    def _request(self, asked: Requested) -> None:
        path, _, text = asked.path.partition("?")
        query = dict(parse_qsl(text)) | (asked.query if isinstance(asked.query, dict) else {})
        call = Call(asked.method, path, asked.body, query, gateway=self.session, oauth=self.session.oauth)
        knobs = self._world.knobs
        if len(self._requests) >= knobs.max_active_requests and knobs.above_max_requests == "refuse":
            self._world.limits.hit("maxActiveRequests", self.session.oauth.user.extension_id)
            self._answer(asked.message_id, too_many(None).answer)
            return
        delay = rest.delay_at(self._world, path)
        if delay is None:
            self._answer(asked.message_id, rest.answer(self._world, call))
            return
        task = asyncio.create_task(self._answer_later(asked.message_id, call, delay))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answer_later(self, message_id: str, call: Call, delay: Slow | Hang) -> None:
        await rest.wait(self._world, delay)
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
                async with asyncio.timeout(self._due_in_s()):
                    await self._wake.wait()
            self._wake.clear()
            self._handle_timers()
        await self._connection.close(self._world.knobs.close_code)

    def _due_in_s(self) -> float | None:
        """Return when there is something to do; None = never, since the session has left this connection."""
        if self.session.link is not self:
            return None
        return max(0.0, min(self.session.wsg.timer_at(), self._token_until()) - self._world.clock.now())

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
            message = MESSAGES.get(code, "Token not found")
            self.session.wsg.fail(code, message, bare=self._world.knobs.bare_errors)
        self._hand_over()
        self.flush()
        self._is_closing = True
        self.ended(why)
        if code in (wsg.IDLE_TIMEOUT, wsg.ABSOLUTE_TIMEOUT) and not self._world.knobs.recovers_after_timeout:
            self._world.end_session(self.session)
        self._wake.set()

    def _go_silent(self) -> None:
        """Play dead; notice it oneself when a pong is missing, and let the recovery window begin."""
        self._connection.play_dead()
        knobs, clock = self._world.knobs, self._world.clock
        if knobs.missed_pong == "close" and knobs.ping_period_s:
            noticed_after_s = clock.scaled_s(knobs.ping_period_s) + pong_within_s(self._world)
            asyncio.get_running_loop().call_later(noticed_after_s, self.ended, "pong missing")

    def ended(self, why: str) -> None:
        """Take the connection from its session, once. From now on notifications are kept."""
        if self in self._world.links:
            self._world.links.discard(self)
            self.traffic.closed_at, self.traffic.ended_by = self._world.clock.iso(), why
        if self.session.link is self:
            self.session.link = None
            self.session.wsg.disconnect(self._world.clock.now())


def pong_within_s(world: World) -> float:
    """Return how long a client has for a pong, in seconds."""
    return max(PONG_MIN_S, world.clock.scaled_s(world.knobs.pong_within_s))
