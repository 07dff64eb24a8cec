"""A day of one account in seconds: an event loop whose clock jumps to the next timer, a RingCentral that counts."""

from __future__ import annotations

import asyncio
import json
import random
import selectors
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rc_push.errors import UnreachableError, UpgradeBlocked
from rc_push.http import Answer
from rc_push.transports import Evidence

T0 = 1_800_000_000.0
# How long a request takes to RingCentral; the answer takes no time.
LATENCY_S = (0.005, 0.2)
# A token that has just been issued is not revoked: a second refusal in a row ends a subscription.
FRESH_S = 600.0
LIMIT, WINDOW_S, PENALTY_S = 5, 60.0, 60.0


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: where nothing is ready, the clock moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen")
        if not ready and timeout:
            self.ahead_s += timeout
        return ready


class DayLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.ahead_s

    def wall(self) -> float:
        return T0 + self.time()


class InlineThreads:
    """In the place of `CallThreads`: a call runs in the loop itself, when its request has arrived."""

    def __init__(self, *_: Any) -> None:
        """Need nothing."""

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(random.uniform(*LATENCY_S))
        try:
            return call(*args)
        finally:
            await asyncio.sleep(0)  # as with a thread, what it has told the loop comes before its answer

    def stop(self) -> None:
        """Have nothing to stop."""


class NoHttp:
    """In the place of `Http`: nobody sends anything over it."""

    def __init__(self, *_: Any) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Have nothing to close."""


@dataclass
class Faults:
    """What is wrong just now."""

    network: str = ""  # the phase in which an exchange fails
    upgrade: str = ""  # "blocked", "cut", or the phase in which a connection fails
    status: int = 0  # of every answer
    revoke: float = 0.0  # how often an access token is not known any more, 0 to 1
    link_s: tuple[float, float] = (3600.0, 86_400.0)  # how long a connection lives
    others: float = 0.0  # how often somebody else has taken one of our five, 0 to 1


@dataclass
class Counting:
    """RingCentral's side of an account: tokens, the Auth group's sliding window, its penalties."""

    now: Callable[[], float]
    faults: Faults = field(default_factory=Faults)
    random: random.Random = field(default_factory=lambda: random.Random(6))
    ours: list[float] = field(default_factory=list)
    in_penalty: list[float] = field(default_factory=list)
    refused: int = 0
    connected: int = 0
    _window: deque[float] = field(default_factory=deque)
    _penalty_until: float = 0.0
    _issued: int = 0
    _issued_at: float = 0.0

    def exchange(self, path: str, *, is_ours: bool = True) -> Answer:
        """Answer one request of the Auth group."""
        if self.faults.network:
            raise UnreachableError("the network is down", phase=self.faults.network)
        now = self.now()
        if is_ours:
            self.ours.append(now)
        if now < self._penalty_until:
            self.in_penalty += [now] if is_ours else []
            return self._too_many(now)
        while self._window and self._window[0] <= now - WINDOW_S:
            self._window.popleft()
        if len(self._window) >= LIMIT:
            return self._too_many(now)
        self._window.append(now)
        if self.random.random() < self.faults.others:
            self._window.append(now)
        return self._answer(path)

    def _too_many(self, now: float) -> Answer:
        self._penalty_until = now + PENALTY_S
        self.refused += 1
        return self._said(429, {"errorCode": "CMN-301", "message": "Request rate exceeded"}, {"Retry-After": "60"})

    def _answer(self, path: str) -> Answer:
        if self.faults.status:
            return self._said(self.faults.status, {"errorCode": "CMN-201", "message": "words"})
        if path.endswith("wstoken"):
            is_fresh = self.now() < self._issued_at + FRESH_S
            if not is_fresh and self.random.random() < self.faults.revoke:
                return self._said(401, {"errorCode": "OAU-213", "message": "Token not found"})
            return self._said(200, {"ws_access_token": "w", "uri": "wss://gateway.example.test/ws", "expires_in": 30})
        self._issued += 1
        self._issued_at = self.now()
        tokens = {"access_token": f"a{self._issued}", "refresh_token": f"r{self._issued}"}
        return self._said(200, tokens | {"expires_in": 3600, "refresh_token_expires_in": 604_800, "session_id": "s"})

    def _said(self, status: int, body: dict[str, Any], more: dict[str, str] | None = None) -> Answer:
        headers = {
            "X-Rate-Limit-Group": "auth",
            "X-Rate-Limit-Limit": str(LIMIT),
            "X-Rate-Limit-Remaining": str(max(0, LIMIT - len(self._window))),
            "X-Rate-Limit-Window": f"{WINDOW_S:.0f}",
        }
        return Answer(status, headers | (more or {}), json.dumps(body).encode())


class Platform:
    """In the place of the SDK's: every call is one exchange."""

    def __init__(self, server: Counting) -> None:
        self._server = server
        self._client = self

    def auth(self) -> Any:
        return self

    def set_data(self, data: dict[str, Any]) -> None:
        """Take what an earlier process has kept; the server knows it."""

    def login(self, jwt: str) -> Answer:
        assert jwt
        return self._server.exchange("/restapi/oauth/token")

    def refresh(self) -> Answer:
        return self._server.exchange("/restapi/oauth/token")

    def create_request(self, method: str, path: str, **_: Any) -> str:
        assert method == "POST"
        return path

    def send_request(self, path: str) -> Answer:
        return self._server.exchange(path)


class DayTransport:
    """Connects as the WebSocket transport does: a token, then the upgrade, which the account hears of."""

    name = "websocket"
    recovery_window_s = 180.0

    def __init__(self, account: Any, server: Counting) -> None:
        self._account = account
        self._server = server

    @asynccontextmanager
    async def connect(self, _cursor: Any) -> Any:
        await self._account.wstoken()
        failure = self._failure()
        if failure:
            raise self._account.upgrade_failed(failure)
        self._account.upgrade_worked()
        self._server.connected += 1
        try:
            yield DayLink(self._server.random.uniform(*self._server.faults.link_s))
        finally:
            self._server.connected -= 1

    def _failure(self) -> UnreachableError | None:
        how = self._server.faults.upgrade
        if how == "blocked":
            return UpgradeBlocked("HTTP 403", status=403)
        return UnreachableError("cut", phase="upgrade" if how == "cut" else how) if how else None


class DayLink:
    """A connection that says nothing, and breaks off in the end."""

    evidence = Evidence("live", "confirmed")

    def __init__(self, lives_s: float) -> None:
        self._lives_s = lives_s

    async def read(self) -> Any:
        await asyncio.sleep(self._lives_s)
        raise UnreachableError("the connection broke off", phase="read")
