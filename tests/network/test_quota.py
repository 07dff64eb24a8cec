"""Whatever breaks, for a whole day: no more than five calls of the Auth group a minute, and none inside a penalty."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from answers import answered
from day import LIMIT, WINDOW_S, Counting, DayLoop, DayTransport, Faults, InlineThreads, NoHttp, Platform
from simulated import Kept

from rc_push import exchanges
from rc_push.config import AccountConfig, NetworkConfig, Secret
from rc_push.journal.store import Appended
from rc_push.receive import Receiver
from rc_push.rest import Account

DAY_S = 86_400.0
SUBSCRIPTIONS = 8
# After the last fault: what is left of a penalty, of the longest pause, and a token for each.
BACK_WITHIN_S = 900.0


class Memory(Kept):
    """What outlives a restart: sessions and limits; and a journal in which nothing stands."""

    async def note_created(self, _account: str, subscription_id: str) -> None:
        raise AssertionError(f"nothing is created over REST: {subscription_id}")

    async def cursor(self, _subscription: str) -> None:
        return None

    @answered
    async def append(self, _batch: Any) -> Appended:
        return Appended(0, 0, 0)


class Day:
    """The daemon's side: one account with its subscriptions, on a loop whose clock jumps."""

    def __init__(self, loop: DayLoop) -> None:
        self.loop = loop
        self.server = Counting(loop.time)
        self._memory = Memory()
        self._boots = 0

    async def daemon(self) -> None:
        """Run until cancelled; each start has a monotonic clock of its own."""
        self._boots += 1
        started_at = self.loop.time() - 1000.0 * self._boots
        config = AccountConfig("main", client_id="id", client_secret=Secret("s" * 9), jwt=Secret("j" * 9))
        account = Account(
            config,
            NetworkConfig(),
            self._memory,
            records=self._memory,
            now=lambda: self.loop.time() - started_at,
            wall=self.loop.wall,
        )
        async with account:
            receivers = [
                Receiver(f"s{number}", DayTransport(account, self.server), self._memory, wall=self.loop.wall)
                for number in range(SUBSCRIPTIONS)
            ]
            await asyncio.gather(*(receiver.run() for receiver in receivers))

    @contextlib.asynccontextmanager
    async def running(self):
        """Run the daemon; kill it at the end."""
        task = self.loop.create_task(self.daemon())
        try:
            yield
        finally:
            assert not task.done(), "no receive loop may end by itself"
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def most_a_minute(self) -> int:
        """Return how many of our calls lay within any one window at the most."""
        sent, most, first = self.server.ours, 0, 0
        for number, at in enumerate(sent):
            while sent[first] <= at - WINDOW_S:
                first += 1
            most = max(most, number - first + 1)
        return most


Script = Callable[[Day], Awaitable[None]]


async def constant(day: Day, **faults: Any) -> None:
    day.server.faults = Faults(**faults)
    async with day.running():
        await asyncio.sleep(DAY_S)


async def restarts(day: Day) -> None:
    """A daemon that is killed and started anew every half minute, its links broken off each time."""
    while day.loop.time() < DAY_S:
        async with day.running():
            await asyncio.sleep(day.server.random.uniform(0.0, 60.0))


async def everything(day: Day) -> None:
    """Every few minutes something else is wrong, and now and then the daemon is killed."""
    chance = day.server.random
    while day.loop.time() < DAY_S:
        async with day.running():
            for _ in range(chance.randrange(1, 10)):
                day.server.faults = chance.choice(FAULTS)
                await asyncio.sleep(chance.expovariate(1 / 200))


FAULTS = [
    Faults(),
    Faults(network="dns"),
    Faults(network="read"),
    Faults(network="timeout"),
    Faults(upgrade="blocked"),
    Faults(upgrade="cut"),
    Faults(upgrade="tls"),
    Faults(status=503),
    Faults(revoke=0.5),
    Faults(link_s=(0.0, 5.0)),
    Faults(others=0.3, link_s=(1.0, 60.0)),
]

SCRIPTS: dict[str, Script] = {
    "links that live for seconds": lambda day: constant(day, link_s=(0.0, 5.0)),
    "an upgrade that is stripped": lambda day: constant(day, upgrade="blocked"),
    "an upgrade that is cut": lambda day: constant(day, upgrade="cut"),
    "a gateway that is not reached": lambda day: constant(day, upgrade="connect"),
    "a network that is down": lambda day: constant(day, network="dns"),
    "answers that are lost": lambda day: constant(day, network="read"),
    "a server that is overloaded": lambda day: constant(day, status=503),
    "tokens that are revoked": lambda day: constant(day, revoke=0.7, link_s=(1.0, 60.0)),
    "another program with our quota": lambda day: constant(day, others=0.3, link_s=(1.0, 60.0)),
    "restarts": restarts,
    "everything": everything,
}


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch):
    loop = DayLoop()
    day = Day(loop)
    monkeypatch.setattr(exchanges, "CallThreads", InlineThreads)
    monkeypatch.setattr(exchanges, "Http", NoHttp)
    monkeypatch.setattr(exchanges, "platform_from", lambda *_: Platform(day.server))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # a day of warnings
    state = random.getstate()
    random.seed(6)
    yield day
    random.setstate(state)
    structlog.reset_defaults()
    loop.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_over_a_day_the_auth_group_gets_no_more_than_five_calls_a_minute_and_none_inside_a_penalty(
    day: Day, script: str
):
    day.loop.run_until_complete(SCRIPTS[script](day))
    assert day.loop.time() >= DAY_S
    assert day.most_a_minute() <= LIMIT
    assert day.server.in_penalty == []
    if "quota" not in script and script != "everything":
        assert day.server.refused == 0, "with the whole quota ours, there is never a penalty"


def test_a_quota_that_is_not_kept_would_be_seen(day: Day):
    answers = [day.server.exchange("/restapi/oauth/wstoken").status for _ in range(7)]
    assert answers == [200] * 5 + [429] * 2
    assert (day.most_a_minute(), len(day.server.in_penalty)) == (7, 1)


def test_while_the_upgrade_is_blocked_one_knocks_for_all_and_seldom(day: Day):
    day.loop.run_until_complete(SCRIPTS["an upgrade that is stripped"](day))
    assert 200 <= len(day.server.ours) <= 400, "about every five minutes a token, and a refresh an hour"


@pytest.mark.parametrize("fault", FAULTS[1:-2], ids=str)
def test_once_all_is_well_again_every_subscription_is_back_within_minutes(day: Day, fault: Faults):
    async def outage() -> float:
        async with day.running():
            day.server.faults = fault
            await asyncio.sleep(7200)
            day.server.faults = Faults()
            mended_at = day.loop.time()
            while day.server.connected < SUBSCRIPTIONS:
                assert day.loop.time() < mended_at + BACK_WITHIN_S
                await asyncio.sleep(1)
            return day.loop.time() - mended_at

    day.loop.run_until_complete(outage())
