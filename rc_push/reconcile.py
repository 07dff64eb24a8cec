"""Does RingCentral have of ours what we want? Compares, and mends what REST can mend.

A gateway subscription lives and dies with its session, so nobody but its connection can mend it; a PubNub subscription
can be changed by others, and left behind by a crash. Nothing is removed here: that takes somebody who asks for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import structlog

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.errors import RcPushError
from rc_push.protocol.subscription import PATH, SubscriptionInfo, are_same_filters, filters_of
from rc_push.transports.subscription_calls import Rest, listed

log = structlog.get_logger()

# By then what connects at a start has settled.
FIRST_AFTER_S = 60.0
EVERY_S = 3600.0
# Many daemons must not ask together.
SPREAD = 0.2
# A subscription that somebody has used so shortly before is in use, even where the file does not name it (any more).
USED_WITHIN_MS = 300_000

State = Literal[
    "granted", "partly granted", "other filters", "not active", "missing", "not listed", "orphan", "foreign"
]


@dataclass(frozen=True, slots=True)
class Standing:
    """One subscription as it stands: *name* is ours, empty where none of ours uses it; *found* is for people."""

    state: State
    found: str
    name: str
    transport: str
    id: str
    info: SubscriptionInfo | None = None


class Used(msgspec.Struct, frozen=True):
    """What a cursor of any transport says of the subscription at RingCentral."""

    subscription_id: str = ""


class Cursors(Protocol):
    """What is needed of the journal."""

    async def cursor(self, subscription: str) -> Cursor | None:
        """Return where *subscription* stands."""
        ...


def id_in(cursor: Cursor | None) -> str:
    """Return the id of the subscription that *cursor* uses at RingCentral; empty where it names none."""
    try:
        return msgspec.json.decode(cursor.state, type=Used).subscription_id if cursor else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def used_ids(cursors: Iterable[Cursor], names: Iterable[str], now_ms: int) -> dict[str, str]:
    """Return the ids that are in use, with our names for them: those of *names*, and what is used just now."""
    known = set(names)
    return {
        id_in(cursor): cursor.subscription
        for cursor in cursors
        if id_in(cursor) and (cursor.subscription in known or cursor.seen_at_ms > now_ms - USED_WITHIN_MS)
    }


def compare(
    ours: Sequence[SubscriptionConfig],
    used: Mapping[str, str],
    theirs: Sequence[SubscriptionInfo],
    created: Iterable[str],
    owner_id: str,
) -> list[Standing]:
    """Return how each of *ours* stands, then what else is there.

    *used* maps ids at RingCentral to our names. What is not used and among *created* is provably ours: an orphan.
    """
    by_id = {info.id: info for info in theirs}
    ids = {name: id_ for id_, name in used.items()}
    standings = [_standing(mine, ids.get(mine.name, ""), by_id, owner_id) for mine in ours]
    provably_ours = set(created)
    for info in theirs:
        if info.id in used:
            continue
        transport = info.delivery_mode.transport_type
        if info.id in provably_ours:
            found = "created by us, and used by none of our subscriptions"
            standings.append(Standing("orphan", found, "", transport, info.id, info))
        else:
            found = "not created by us, as far as the journal knows"
            standings.append(Standing("foreign", found, "", transport, info.id, info))
    return standings


def _standing(mine: SubscriptionConfig, id_: str, by_id: Mapping[str, SubscriptionInfo], owner_id: str) -> Standing:
    info = by_id.get(id_)
    if info is None and mine.transport == "websocket":
        found = "not in RingCentral's list: it lives with the daemon's connection (undocumented whether it is listed)"
        return Standing("not listed", found, mine.name, mine.transport, id_)
    if info is None:
        return Standing("missing", "RingCentral does not have it", mine.name, mine.transport, id_)
    theirs = filters_of(info)
    if not are_same_filters(mine.event_filters, theirs, owner_id):
        return Standing("other filters", "its event filters are not ours", mine.name, mine.transport, id_, info)
    if info.status not in ("", "Active"):
        return Standing("not active", f"RingCentral reports {info.status[:40]}", mine.name, mine.transport, id_, info)
    if info.disabled_filters:
        found = f"{len(info.disabled_filters)} of {len(theirs)} event filters are refused"
        return Standing("partly granted", found, mine.name, mine.transport, id_, info)
    return Standing("granted", "all event filters", mine.name, mine.transport, id_, info)


class Reconciler:
    """Compares at the start and hourly, as long as the daemon runs.

    *served* gives the accounts of that moment, each with its subscriptions: a reload may have exchanged them.
    """

    def __init__(
        self,
        served: Callable[[], Iterable[tuple[Rest, Sequence[SubscriptionConfig]]]],
        journal: Cursors,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._served = served
        self._journal = journal
        self._sleep = sleep

    async def run(self) -> None:
        """Reconcile for ever."""
        await self._sleep(_spread(FIRST_AFTER_S))
        while True:
            for account, all_of_it in list(self._served()):
                # A webhook is posted to from outside: its transport looks after it by itself.
                subscriptions = [mine for mine in all_of_it if mine.transport != "webhook"]
                try:
                    await self.repair(account, subscriptions)
                except RcPushError as exc:
                    log.warning("reconcile_failed", error=str(exc))
            await self._sleep(_spread(EVERY_S))

    async def repair(self, account: Rest, subscriptions: Sequence[SubscriptionConfig]) -> list[Standing]:
        """Compare once, and mend what REST can; return what was found. Raises what the calls raise."""
        used = {id_in(await self._journal.cursor(mine.name)): mine.name for mine in subscriptions}
        used.pop("", None)
        theirs = await listed(account, SubscriptionInfo)
        standings = compare(subscriptions, used, theirs, (), str(account.statistics().owner_id))
        for mine, standing in zip(subscriptions, standings, strict=False):  # what else is there comes behind ours
            if standing.state in ("other filters", "not active", "missing"):
                is_mended = standing.state == "other filters" and await _mend(account, mine, standing)
                log.warning("subscription_drift", subscription=mine.name, found=standing.found, is_mended=is_mended)
        return standings


async def _mend(account: Rest, mine: SubscriptionConfig, standing: Standing) -> bool:
    """Give a subscription our event filters back; False where only its own connection can."""
    if mine.transport != "pubnub":
        return False
    await account.request("PUT", f"{PATH}/{standing.id}", body={"eventFilters": list(mine.event_filters)})
    return True


def _spread(seconds: float) -> float:
    return random.uniform(seconds * (1 - SPREAD), seconds * (1 + SPREAD))  # noqa: S311 - no secret
