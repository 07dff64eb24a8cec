"""A simulated RingCentral behind TLS, which only a proxy leads to."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from simulated import account_config
from stub_network import Front, running

from rc_push.config import (
    AccountConfig,
    Config,
    JournalConfig,
    LogConfig,
    NetworkConfig,
    ServiceConfig,
    SubscriptionConfig,
)
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

PLATFORM, GATEWAY, PUBNUB = "platform.example.test", "gateway.example.test", "ps.example.test"
POSTS = "/team-messaging/v1/posts"


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@dataclass
class Far:
    """A RingCentral that only a proxy leads to. *routes* lead through TLS, *plain* behind it."""

    sim: Simulator
    fronts: dict[str, Front]
    plain: dict[str, int]
    ca_file: Path
    folder: Path

    @property
    def routes(self) -> dict[str, int]:
        return {f"{host}:443": front.port for host, front in self.fronts.items()}

    def network(self, proxy: str | None = None, **more: Any) -> NetworkConfig:
        return NetworkConfig(proxy=proxy, **{"ca_file": self.ca_file, "connect_timeout_s": 5.0} | more)

    def account(self, **more: Any) -> AccountConfig:
        return account_config(self.sim, **{"server": f"https://{PLATFORM}", "pubnub_origin": PUBNUB} | more)

    def config(self, network: NetworkConfig, *subscriptions: SubscriptionConfig) -> Config:
        default = (SubscriptionConfig("team", "main", event_filters=(POSTS,)),)
        return Config(
            {"main": self.account()},
            {each.name: each for each in subscriptions or default},
            {},
            JournalConfig(path=self.folder / "journal.db"),
            network,
            LogConfig(),
            ServiceConfig(),
        )


@contextlib.asynccontextmanager
async def far_away(authority: trustme.CA, ca_file: Path, folder: Path) -> AsyncIterator[Far]:
    """Run one."""
    async with contextlib.AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(knobs=Knobs(auth_limit=1000, ping_period_s=0)))
        http_port = int(sim.server.rpartition(":")[2])
        gateway_port = int(sim.state.gateway_url.rpartition(":")[2].partition("/")[0])
        ports = {PLATFORM: http_port, GATEWAY: gateway_port, PUBNUB: http_port}
        fronts = {}
        for host, port in ports.items():
            fronts[host] = Front(port)
            await stack.enter_async_context(running(fronts[host], server_context(authority, host)))
        sim.state.gateway_url = f"wss://{GATEWAY}/ws"
        yield Far(sim, fronts, {f"{host}:443": port for host, port in ports.items()}, ca_file, folder)
