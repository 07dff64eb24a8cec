"""How does everything stand, in figures? What Prometheus reads, each metric named and described once.

Names and units follow Prometheus's conventions. Knows the statistics and what the journal says; knows nothing of HTTP.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rc_push import __version__
from rc_push.dispatch import State as HandlerState
from rc_push.health import Verdict, receives, verdict_of
from rc_push.journal.facts import Facts
from rc_push.measures import BOUNDS_S, DurationStatistics
from rc_push.status import AppStatistics
from rc_push.transports import State as SubscriptionState

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[tuple[str, ...], float | None]]


def exposition(statistics: AppStatistics, facts: Facts | None) -> bytes:
    """Return all of it in Prometheus's text format. Without *facts* (the journal cannot be read) theirs are missing."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Snapshot(statistics, facts))
    return generate_latest(registry)


class _Snapshot(Collector):
    """One moment."""

    def __init__(self, statistics: AppStatistics, facts: Facts | None) -> None:
        self._statistics = statistics
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        known = self._statistics
        verdict = verdict_of(known.receivers, known.dispatchers, known.journal)
        yield from _daemon(known, verdict)
        yield from _subscriptions(known)
        yield from _handlers(known)
        yield from _journal(known, self._facts)
        yield from _accounts(known)
        if self._facts is not None:
            yield from _facts(self._facts)


def _daemon(known: AppStatistics, verdict: Verdict) -> Iterator[Metric]:
    yield _gauge("build_info", "The version that runs; always 1.", ["version"], [((__version__,), 1)])
    yield _gauge("ready", "1 while all is received that can be, 0 otherwise.", [], [((), verdict.is_ready)])
    in_force = not known.config.mistake
    yield _gauge(
        "config_in_force", "1 while the file, as it was at the last reload, is in force.", [], [((), in_force)]
    )
    help_ = "Which configuration is in force: one more for each reload that took a new one."
    yield _gauge("config_generation", help_, [], [((), known.config.generation)])
    yield _gauge("started_timestamp_seconds", "When the daemon has started.", [], [((), known.started_at)])


def _subscriptions(known: AppStatistics) -> Iterator[Metric]:
    receivers = known.receivers
    yield _gauge(
        "subscription_state",
        "1 for the state that a subscription is in, 0 for all others.",
        ["subscription", "state"],
        [
            ((one.subscription, state), state == one.evidence.state)
            for one in receivers
            for state in typing.get_args(SubscriptionState)
        ],
    )
    label = ["subscription"]
    yield _gauge(
        "subscription_since_timestamp_seconds",
        "When a subscription has come into its state.",
        label,
        [((one.subscription,), one.since) for one in receivers],
    )
    yield _gauge(
        "subscription_served",
        "1 while the events of a subscription come and are stored, at least those of some filters.",
        label,
        [((one.subscription,), receives(one)) for one in receivers],
    )
    yield _gauge(
        "subscription_refused",
        "1 where RingCentral has refused a subscription for good, 0 otherwise.",
        label,
        [((one.subscription,), one.is_final) for one in receivers],
    )
    expiries = {
        "subscription_expires_timestamp_seconds": "When a subscription ends at RingCentral, unless it is renewed.",
        "certificate_expires_timestamp_seconds": "When the certificate of the server that it is connected to ends.",
    }
    for (name, help_), field in zip(expiries.items(), ("subscription_at", "certificate_at"), strict=True):
        samples = [((one.subscription,), getattr(one.evidence.expiries, field)) for one in receivers]
        yield _gauge(name, help_, label, samples)
    yield _gauge(
        "last_event_timestamp_seconds",
        "When the last event of a subscription has come.",
        label,
        [((one.subscription,), one.last_event_at) for one in receivers],
    )
    yield _counter(
        "events_received",
        "Events that have come, duplicates included.",
        ["subscription", "origin"],
        [
            ((one.subscription, origin), one.by_origin.get(origin, 0))
            for one in receivers
            for origin in {"live": 0, "recovered": 0} | dict(one.by_origin)
        ],
    )
    yield _counter(
        "events_stored", "Events that were stored.", label, [((one.subscription,), one.stored) for one in receivers]
    )
    yield _counter(
        "events_duplicate",
        "Events that came again, and were stored before.",
        label,
        [((one.subscription,), one.duplicate) for one in receivers],
    )
    yield _counter(
        "messages_unreadable",
        "Messages that are no events, kept as they came.",
        label,
        [((one.subscription,), one.unreadable) for one in receivers],
    )
    yield _counter(
        "reconnects",
        "Connections that were made after a loss.",
        ["subscription", "transport"],
        [((one.subscription, one.transport), max(0, one.connections - 1)) for one in receivers],
    )
    yield _counter(
        "rotations",
        "Connections that have taken over from one before it was lost.",
        ["subscription", "transport"],
        [((one.subscription, one.transport), one.rotations) for one in receivers],
    )
    yield _counter(
        "gaps",
        "Gaps that were found: times of which events are, or may be, missing.",
        ["subscription", "certainty"],
        [
            ((one.subscription, certainty), one.gaps.get(certainty, 0))
            for one in receivers
            for certainty in ("certain", "possible")
        ],
    )


def _handlers(known: AppStatistics) -> Iterator[Metric]:
    dispatchers, label = known.dispatchers, ["handler"]
    yield _gauge(
        "handler_state",
        "1 for the state that a handler is in, 0 for all others.",
        ["handler", "state"],
        [((one.handler, state), state == one.state) for one in dispatchers for state in typing.get_args(HandlerState)],
    )
    yield _gauge(
        "handler_events_in_hand",
        "Events that are being handed over.",
        label,
        [((one.handler,), one.in_hand) for one in dispatchers],
    )
    counters = {
        "delivered": "Events that a handler is done with.",
        "filtered": "Events that a handler's rules have kept from it.",
        "failed": "Calls of a handler that failed.",
        "parked": "Events that a handler has given up on.",
    }
    names = {"failed": "handler_failures"}
    for field, help_ in counters.items():
        name = names.get(field, f"handler_events_{field}")
        yield _counter(name, help_, label, [((one.handler,), getattr(one, field)) for one in dispatchers])
    yield _histogram(
        "delivery_duration_seconds",
        "How long calls of a handler take, well ended or not.",
        label,
        [((one.handler,), one.calls) for one in dispatchers],
    )


def _journal(known: AppStatistics, facts: Facts | None) -> Iterator[Metric]:
    journal = known.journal
    yield _gauge("journal_readable", "1 while the journal can be read.", [], [((), facts is not None)])
    yield _gauge("journal_degraded", "1 while the journal is near its limit.", [], [((), journal.state != "ok")])
    yield _gauge("journal_position", "The position of the newest event.", [], [((), known.head)])
    yield _gauge("journal_live_bytes", "What is in the journal.", [], [((), journal.live_bytes)])
    yield _gauge("journal_limit_bytes", "How large it may become.", [], [((), journal.max_bytes)])
    yield _counter("journal_removed", "Records that were removed by age or size.", [], [((), journal.removed)])
    help_ = "How long transactions of the journal take, the disk's answer included."
    yield _histogram("journal_commit_duration_seconds", help_, [], [((), journal.commits)])


def _accounts(known: AppStatistics) -> Iterator[Metric]:
    accounts, label = known.accounts.items(), ["account"]
    yield _gauge(
        "token_expires_timestamp_seconds",
        "When the access token of an account expires; it is renewed before.",
        label,
        [((name,), None if one.expires_at is None else one.expires_at.timestamp()) for name, one in accounts],
    )
    counters = {
        "calls": "Calls of RingCentral's REST API.",
        "logins": "Logins.",
        "refreshes": "Access tokens that were renewed.",
        "rate_limited": "Calls that RingCentral has refused since there were too many.",
        "unreachable": "Calls without an answer.",
    }
    for field, help_ in counters.items():
        yield _counter(f"rest_{field}", help_, label, [((name,), getattr(one, field)) for name, one in accounts])
    groups = [(name, group, budget) for name, one in accounts for group, budget in one.budget.items()]
    gauges = {
        "rest_budget": ("left", "Calls that RingCentral's limits leave at the moment, by their group."),
        "rest_budget_limit": ("limit", "Calls that they allow in a window."),
        "rest_silence_seconds": ("silence_s", "How long a penalty still forbids calls."),
    }
    for gauge, (field, help_) in gauges.items():
        samples = [((name, group), getattr(budget, field)) for name, group, budget in groups]
        yield _gauge(gauge, help_, ["account", "group"], samples)


def _facts(facts: Facts) -> Iterator[Metric]:
    label = ["handler"]
    yield _gauge(
        "handler_lag_seconds",
        "How long the oldest event that a handler has not had yet has waited.",
        label,
        [((name,), lag_s) for name, lag_s in facts.lags_s.items()],
    )
    gauges = {
        "pending": "Events that a handler is not done with.",
        "waiting": "Those of them that wait for another call, or behind one.",
        "parked": "Events that a handler has given up on, and nobody has looked after yet.",
    }
    for field, help_ in gauges.items():
        samples = [((one.handler,), getattr(one, field)) for one in facts.handlers]
        yield _gauge(f"handler_{field}_events", help_, label, samples)
    open_ = [((tally.subscription,), facts.gaps_open.get(tally.subscription, 0)) for tally in facts.tallies]
    yield _gauge("gaps_open", "Gaps that have no end yet.", ["subscription"], open_)
    yield _gauge("journal_size_bytes", "The journal's file and its segments.", [], [((), facts.file_bytes)])
    yield _gauge("journal_wal_bytes", "The write-ahead log beside it.", [], [((), facts.wal_bytes)])
    yield _gauge("disk_free_bytes", "What is free on the journal's disk.", [], [((), facts.disk_free_bytes)])
    yield _gauge("disk_bytes", "The journal's disk.", [], [((), facts.disk_bytes)])


# ----------------------------------------------------------------------------------------------------------- families


def _gauge(name: str, help_: str, labels: list[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(f"rc_push_{name}", help_, labels=labels), samples)


def _counter(name: str, help_: str, labels: list[str], samples: Samples) -> Metric:
    """Return a counter; its `_total` is the library's to add."""
    return _filled(CounterMetricFamily(f"rc_push_{name}", help_, labels=labels), samples)


def _filled(family: Any, samples: Samples) -> Metric:
    """Add *samples*; what is None is not known, and no sample."""
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return typing.cast("Metric", family)


def _histogram(
    name: str, help_: str, labels: list[str], samples: Iterable[tuple[tuple[str, ...], DurationStatistics]]
) -> Metric:
    family = HistogramMetricFamily(f"rc_push_{name}", help_, labels=labels)
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    for values, durations in samples:
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        family.add_metric(values, buckets, durations.sum_s)
    return family
