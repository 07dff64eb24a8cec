"""Does RingCentral have of ours what we want? Compares, and tells.

Nothing is put right here: its connection does that, which knows since when something may be missing. Nor is anything
removed: that takes somebody who asks for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.errors import RcPushError
from rc_push.protocol.subscription import SubscriptionInfo, are_same_filters, filters_of, is_all_refused
from rc_push.transports.owners import id_in
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
    "granted",
    "partly granted",
    "not granted",
    "other filters",
    "not active",
    "missing",
    "not listed",
    "orphan",
    "foreign",
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


class Cursors(Protocol):
    """What is needed of the journal."""

    async def cursor(self, subscription: str) -> Cursor | None:
        """Return where *subscription* stands."""
        ...


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
        state: State = "not granted" if is_all_refused(info, mine.event_filters) else "partly granted"
        return Standing(state, found, mine.name, mine.transport, id_, info)
    return Standing("granted", "all event filters", mine.name, mine.transport, id_, info)


class Reconciler:
    """Compares at the start and hourly, as long as the daemon runs.

    *served* gives the accounts of that moment, each with the subscriptions that are at work: a reload may exchange them
    at any time, also while RingCentral's limits let a call wait.
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
                    await self.look(account, subscriptions)
                except RcPushError as exc:
                    log.warning("reconcile_failed", error=str(exc))
            await self._sleep(_spread(EVERY_S))

    async def look(self, account: Rest, subscriptions: Sequence[SubscriptionConfig]) -> list[Standing]:
        """Compare once, and tell what is not as it should be; return what was found. Raises what the calls raise.

        Nothing is put right here: the connection does that, which knows since when something may be missing.
        """
        used = {id_in(await self._journal.cursor(mine.name)): mine.name for mine in subscriptions}
        used.pop("", None)
        theirs = await listed(account, SubscriptionInfo)
        standings = compare(subscriptions, used, theirs, (), str(account.statistics().owner_id))
        for mine, standing in zip(subscriptions, standings, strict=False):  # what else is there comes behind ours
            if standing.state in ("other filters", "not active", "missing") and self._at_work(mine.name) == mine:
                log.warning("subscription_drift", subscription=mine.name, found=standing.found)
        return standings

    def _at_work(self, name: str) -> SubscriptionConfig | None:
        """Return the subscription *name* as it is at this moment; None where it is not at work."""
        return next((mine for _, all_of_it in self._served() for mine in all_of_it if mine.name == name), None)


def _spread(seconds: float) -> float:
    return random.uniform(seconds * (1 - SPREAD), seconds * (1 + SPREAD))  # noqa: S311 - no secret
