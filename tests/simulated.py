"""What do the tests against the simulator share? An account of it, a store in memory, and the time of both sides."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from rc_push.config import AccountConfig, Secret
from rc_push.envelope import Cursor
from rc_push.simulator.server import Simulator

WITHIN_S = 10.0


def account_config(sim: Simulator, **more: Any) -> AccountConfig:
    """Return the settings of an account that logs in at *sim*."""
    settings = {
        "server": sim.server,
        "client_id": sim.client_id,
        "client_secret": Secret(sim.client_secret),
        "jwt": Secret(sim.jwt),
    }
    return AccountConfig("main", **settings | more)


class Kept:
    """Keeps in memory what the journal keeps beside events: OAuth sessions, limits, webhooks, what was created."""

    def __init__(self) -> None:
        self.sessions: dict[str, bytes] = {}
        self.limits: dict[str, bytes] = {}
        self.webhooks: dict[str, bytes] = {}
        self.created: list[str] = []
        self.stood: list[Cursor] = []

    async def load_session(self, account: str) -> bytes | None:
        return self.sessions.get(account)

    async def save_session(self, account: str, session: bytes) -> None:
        self.sessions[account] = session

    async def load_limits(self, account: str) -> bytes | None:
        return self.limits.get(account)

    async def save_limits(self, account: str, limits: bytes) -> None:
        self.limits[account] = limits

    async def load_webhook(self, subscription: str) -> bytes | None:
        return self.webhooks.get(subscription)

    async def load_webhooks(self) -> dict[str, bytes]:
        return dict(self.webhooks)

    async def save_webhook(self, subscription: str, state: bytes) -> None:
        self.webhooks[subscription] = state

    async def note_created(self, _account: str, subscription_id: str) -> None:
        self.created.append(subscription_id)

    async def created_subscriptions(self, _account: str) -> set[str]:
        return set(self.created)

    async def cursors(self) -> list[Cursor]:
        return list(self.stood)

    def token(self, subscription: str = "team") -> str:
        return str(json.loads(self.webhooks[subscription])["hook"]["token"])


class Clock:
    """The time of both sides, which a test moves forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return time.monotonic() + self.ahead_s

    def wall(self) -> float:
        return time.time() + self.ahead_s

    def wall_ms(self) -> int:
        return round(self.wall() * 1000)

    def jump(self, seconds: float) -> None:
        self.ahead_s += seconds


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what the simulator or the keeper does beside."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - for what has no event to wait for
            await asyncio.sleep(0.005)
