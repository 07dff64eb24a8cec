"""When is systemd told what? On a virtual clock, with a manager that writes down what it hears."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from structlog.testing import capture_logs

from rc_push.errors import JournalError, JournalFull
from rc_push.health import PASSES_WITHIN_S
from rc_push.notify import EXTEND_START_S, PROVE_EVERY, PROVE_EVERY_S, STOP_SLACK_S, TELL_EVERY_S, Notifier
from rc_push.receive import ReceiverStatistics
from rc_push.systemd import Systemd
from rc_push.transports import Evidence

NOW = 1_800_000_000.0
WATCHDOG_S = 60.0


@dataclasses.dataclass(frozen=True)
class FakeSystemd(Systemd):
    """Writes down what it hears; does not hear anything while it is *deaf*."""

    heard: list = dataclasses.field(default_factory=list)
    deaf: list = dataclasses.field(default_factory=list)

    def _send(self, message):
        if self.deaf:
            return False
        fields = dict(line.split("=", 1) for line in message.splitlines())
        self.heard.append(fields)
        return True

    def said(self, name):
        return [fields[name] for fields in self.heard if name in fields]


class World:
    """A clock that goes on when told, a journal that answers as it is told, and one subscription."""

    def __init__(self, watchdog_s=WATCHDOG_S, address="/x"):
        self.now = NOW
        self.sleepers = []
        self.proofs = 0
        self.failure = None
        self.hangs = False
        self.receivers = [
            ReceiverStatistics("team", "websocket", Evidence("connecting", "…"), NOW, 1, 0, 0, 0, 0, None, None)
        ]
        self.systemd = FakeSystemd(address, watchdog_s)
        self.notifier = Notifier(
            self.systemd, lambda: self.receivers, self.prove, grace_s=10.0, sleep=self.sleep, wall=lambda: self.now
        )

    async def prove(self):
        self.proofs += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure:
            raise self.failure

    async def sleep(self, delay_s):
        woken = asyncio.Event()
        self.sleepers.append((self.now + delay_s, woken))
        await woken.wait()

    def become(self, state, why="confirmed", **fields):
        self.receivers = [
            dataclasses.replace(self.receivers[0], evidence=Evidence(state, why), since=self.now, **fields)
        ]

    async def pass_(self, seconds):
        """Let the clock go on, second by second."""
        for _ in range(round(seconds)):
            await self._settle()
            self.now += 1
            for entry in [entry for entry in self.sleepers if entry[0] <= self.now]:
                self.sleepers.remove(entry)
                entry[1].set()
        await self._settle()

    async def _settle(self):
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def run():
    """Start the notifiers of worlds; all are cancelled."""
    tasks = []

    async def run(world):
        tasks.append(asyncio.create_task(world.notifier.run()))
        await world._settle()
        return tasks[-1]

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------------------------------------------------------- ready


async def test_it_is_up_once_its_subscription_is_live_and_says_so_once(run):
    world = World()
    await run(world)
    await world.pass_(30)
    assert world.systemd.said("READY") == []
    world.become("live")
    await world.pass_(30)
    world.become("down", "no answer")
    await world.pass_(10)
    world.become("live")
    await world.pass_(10)
    assert world.systemd.said("READY") == ["1"]


async def test_it_is_up_when_a_subscription_is_refused_for_good_and_the_status_says_why(run):
    world = World()
    await run(world)
    world.become("down", "SUB-528: add the permission", is_final=True)
    await world.pass_(TELL_EVERY_S)
    assert world.systemd.said("READY") == ["1"]
    assert world.systemd.said("STATUS")[-1] == "refused: team (SUB-528: add the permission)"


async def test_what_systemd_could_not_take_is_said_again(run):
    world = World()
    await run(world)
    world.systemd.deaf.append(True)
    world.become("live")
    await world.pass_(5)
    world.systemd.deaf.clear()
    await world.pass_(2)
    assert world.systemd.said("READY") == ["1"]
    assert world.systemd.said("STATUS")[-1] == "live: team"


async def test_a_long_start_is_no_failure_while_it_goes_on(run):
    world = World()
    await run(world)
    await world.pass_(600)
    extended = [int(usec) / 1e6 for usec in world.systemd.said("EXTEND_TIMEOUT_USEC")]
    assert set(extended) == {EXTEND_START_S}
    assert len(extended) >= 600 / EXTEND_START_S
    world.become("live")
    await world.pass_(TELL_EVERY_S)
    world.systemd.heard.clear()
    await world.pass_(600)
    assert world.systemd.said("EXTEND_TIMEOUT_USEC") == []


async def test_a_start_that_hangs_is_not_extended(run):
    world = World()
    world.failure = JournalError("the disk is broken")
    await run(world)
    await world.pass_(600)
    assert world.systemd.said("EXTEND_TIMEOUT_USEC") == []


async def test_the_status_is_sent_when_it_changes_and_holds_no_secret(run):
    world = World()
    await run(world)
    await world.pass_(60)
    assert world.systemd.said("STATUS") == ["connecting: team (…)"]
    world.become("down", "GET https://x/?access_token=PLANTED-1 said\nauthorization: Bearer PLANTED-2")
    await world.pass_(2)
    assert len(world.systemd.said("STATUS")) == 2
    assert "PLANTED" not in str(world.systemd.heard)
    assert world.systemd.said("STATUS")[-1].startswith("down: team (GET")


# ------------------------------------------------------------------------------------------------------------- watchdog


async def test_the_watchdog_hears_of_proofs_often_enough(run):
    world = World()
    await run(world)
    await world.pass_(600)
    assert len(world.systemd.said("WATCHDOG")) == world.proofs
    assert 600 / WATCHDOG_S * 2 < world.proofs < 600 / WATCHDOG_S * 4


@pytest.mark.parametrize("failure", [JournalError("the disk is broken"), None], ids=["fails", "hangs"])
async def test_a_journal_that_does_not_work_keeps_the_watchdog_waiting_and_is_logged(run, failure):
    world = World(watchdog_s=0.1)
    world.failure, world.hangs = failure, failure is None
    with capture_logs() as logs:
        await run(world)
        async with asyncio.timeout(10):
            while not logs:  # noqa: ASYNC110 - the limit of a proof is in real time
                await asyncio.sleep(0.01)
    assert world.systemd.said("WATCHDOG") == []
    assert logs[0]["event"] == "watchdog_withheld"
    assert logs[0]["reason"] == (str(failure) if failure else "the journal does not answer within 0.03 s")
    world.failure, world.hangs = None, False
    await world.pass_(2)
    assert world.systemd.said("WATCHDOG")


async def test_a_full_disk_is_waited_out_a_restart_would_make_no_room(run):
    world = World()
    world.failure = JournalFull("no room on the disk")
    await run(world)
    await world.pass_(120)
    assert len(world.systemd.said("WATCHDOG")) == world.proofs > 2


async def test_a_receive_loop_that_has_stopped_moving_keeps_the_watchdog_waiting(run):
    world = World()
    await run(world)
    await world.pass_(PASSES_WITHIN_S)
    before = len(world.systemd.said("WATCHDOG"))
    with capture_logs() as logs:
        await world.pass_(300)
    assert len(world.systemd.said("WATCHDOG")) <= before + 1
    assert "the subscription team has been connecting since" in logs[0]["reason"]


async def test_without_a_watchdog_nothing_hangs_on_it_but_the_start_is_still_proven(run):
    world = World(watchdog_s=None)
    await run(world)
    await world.pass_(100)
    assert world.proofs == pytest.approx(100 / PROVE_EVERY_S, abs=1)
    assert len(world.systemd.said("EXTEND_TIMEOUT_USEC")) == world.proofs


def test_three_proofs_fit_into_the_time_of_the_watchdog():
    assert 3 * PROVE_EVERY < 1


# ------------------------------------------------------------------------------------------------------ reload and stop


async def test_a_reload_is_said_when_it_begins_and_when_the_last_of_them_is_done(run):
    world = World()
    await run(world)
    world.become("live")
    await world.pass_(2)
    world.systemd.heard.clear()
    with world.notifier.reloading():
        assert len(world.systemd.said("RELOADING")) == 1
        with world.notifier.reloading():
            pass
        assert world.systemd.said("READY") == []
    assert world.systemd.said("READY") == ["1"]


async def test_a_reload_before_it_is_up_does_not_make_it_look_up(run):
    world = World()
    await run(world)
    with world.notifier.reloading():
        pass
    assert world.systemd.said("RELOADING") == world.systemd.said("READY") == []


async def test_told_to_stop_it_says_so_and_how_long_that_may_take(run):
    world = World()
    task = await run(world)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.systemd.said("STOPPING") == ["1"]
    assert int(world.systemd.said("EXTEND_TIMEOUT_USEC")[-1]) == (10 + STOP_SLACK_S) * 1e6
    assert world.systemd.said("STATUS")[-1] == "told to stop: handlers finish what they have begun"


async def test_when_all_is_refused_the_last_status_is_why(run):
    world = World()
    task = await run(world)
    world.become("down", "SUB-528: add the permission", is_final=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.systemd.said("STOPPING") == ["1"]
    assert world.systemd.said("STATUS")[-1] == "refused: team (SUB-528: add the permission)"


async def test_where_no_manager_listens_it_does_nothing_and_ends():
    world = World(address="")
    async with asyncio.timeout(5):
        await world.notifier.run()
    with world.notifier.reloading():
        pass
    assert world.systemd.heard == []
    assert world.proofs == 0
