"""The simulator as a whole: where it listens, and how it ends."""

from __future__ import annotations

import asyncio
import time

import pytest
import requests
from sim_client import POSTS, Client

from rc_push.simulator.clock import Clock
from rc_push.simulator.emitter import Many
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_it_listens_on_loopback_only(host):
    with pytest.raises(ValueError, match=r"loopback|does not appear"):
        Simulator(host=host)


async def test_what_a_client_has_to_know_is_in_its_ready_line(sim):
    told = {"server": sim.server, "clientId": sim.client_id, "clientSecret": sim.client_secret, "jwt": sim.jwt}
    assert sim.ready.items() >= told.items()
    assert sim.server.startswith("http://127.0.0.1:")
    assert sim.jwt.count(".") == 2


async def test_each_simulator_has_credentials_of_its_own():
    assert Simulator().jwt != Simulator().jwt


async def test_a_port_can_be_chosen_and_is_free_again_afterwards():
    async with Simulator() as first:
        port = int(first.server.rpartition(":")[2])
    async with Simulator(port) as second:
        assert second.server == f"http://127.0.0.1:{port}"


async def test_it_serves_ipv6():
    try:
        sim = await Simulator(host="::1").__aenter__()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        client = Client(sim)
        await (await client.open()).subscribe()
        await client.close()
    finally:
        await sim.__aexit__()


async def test_two_simulators_do_not_know_each_other(sim):
    async with Simulator() as other:
        client = Client(sim)
        await client.login()
        client.sim = other
        assert (await client.call("GET", "/restapi/v1.0/subscription")).status_code == 401


async def test_it_ends_soon_with_clients_that_hang_stall_and_play_dead():
    started = time.monotonic()
    async with Simulator(knobs=Knobs(rate_limits=False)) as sim:
        client = Client(sim)
        for fault in ("half-open", ""):
            socket = await client.open()
            await socket.subscribe()
            socket.connection.transport.pause_reading()
            if fault:
                await client.admin("faults", {"fault": fault})
        await client.admin("events", {"count": 100_000})
        await client.admin("faults", {"fault": "hang"})
        hanging = asyncio.create_task(client.call("GET", "/restapi/v1.0/subscription"))
        await asyncio.wait([hanging], timeout=0.1)
    await asyncio.wait([hanging], timeout=5)
    assert hanging.done()
    hanging.exception()
    await client.close()
    assert time.monotonic() - started < 8


async def test_a_port_that_is_taken_is_an_os_error(sim):
    with pytest.raises(OSError, match="in use"):
        await Simulator(int(sim.server.rpartition(":")[2])).__aenter__()


def test_speed_divides_and_whole_seconds_are_at_least_one():
    clock = Clock(60)
    assert (clock.scaled_s(180), clock.whole_s(3600), clock.whole_s(30)) == (3.0, 60, 1)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_has_to_be_above_zero(speed):
    with pytest.raises(ValueError, match="speed"):
        Clock(speed)


async def test_the_first_knobs_are_the_ones_that_a_reset_brings_back(sim):
    async with Simulator(knobs=Knobs(auth_limit=7)) as other:
        other.state.knobs.turn({"auth_limit": 1})
        await other.state.reset()
        assert other.state.knobs.auth_limit == 7


async def test_requests_of_several_clients_are_served_side_by_side(sim):
    client = Client(sim)
    await client.login()
    await client.admin("faults", {"fault": "slow", "delayS": 0.3, "times": 3})
    started = time.monotonic()
    answers = await asyncio.gather(*(client.call("GET", "/restapi/v1.0/subscription") for _ in range(3)))
    assert {answer.status_code for answer in answers} == {200}
    assert time.monotonic() - started < 0.85


async def test_emission_needs_no_client(sim):
    assert len(await sim.emitter.emit_many(Many(count=10))) == 10
    assert (
        await asyncio.to_thread(lambda: requests.get(f"{sim.server}/simulator/state", timeout=5).json()["emitted"])
        == 10
    )
    assert sim.emit(POSTS)
