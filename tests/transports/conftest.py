"""What do the tests of transports share? A simulator, an account of it, and the time of both."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from simulated import Clock, Kept, account_config

from rc_push.config import NetworkConfig
from rc_push.rest import Account
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def knobs() -> Knobs:
    return Knobs(rate_limits=False)


@pytest.fixture
async def sim(knobs, clock) -> AsyncIterator[Simulator]:
    async with Simulator(knobs=knobs, now=clock.now) as simulator:
        simulator.state.clock._wall = clock.wall
        yield simulator


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
async def account(sim, kept) -> AsyncIterator[Account]:
    async with Account(account_config(sim), NetworkConfig(), kept, records=kept) as opened:
        yield opened
