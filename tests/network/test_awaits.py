"""An exception that nobody lists, at every await of the receiving side: the loop lives, and the next event arrives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import pkgutil
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from answers import answered
from awaits import Awaits, points_in
from far import far_away
from simulated import Kept, account_config
from stub_network import HttpProxy, SocksProxy, running

from rc_push import dial, exchanges, receive, rest, sdk, threads, transports
from rc_push.config import AccountConfig, NetworkConfig, SubscriptionConfig
from rc_push.crew import transport_for
from rc_push.envelope import Batch, Cursor
from rc_push.errors import JournalFull, UnreachableError
from rc_push.journal import Journal
from rc_push.receive import Receiver
from rc_push.rest import Account
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator
from rc_push.transports import pubnub, pubnub_state, serving, successor, websocket_link
from rc_push.transports.owners import Owners
from rc_push.transports.rotation import RotatingLink, RotatingTransport

# Of the transports, those whose connections the daemon opens itself. Webhooks are posted to: what fails there is the
# answer to a post, which RingCentral sends again; and a move between ways has loops of its own.
OTHERS = ("webhook", "moving", "ways")
MODULES: list[types.ModuleType] = [
    receive,
    rest,
    exchanges,
    dial,
    threads,
    *(
        importlib.import_module(f"{transports.__name__}.{found.name}")
        for found in pkgutil.iter_modules(transports.__path__)
        if not found.name.startswith(OTHERS)
    ),
]
POINTS = points_in(MODULES)
pytestmark = [
    pytest.mark.timeout(300),  # the first test plays all scenes
    pytest.mark.long,
    # An exception in the place of a close leaves open what that would have closed, until it is found as garbage.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
POSTS, CHATS = "/team-messaging/v1/posts", "/team-messaging/v1/chats"
WITHIN_S = 20.0
# What another attempt waits for, in place of seconds and minutes.
PAUSE_S = 0.01

# Not on the way of a receive loop.
ELSEWHERE = {
    "receive.Receiver.run#1": "the supervisor's own wait for its attempt: every await inside of that is here",
    "receive.Receiver.run#2": "the loop has ended: RingCentral has refused for good",
    "receive.Receiver._admit_refusal": "the loop has ended: RingCentral has refused for good",
    "receive.Receiver._insist_on_cursor": "the journal has lost its cursor: test_receive.py",
    "rest.Account.__aenter__": "the daemon's start",
    "rest.Account.take_over": "a reload: test_crew.py, test_rest.py",
    "rest.Account._first_session": "the daemon's start, and a reload",
    "exchanges.Exchanges.open": "the daemon's start",
    "exchanges.Exchanges.take_over": "the daemon's start, and a reload",
    "exchanges.Exchanges._load_limits": "the daemon's start",
    "rest.Account._stored_session": "the daemon's start",
    "rest.Account.__aexit__": "the daemon's end",
    "rest.Account.access_token": "commands",
    "transports.poll._transport.Transport.handle_async_request#2": "an encoding that was not asked for: test_bombs.py",
    "rest.Account.revoke": "the end of `listen` and of commands",
}


def is_elsewhere(point: str) -> bool:
    return any(point == name or point.startswith(f"{name}#") for name in ELSEWHERE)


class ShownTransport(RotatingTransport):
    """Shows the link that is there, if any."""

    link: RotatingLink | None = None

    @contextlib.asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[RotatingLink]:
        async with super().connect(cursor) as link:
            self.link = link
            try:
                yield link
            finally:
                self.link = None


@dataclass
class Scene:
    """One subscription of one account, and what happens to it."""

    sim: Simulator
    account: AccountConfig
    network: NetworkConfig
    transport: str
    folder: Path
    ends: bool = False
    has_ended: bool = False
    ahead_s: float = 0.0
    filters: tuple[str, ...] = (POSTS,)

    def wall(self) -> float:
        return time.time() + self.ahead_s

    async def play(self, happen: Callable[[Scene], Awaitable[None]], begin: Callable[[], None] = lambda: None) -> None:
        """Receive while *happen* disturbs; then the next event has to arrive; then end, and all of that once more.

        *begin* is called when everything is open.
        """
        store = Kept()
        async with (
            Journal(self.folder / "journal.db") as self.journal,
            Account(self.account, self.network, store, records=self.journal, sleep=pause) as self.rest,
        ):
            self.rest._exchanges._limiter._groups["auth"].limit = 1000
            begin()
            for turn in (happen, None):
                subscription = SubscriptionConfig("team", "main", self.transport, self.filters)
                way = transport_for(_config(self), subscription, self.rest, Owners(self.journal))
                self.way = ShownTransport("team", way, sleep=pause)
                self.receiver = Receiver(
                    "team",
                    self.way,
                    self.journal,
                    account="main",
                    ends_subscription=self.ends,
                    sleep=pause,
                    wall=self.wall,
                )
                self.task = asyncio.create_task(self.receiver.run())
                try:
                    await self.receive("first")
                    if turn:
                        await turn(self)
                    if not self.has_ended:
                        await self.receive("next")
                finally:
                    self.has_ended = False
                    await self.end()

    async def receive(self, what: str) -> None:
        """Emit until an event of ours is stored: one that is emitted between two connections may be lost."""
        before = self.receiver.statistics().stored
        async with asyncio.timeout(WITHIN_S):
            while self.receiver.statistics().stored == before:
                assert not self.task.done(), f"the loop has ended before the {what} event: {self.task!r}"
                if self.receiver.statistics().evidence.state == "live":
                    self.sim.emit_sample("post.added")
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        self.task.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.result()

    async def until(self, condition: Callable[[], Any], within_s: float = WITHIN_S) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                assert not self.task.done(), f"the loop has ended: {self.task!r}"
                await asyncio.sleep(0.01)

    async def reconnect(self) -> None:
        """Have the connection cut; wait for another."""
        before = self.receiver.statistics().connections
        await self.sim.admin.faults({"fault": "drop"})
        await self.until(lambda: self.receiver.statistics().connections > before)

    async def rotate(self) -> None:
        """Have another connection take over; an attempt that breaks is repeated by the next connection."""
        before = self.receiver.statistics().connections, self.receiver.statistics().rotations

        def has_moved() -> bool:
            now = self.receiver.statistics()
            if now.connections > before[0]:
                return True
            if now.rotations == before[1]:
                self.begin_rotation()
            return now.rotations > before[1]

        await self.until(has_moved)
        await asyncio.sleep(0.05)

    def begin_rotation(self) -> None:
        """Have another connection made beside the present one, where there is one and this has not begun."""
        link = self.way.link
        if link and not link._successor and not link._past:
            link._begin("the test says so")
            link._wake()


async def pause(delay_s: float) -> None:
    await asyncio.sleep(min(delay_s, PAUSE_S))


def _config(scene: Scene) -> Any:
    return types.SimpleNamespace(accounts={"main": scene.account}, network=scene.network)


# ----------------------------------------------------------------------------------------------------- what happens


async def nothing(scene: Scene) -> None:
    """Leave it alone."""


async def cuts(scene: Scene) -> None:
    await scene.reconnect()


async def rotations(scene: Scene) -> None:
    await scene.rotate()


async def tokens_end(scene: Scene) -> None:
    """The access token is not known any more, then the whole session."""
    await scene.sim.admin.faults({"fault": "expire-token"})
    await scene.reconnect()
    await scene.receive("one after the token")
    await scene.sim.admin.faults({"fault": "revoke-session"})
    await scene.until(lambda: scene.receiver.statistics().evidence.state == "live")


async def limits(scene: Scene) -> None:
    """All calls of the minute are spent, so that logins have to wait for them."""
    scene.rest._exchanges._limiter.learn(
        "POST", "/restapi/oauth/wstoken", 429, {"Retry-After": "1"}, now=scene.rest._now()
    )
    await scene.reconnect()


async def answers_lost(scene: Scene) -> None:
    """The access token ends, and the answer to its renewal is lost."""
    real, count = sdk.refresh, itertools.count()

    def refresh(platform: Any, session: Any) -> Any:
        answer = real(platform, session)
        if next(count) == 0:
            raise UnreachableError("lost", phase="read")
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdk, "refresh", refresh)
        await scene.sim.admin.faults({"fault": "expire-token"})
        await scene.reconnect()


async def refused_for_a_while(scene: Scene) -> None:
    """Other calls have used up the minute: RingCentral says 429."""
    await scene.sim.admin.faults({"fault": "rate-limit", "path": "/restapi/oauth", "retryAfter": 1})
    await scene.reconnect()


async def disk_full(scene: Scene) -> None:
    """The journal takes nothing, for one try."""
    real, count = scene.journal.append, itertools.count()

    @answered
    async def append(batch: Any) -> Any:
        if next(count) == 0:
            raise JournalFull("no room")
        return await real(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.journal, "append", append)
        await scene.receive("one that is stored late")


async def away_for_long(scene: Scene) -> None:
    """The connection comes back after more than RingCentral keeps a session for."""
    scene.ahead_s = 1000.0
    await scene.reconnect()
    scene.ahead_s = 0.0


async def loop_late(scene: Scene) -> None:
    """The event loop was held up when a Heartbeat was due."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket_link, "LATE_S", -1000.0)
        await scene.reconnect()
        await asyncio.sleep(0.2)


async def rotation_fails(scene: Scene) -> None:
    """The second connection cannot be made at first."""
    await scene.sim.admin.faults({"fault": "http-error", "path": "/restapi/oauth/wstoken", "status": 503})
    await scene.rotate()


async def rotation_is_cut(scene: Scene) -> None:
    """The first connection is lost when the second is confirmed, but not yet proven for long enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket_link, "OVERLAP_S", 60.0)
        scene.begin_rotation()
        await scene.until(lambda: _is_confirmed(scene) or scene.receiver.statistics().connections > 1)
        await _cut_oldest(scene)
        await scene.receive("one of the second connection")


async def rotation_is_left(scene: Scene) -> None:
    """The end comes when a second connection is on its way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket_link, "OVERLAP_S", 60.0)
        scene.begin_rotation()
        await scene.until(lambda: _is_confirmed(scene) or scene.receiver.statistics().connections > 1)
        await scene.receive("one in between")
        await scene.end()
    scene.has_ended = True


async def rotation_is_full(scene: Scene) -> None:
    """More comes over the second connection than can be held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(successor, "HELD_MAX_BYTES", 1)
        patch.setattr(websocket_link, "OVERLAP_S", 1.0)
        scene.begin_rotation()
        for _ in range(20):
            scene.sim.emit_sample("post.added")
            await asyncio.sleep(0.05)
    await scene.rotate()


@contextlib.asynccontextmanager
async def slow_goodbye(scene: Scene) -> AsyncIterator[None]:
    """A second connection has taken over, and the first one takes its time to end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("close", "leave"):
            real = getattr(websocket_link.WebSocketLink, name)

            async def slow(link: Any, real: Any = real) -> Any:
                await asyncio.sleep(0.2)
                return await real(link)

            patch.setattr(websocket_link.WebSocketLink, name, slow)
        before = scene.receiver.statistics()
        scene.begin_rotation()
        await scene.until(
            lambda: (
                scene.receiver.statistics().rotations > before.rotations
                or scene.receiver.statistics().connections > before.connections
            )
        )
        yield


async def goodbye_and_cut(scene: Scene) -> None:
    async with slow_goodbye(scene):
        await scene.reconnect()


async def goodbye_and_end(scene: Scene) -> None:
    async with slow_goodbye(scene):
        await scene.end()
    scene.has_ended = True


async def goodbye_and_trouble(scene: Scene) -> None:
    """Storing fails in a way that nobody knows, while the first connection ends."""
    real, count = scene.journal.append, itertools.count()

    @answered
    async def append(batch: Any) -> Any:
        if next(count) == 0:
            raise RuntimeError("nobody knows this")
        return await real(batch)

    async with slow_goodbye(scene):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scene.journal, "append", append)
            await scene.receive("one that is stored by another attempt")


def _is_confirmed(scene: Scene) -> bool:
    link = scene.way.link
    return bool(link and link._successor and link._successor.is_confirmed)


async def _cut_oldest(scene: Scene) -> None:
    link = scene.way.link
    if link and link._successor:
        link._present.link._socket.transport.abort()


async def renewals(scene: Scene) -> None:
    """A PubNub subscription is renewed, gets another channel and another key, and is lost."""
    await scene.sim.admin.faults({"fault": "rotate", "what": ["channel", "encryptionKey"]})
    await asyncio.sleep(1.0)
    await scene.receive("one of another channel")
    await scene.sim.admin.faults({"fault": "pubnub-drop"})
    await asyncio.sleep(0.1)
    scene.sim.state.subscriptions.clear()
    await asyncio.sleep(1.0)


async def keys_left(scene: Scene) -> None:
    """The subscriber key changes, and what was published under the one before is read to its end."""
    scene.sim.state.knobs.turn({"pubnub_hold_s": 0.1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pubnub_state, "DRAIN_S", 0.0)
        await scene.sim.admin.faults({"fault": "rotate", "what": "subscriberKey"})
        await asyncio.sleep(2.0)


async def renewals_refused(scene: Scene) -> None:
    """A renewal fails, and the one after it does not."""
    await scene.sim.admin.faults({"fault": "http-error", "path": "/restapi/v1.0/subscription", "status": 503})
    await asyncio.sleep(1.2)


async def filters_change(scene: Scene) -> None:
    """The next start wants other events, too."""
    scene.filters = (POSTS, CHATS)


async def filters_changed(scene: Scene) -> None:
    """Another program gives the subscription other event filters; the next renewal mends that."""
    (subscription_id,) = scene.sim.state.subscriptions
    body = {"eventFilters": [CHATS]}
    await scene.rest.request("PUT", f"/restapi/v1.0/subscription/{subscription_id}", body=body)
    await asyncio.sleep(1.2)


async def adoption(scene: Scene) -> None:
    """The next start knows nothing of the subscription that is there."""
    await scene.end()
    cursor = await scene.journal.cursor("team")
    await scene.journal.append(Batch("team", cursor=Cursor("team", "pubnub", cursor.seen_at_ms, b"{}")))
    scene.has_ended = True


async def too_many(scene: Scene) -> None:
    """The subscription is lost, and RingCentral has too many for another, for a while."""
    knobs, limit = scene.sim.state.knobs, scene.sim.state.knobs.subscription_limit
    scene.sim.state.subscriptions.clear()
    knobs.turn({"subscription_limit": 0})
    await asyncio.sleep(1.2)
    knobs.turn({"subscription_limit": limit})


async def login_waits(scene: Scene) -> None:
    """The access token ends while the minute's logins are spent; nobody waits for a connection."""
    headers = {"Retry-After": "1", "X-Rate-Limit-Group": "auth"}
    scene.rest._exchanges._limiter.learn("POST", "/restapi/oauth/token", 429, headers, now=scene.rest._now())
    await scene.sim.admin.faults({"fault": "expire-token"})
    await asyncio.sleep(1.5)


async def polls_cut(scene: Scene) -> None:
    await scene.sim.admin.faults({"fault": "pubnub-drop"})


async def polls_cut_late(scene: Scene) -> None:
    """A poll fails long after the last renewal."""
    assert scene.way.link
    scene.way.link._present.link._state.renewed_at_ms = 0
    await polls_cut(scene)


# Of a scene, until it reaches the point that it has reached before: see `reached`.
TRIES = 3
Play = Callable[[Scene], Awaitable[None]]
# The cheapest first: a point is tried in the first scene that reaches it.
SCENES: dict[str, tuple[str, str, Play, bool]] = {
    "gateway": ("direct", "websocket", nothing, False),
    "gateway, left": ("direct", "websocket", nothing, True),
    "gateway, cut": ("direct", "websocket", cuts, False),
    "gateway, tokens end": ("direct", "websocket", tokens_end, False),
    "gateway, limits": ("direct", "websocket", limits, False),
    "gateway, rotated": ("direct", "websocket", rotations, False),
    "gateway, rotated and left": ("direct", "websocket", rotations, True),
    "gateway, renewal lost": ("direct", "websocket", answers_lost, False),
    "gateway, refused for a while": ("direct", "websocket", refused_for_a_while, False),
    "gateway, disk full": ("direct", "websocket", disk_full, False),
    "gateway, away for long": ("direct", "websocket", away_for_long, False),
    "gateway, loop late": ("direct", "websocket", loop_late, False),
    "gateway, rotation fails": ("direct", "websocket", rotation_fails, False),
    "gateway, rotation is cut": ("direct", "websocket", rotation_is_cut, False),
    "gateway, rotation is left": ("direct", "websocket", rotation_is_left, False),
    "gateway, rotation is full": ("direct", "websocket", rotation_is_full, False),
    "gateway, rotated and cut": ("direct", "websocket", goodbye_and_cut, False),
    "gateway, rotated and ended": ("direct", "websocket", goodbye_and_end, False),
    "gateway, rotated in trouble": ("direct", "websocket", goodbye_and_trouble, False),
    "pubnub": ("direct", "pubnub", nothing, False),
    "pubnub, left": ("direct", "pubnub", nothing, True),
    "pubnub, renewed": ("direct", "pubnub", renewals, False),
    "pubnub, keys left": ("direct", "pubnub", keys_left, False),
    "pubnub, rotated": ("direct", "pubnub", rotations, False),
    "pubnub, renewal refused": ("direct", "pubnub", renewals_refused, False),
    "pubnub, other filters": ("direct", "pubnub", filters_change, False),
    "pubnub, filters changed": ("direct", "pubnub", filters_changed, False),
    "pubnub, adopted": ("direct", "pubnub", adoption, False),
    "pubnub, too many": ("direct", "pubnub", too_many, False),
    "pubnub, login waits": ("direct", "pubnub", login_waits, False),
    "pubnub, cut": ("direct", "pubnub", polls_cut, False),
    "pubnub, cut late": ("direct", "pubnub", polls_cut_late, False),
    "HTTP proxy": ("http", "websocket", nothing, False),
    "SOCKS proxy": ("socks", "websocket", nothing, False),
}


@contextlib.asynccontextmanager
async def stage(name: str, folder: Path) -> AsyncIterator[tuple[Scene, Play]]:
    """Build the scene *name*."""
    way, transport, happen, ends = SCENES[name]
    async with contextlib.AsyncExitStack() as stack:
        if way == "direct":
            knobs = Knobs(rate_limits=False, pubnub_life_s=1.0, pubnub_hold_s=1.0)
            sim = await stack.enter_async_context(Simulator(knobs=knobs))
            account = account_config(sim, pubnub_origin=sim.server.removeprefix("http://"))
            yield Scene(sim, account, NetworkConfig(), transport, folder, ends), happen
            return
        authority = trustme.CA()
        ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        far = await stack.enter_async_context(far_away(authority, ca_file, folder))
        proxy = SocksProxy(far.routes) if way == "socks" else HttpProxy(far.routes)
        await stack.enter_async_context(running(proxy))
        scheme = "socks5" if way == "socks" else "http"
        network = far.network(f"{scheme}://127.0.0.1:{proxy.port}")
        yield Scene(far.sim, far.account(), network, transport, folder, ends), happen


@pytest.fixture(scope="module", autouse=True)
def _in_a_hurry() -> Iterator[None]:
    """What takes seconds and minutes at RingCentral takes parts of a second here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "ASK_AFTER_S", 0.01)
        patch.setattr(websocket_link, "OVERLAP_S", 0.02)
        patch.setattr(pubnub.PubNubLink, "overlap_s", 0.02)
        patch.setattr(pubnub, "RENEW_SPREAD_S", 0.05)
        patch.setattr(pubnub, "DRAIN_RETRY_S", 0.01)
        yield
        gc.collect()  # before the tests of other modules


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Play every scene without an exception; say for each point which is the first that comes by.

    Scenes go by the clock: on a busy machine, one may miss what it is for, so that those are played once more.
    """
    found: dict[str, str] = {}
    for name in (*SCENES, *SCENES):
        if not missing(found):
            break
        awaits = Awaits()

        async def play(name: str = name) -> None:
            async with stage(name, tmp_path_factory.mktemp("survey")) as (scene, happen):
                await scene.play(happen)

        with awaits.watching(MODULES):
            asyncio.run(play())
        found |= dict.fromkeys(awaits.reached - found.keys(), name)
    return found


def missing(found: dict[str, str]) -> list[str]:
    """Return the points that should be in *found* and are not."""
    return sorted(point for point in POINTS if not is_elsewhere(point) and point not in found)


def test_every_await_is_reached_or_said_to_be_elsewhere(reached: dict[str, str]):
    assert len(POINTS) > 150
    assert missing(reached) == []


def test_what_is_said_to_be_elsewhere_is_there():
    for name in ELSEWHERE:
        assert [point for point in POINTS if point == name or point.startswith(f"{name}#")], name


@pytest.mark.parametrize("point", [point for point in POINTS if not is_elsewhere(point)])
async def test_an_exception_ends_one_attempt_and_never_the_loop(point: str, reached: dict[str, str], tmp_path: Path):
    awaits = Awaits()
    first = reached[point]
    alike = [name for name in SCENES if SCENES[name][:2] == SCENES[first][:2]]  # it may have come by there by chance
    for attempt, name in enumerate([first] * TRIES + alike):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with awaits.watching(MODULES):
            async with stage(name, folder) as (scene, happen):
                await scene.play(happen, lambda: awaits.arm(point))
        if awaits.has_struck:
            return
    pytest.fail("nobody came by")
