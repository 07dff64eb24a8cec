"""What the tests of status, pages and metrics share: statistics as a daemon has them, each part changed at will."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from rc_push.dispatch import DispatcherStatistics
from rc_push.envelope import Gap
from rc_push.journal.facts import Facts
from rc_push.journal.fates import HandlerRow
from rc_push.journal.reader import Tally
from rc_push.limiter import GroupStatistics
from rc_push.measures import BOUNDS_S, DurationStatistics
from rc_push.receive import ReceiverStatistics
from rc_push.rest import AccountStatistics
from rc_push.retention import JournalStatistics
from rc_push.status import AppStatistics, ConfigStatistics
from rc_push.transports import Evidence

NOW = 1_800_000_000.0
NONE_YET = DurationStatistics((0,) * (len(BOUNDS_S) + 1), 0.0)


def receiver(name="team", state="live", why="confirmed", **fields):
    more = {name: fields.pop(name) for name in ("expiries", "is_served", "is_all_refused") if name in fields}
    evidence = Evidence(state, why, **more)
    known = ReceiverStatistics(name, "websocket", evidence, NOW - 60, 1, 7, 5, 2, 0, NOW - 3, None)
    return dataclasses.replace(known, **{"by_origin": {"live": 7}} | fields)


def dispatcher(name="crm", state="running", **fields):
    known = DispatcherStatistics(name, state, 5, 4, 1, 0, 0, 0, 0, 0, "", None, NONE_YET)
    return dataclasses.replace(known, **fields)


def journal(**fields):
    return dataclasses.replace(JournalStatistics("ok", "", NOW, 90_112, None, 3, NONE_YET), **fields)


def config(**fields):
    return dataclasses.replace(ConfigStatistics("/etc/rc-push/config.toml", "f1a2", 1, NOW - 60), **fields)


def account(**fields):
    known = AccountStatistics(
        calls=2,
        expires_at=datetime.fromtimestamp(NOW + 3600, UTC),
        owner_id="4010002004",
        budget={"auth": GroupStatistics(5, 3, 0.0)},
    )
    return dataclasses.replace(known, **fields)


def facts(**fields):
    known = Facts(
        path=Path("/var/lib/rc-push/journal.db"),
        head=5,
        oldest_ms=round((NOW - 7200) * 1000),
        newest_ms=round((NOW - 3) * 1000),
        last_minute=2,
        last_hour=4,
        tallies=(Tally("team", 7, 5, 2, 0),),
        handlers=(HandlerRow("crm", 5, False, 4, 1, 0, 0, 0, 0, 0), HandlerRow("old", 2, True, 2, 0, 1, 0, 2, 0, 0)),
        lags_s={"crm": 0.0, "old": 71.5},
        gaps_open={"team": 1},
        gaps_last_day=2,
        open_gaps=(Gap("team", "websocket", round(NOW * 1000) - 9000, None, "no connection", "possible"),),
        live_bytes=90_112,
        file_bytes=106_496,
        wal_bytes=4152,
        disk_free_bytes=5_000_000_000,
        disk_bytes=10_000_000_000,
    )
    return dataclasses.replace(known, **fields)


def everything(receivers=None, dispatchers=None, **fields):
    return AppStatistics(
        head=5,
        receivers=tuple(receivers or [receiver()]),
        dispatchers=tuple(dispatchers or [dispatcher()]),
        **{"config": config(), "journal": journal(), "accounts": {"main": account()}, "started_at": NOW - 60, "at": NOW}
        | fields,
    )
