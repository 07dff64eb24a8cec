"""What do the simulator's tests share? A running simulator, and clients of it."""

from __future__ import annotations

import pytest
from sim_client import Client, Jumping

from rc_push.simulator.server import Simulator


@pytest.fixture
def clock():
    return Jumping()


@pytest.fixture
async def sim(clock):
    async with Simulator(now=clock) as running:
        yield running


@pytest.fixture
async def client(sim):
    one = Client(sim)
    yield one
    await one.close()


@pytest.fixture
async def socket(client):
    """Open a connection with a subscription for posts."""
    one = await client.open()
    await one.subscribe()
    return one
