"""Does RingCentral have of ours what we want? Compared, and mended where REST can."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.errors import ServerError, UnreachableError
from rc_push.protocol.subscription import DeliveryMode, DisabledFilter, SubscriptionInfo
from rc_push.reconcile import EVERY_S, FIRST_AFTER_S, SPREAD, Reconciler, compare, used_ids
from rc_push.transports.owners import id_in
from rc_push.transports.subscription_calls import listed

POSTS, CHATS = "/team-messaging/v1/posts", "/team-messaging/v1/chats"
STORE = "/restapi/v1.0/account/~/extension/~/message-store"
WS = SubscriptionConfig("ws", "main", "websocket", (POSTS,))
PN = SubscriptionConfig("pn", "main", "pubnub", (POSTS, STORE))


def info(id_: str, *filters: str, transport: str = "PubNub", **more: Any) -> SubscriptionInfo:
    return SubscriptionInfo(id_, list(filters), delivery_mode=DeliveryMode(transport), **{"status": "Active"} | more)


def states(theirs: list[SubscriptionInfo], created: set[str] = frozenset(), ours: Any = (PN,)) -> list[tuple[str, str]]:
    standings = compare(ours, {"p": "pn", "w": "ws"}, theirs, created, "7")
    return [(standing.name or standing.id, standing.state) for standing in standings]


# ----------------------------------------------------------------------------------------------------------- comparing


def test_filters_with_real_ids_are_granted():
    theirs = [info("p", POSTS, "/restapi/v1.0/account/40/extension/7/message-store")]
    assert states(theirs) == [("pn", "granted")]


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (info("p", POSTS), "other filters"),
        (info("p", POSTS, STORE, CHATS), "other filters"),
        (info("p", POSTS, "/restapi/v1.0/account/40/extension/8/message-store"), "other filters"),
        (info("p", POSTS, STORE, status="Suspended"), "not active"),
        (info("p", POSTS, disabled_filters=[DisabledFilter(STORE, "SUB-412", "missing")]), "partly granted"),
        (info("p", disabled_filters=[DisabledFilter(each, "SUB-412") for each in (POSTS, STORE)]), "not granted"),
        (info("x", POSTS, STORE), "missing"),
    ],
)
def test_what_differs_is_named(found: SubscriptionInfo, state: str):
    assert states([found])[0] == ("pn", state)


def test_a_gateways_subscription_that_is_not_listed_lives_with_its_connection():
    assert states([], ours=(WS,)) == [("ws", "not listed")]


def test_only_what_we_have_created_and_nobody_uses_is_an_orphan():
    theirs = [info("p", POSTS, STORE), info("left", POSTS), info("other", POSTS), info("w", POSTS)]
    assert states(theirs, {"left", "p", "w"}) == [("pn", "granted"), ("left", "orphan"), ("other", "foreign")]


def test_what_was_used_just_now_is_in_use_though_the_file_does_not_name_it():
    def cursor(name: str, id_: str, at_ms: int) -> Cursor:
        return Cursor(name, "pubnub", at_ms, b'{"subscription_id":"%b"}' % id_.encode())

    cursors = [cursor("pn", "p", 0), cursor("left", "l", 0), cursor("busy", "b", 9_900_000)]
    assert used_ids(cursors, ["pn"], 10_000_000) == {"p": "pn", "b": "busy"}


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b"\xff", b'{"subscription_id":7}', b"[" * 100_000])
def test_a_cursor_that_makes_no_sense_names_no_subscription(state: bytes):
    assert id_in(Cursor("pn", "pubnub", 1, state)) == ""
    assert id_in(None) == ""


# ------------------------------------------------------------------------------------------------------------ mending


class Account:
    """Answers with *records*; remembers what else it is asked."""

    def __init__(self, *records: Any, failure: Exception | None = None) -> None:
        self.records = list(records)
        self.failure = failure
        self.calls: list[tuple[str, str, Any]] = []

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        self.calls.append((method, path, body))
        if self.failure:
            raise self.failure
        return {"records": self.records}

    def statistics(self) -> Any:
        return SimpleNamespace(owner_id="7")


class Journal:
    async def cursor(self, subscription: str) -> Cursor:
        return Cursor(subscription, "x", 1, b'{"subscription_id":"%b"}' % subscription[0].encode())


def record(id_: str, *filters: str, transport: str = "PubNub") -> dict[str, Any]:
    return {"id": id_, "eventFilters": list(filters), "status": "Active", "deliveryMode": {"transportType": transport}}


@pytest.mark.parametrize(("mine", "transport"), [(PN, "PubNub"), (WS, "WebSocket")])
async def test_changed_filters_are_told_of_and_left_to_the_connection(mine: SubscriptionConfig, transport: str):
    account = Account(record(mine.name[0], CHATS, transport=transport))
    with capture_logs() as lines:
        await Reconciler(lambda: [(account, [mine])], Journal()).look(account, [mine])
    assert [method for method, *_ in account.calls] == ["GET"]
    assert [line["event"] for line in lines] == ["subscription_drift"]


OTHER = SubscriptionConfig("pn", "main", "pubnub", (POSTS, CHATS))


@pytest.mark.parametrize("then", [[OTHER], []], ids=["other filters", "gone"])
async def test_what_a_reload_has_changed_meanwhile_is_not_told_of(then: list[SubscriptionConfig]):
    with capture_logs() as lines:
        await Reconciler(lambda: [(account, then)], Journal()).look(account := Account(record("p", CHATS)), [PN])
    assert lines == []


async def test_nothing_is_removed_whatever_is_there():
    account = Account(record("p", POSTS, STORE), record("orphan", POSTS), record("foreign", CHATS))
    with capture_logs() as lines:
        await Reconciler(lambda: [(account, [PN])], Journal()).look(account, [PN])
    assert [method for method, *_ in account.calls] == ["GET"]
    assert lines == []


@pytest.mark.parametrize(
    "answer", [None, [], "x", {"records": None}, {"records": 5}, {"records": [{"id": [7]}]}, {"records": [{}, 5, None]}]
)
async def test_a_list_that_makes_no_sense_is_an_empty_one(answer: Any):
    class Odd(Account):
        async def request(self, method: str, path: str, *, body: Any = None) -> Any:
            return answer

    assert await listed(Odd(), SubscriptionInfo) == []


async def test_it_compares_after_a_minute_and_then_hourly_and_no_failure_ends_it():
    failing = Account(failure=UnreachableError("down"))
    overloaded = Account(failure=ServerError(503, "CMN-201", "words"))
    well = Account(record("p", POSTS, STORE))
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        if len(slept) > 3:
            await asyncio.Event().wait()

    webhook = SubscriptionConfig("hook", "main", "webhook", (POSTS,))
    served = [(failing, [PN]), (overloaded, [PN]), (well, [PN, webhook])]
    with capture_logs() as lines:
        task = asyncio.create_task(Reconciler(lambda: served, Journal(), sleep=sleep).run())
        while len(slept) < 4:  # noqa: ASYNC110 - nothing sleeps here
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert len(failing.calls) == len(well.calls) == 3
    assert [line["event"] for line in lines] == ["reconcile_failed"] * 6
    assert FIRST_AFTER_S * (1 - SPREAD) <= slept[0] <= FIRST_AFTER_S * (1 + SPREAD)
    assert all(EVERY_S * (1 - SPREAD) <= delay_s <= EVERY_S * (1 + SPREAD) for delay_s in slept[1:])
