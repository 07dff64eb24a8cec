"""Was the promise kept? From an Outcome alone: what was emitted, stored, admitted and handed over.

> Every event RingCentral hands us is stored before anything else happens, once. Each handler sees it at least once, in
> order where order matters. What RingCentral did not hand us is recorded as a gap, with its times and its reason.

What is not held against the daemon is what docs/reliability.md says that it cannot do, and each such place says which.
Knows nothing of how a run was made.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from outcome import Emitted, Gap, Outcome, Stored, Trouble

OWN = "rc-push.gap"
# An event has its moment before it is on its way, and two processes read their clocks: ms of the run's time.
SLACK_MS = 250
# A gap begins so long before the last event that was stored: RingCentral documents no order (docs/events.md).
ORDER_MS = 1000
# And this machine is not the fastest: how much earlier a gap may begin, or later end, than it must.
WIDE_MS = 2500
# After the faults, a fresh event arrives within: the longest silence that is borne (60 s), the longest delay that the
# ladder can have reached in a run (80 s), and a start.
FRESH_WITHIN_S = 160.0
# A penalty of RingCentral's, or a full window of its limit, comes on top.
PENALTY_S = 90.0

# Which troubles can be the reason of a gap. *kinds* of whatever ends or stops a connection of the gateway …
CUTS = {
    "drop",
    "half-open",
    "absolute-timeout",
    "idle-timeout",
    "kill",
    "kill long",
    "kill again",
    "freeze",
    "disk-full",
    "revoke-session",
    "lose-subscription",
    "zombie",
    "expire-token",
    "slow",
    "http-error",
    "machine",
}
ENDINGS = {"revoke-session", "lose-subscription", "fail-recovery"}
# … and what stays away for longer than RingCentral keeps a session.
AWAY = {"kill long", "kill", "kill again", "stop", "freeze", "disk-full", "rate-limit", "http-error", "slow"}
POLLS = {"pubnub-drop", "pubnub-403", "pubnub-error", "machine"}
REASONS = {
    "connection lost": CUTS,
    "recovery buffer full": CUTS | AWAY | {"burst"},
    "recovery failed": CUTS | AWAY | ENDINGS,
    "no session to recover": CUTS | AWAY,
    "no connection": CUTS | AWAY | {"clock"},  # one that jumps ahead by more than 20 min is such an absence
    "subscription lost": ENDINGS | CUTS | AWAY,
    "connection was deaf": {"zombie", "lose-subscription", "revoke-session", "machine"},
    "queue full": {"burst"} | AWAY | POLLS,
    "subscription expired": {"revoke-session", "expire-token"} | AWAY | {"rotate", "clock"} | POLLS,
    "no subscription known": AWAY | {"machine"},
    "away for too long": {"clock", "kill long"},
    "webhook ended by RingCentral": AWAY | {"machine"},  # posts that a start on a busy machine lets fail
    "webhook made anew": AWAY | {"machine"},
    "posts refused": AWAY | {"machine", "burst", "webhook-slow-body"},  # a start takes seconds of a run's time
}


# What is away for longer than a queue reaches back is away until that is read; the gap ends with the first that it had.
FULL = {"recovery buffer full", "queue full"}
# For so long after a post of a webhook was late others may be (webhook_state.py), ms.
LATE_MEMORY_MS = 60_000
# What broke off in its body was sent at most so long before it began to come (webhook_posts.py), ms.
ON_THE_WAY_MS = 2000
# Renewals are seldom, and another login can take a minute: what made one late may lie behind many events.
LATE = {"subscription expired"}


def judge(outcome: Outcome) -> list[str]:
    """Return all that is wrong; nothing where the promise was kept."""
    checks = (_missing, _bytes, _twice, _gaps, _handlers, _order, _audit, _fresh, _end)
    return [f"{check.__name__[1:]}: {complaint}" for check in checks for complaint in check(outcome)]


# ----------------------------------------------------------------------------------------------------- stored, or a gap


def _missing(outcome: Outcome) -> Iterator[str]:
    """Everything emitted is stored, or lies in a gap of each subscription where it is not."""
    for name in outcome.owed:
        stored = {each.id for each in _received(outcome, name)}
        gaps = [gap for gap in outcome.gaps if gap.subscription == name]
        hidden = list(_hidden(outcome, name))
        for event in outcome.emitted:
            # The limit: what RingCentral drops without a mark cannot be known.
            if event.id in stored or event.id in outcome.withheld:
                continue
            # The limit: a clock that is put back while nothing is received hides since when that was.
            if any(since_ms <= event.at_ms <= until_ms for since_ms, until_ms in hidden):
                continue
            if not any(_covers(gap, event.at_ms, outcome) for gap in gaps):
                yield f"{name}: {event.id}, emitted at {_at(outcome, event.at_ms)}, is neither stored nor in a gap"


def _hidden(outcome: Outcome, name: str) -> Iterator[tuple[int, int]]:
    """Yield the outages in which the daemon's clock was put back: from the last event before, to the next that came.

    Where it was put back by less than half of the outage, what is told of it in the old and in the new time overlaps,
    and covers all of it.
    """
    came = list(_came(outcome, name))
    for (_, before_ms), (at_ms, after_ms) in pairwise(outcome.clock):
        # A gap begins a second before the last event; by then it lies in the time that is told twice.
        since_ms = max((sent_ms for came_ms, sent_ms in came if came_ms < at_ms), default=outcome.began_ms) - ORDER_MS
        until_ms = min((came_ms for came_ms, _ in came if came_ms >= at_ms), default=math.inf)
        if until_ms - since_ms < 2 * (before_ms - after_ms) + WIDE_MS:
            yield since_ms, until_ms


def _came(outcome: Outcome, name: str) -> Iterator[tuple[int, int]]:
    """Yield when each event has truly come, by the clock that the daemon had then, and when it was sent."""
    sent = {event.id: event.at_ms for event in outcome.emitted}
    spans = list(zip(outcome.clock, [at_ms for at_ms, _ in outcome.clock[1:]] + [math.inf], strict=True))
    for each in _received(outcome, name):
        if (sent_ms := sent.get(each.id)) is None:
            continue
        # What was told before it was sent, or after the clock was set, was told by a later clock.
        while len(spans) > 1 and not sent_ms - SLACK_MS <= each.received_ms - spans[0][0][1] < spans[0][1]:
            del spans[0]
        yield each.received_ms - spans[0][0][1], sent_ms


def _covers(gap: Gap, at_ms: int, outcome: Outcome) -> bool:
    """Say whether *at_ms* lies in *gap*.

    The limit: a gap's times are by RingCentral's clock where an event has told it, and by the daemon's own otherwise.
    Where that one was wrong, either may be meant.
    """
    until_ms = gap.until_ms if gap.until_ms is not None else at_ms + SLACK_MS
    wrongs_ms = {0, *(wrong_ms for _, wrong_ms in outcome.clock)}
    return any(gap.since_ms - SLACK_MS <= at_ms + wrong_ms <= until_ms + SLACK_MS for wrong_ms in wrongs_ms)


def _bytes(outcome: Outcome) -> Iterator[str]:
    """Every stored payload is, byte for byte, what RingCentral sent to that subscription under that uuid."""
    sent = {event.id: event for event in outcome.emitted}
    for each in _received(outcome):
        event = sent.get(each.id)
        if event is None:
            yield f"{each.id} at position {each.position} was never emitted"
        elif each.payload not in _payloads(event, each):
            yield f"{each.id} at position {each.position} is not what was emitted: {each.payload[:200]!r}"


def _payloads(event: Emitted, stored: Stored) -> list[str]:
    return [payload for (_, uuid), payload in event.payloads.items() if uuid == stored.uuid]


def _twice(outcome: Outcome) -> Iterator[str]:
    """Nothing is stored twice: neither a uuid, nor the event under another."""
    for name in outcome.owed:
        for what in ("uuid", "id"):
            positions = defaultdict(list)
            for each in _received(outcome, name):
                positions[getattr(each, what)].append(each.position)
            for value, found in positions.items():
                if len(found) > 1:
                    yield f"{name}: {what} {value} stands at {found}"


# ----------------------------------------------------------------------------------------------------------------- gaps


def _gaps(outcome: Outcome) -> Iterator[str]:
    """A gap has a cause, a reason that fits it, an end, and is not wider than it must be."""
    for gap in outcome.gaps:
        text = _gap_text(outcome, gap)
        if gap.until_ms is None:
            yield f"{text} is still open"
            continue
        if gap.reason.split(" (")[0] not in REASONS:
            yield f"{text} has a reason that nothing here gives"
        elif not _causes(outcome, gap):
            yield f"{text} has no cause; near are {sorted({trouble.kind for trouble in _around(outcome, gap)})}"
        if proof := _too_wide(outcome, gap):
            sent = _at(outcome, proof[0])
            yield f"{text} is too wide: what was sent at {sent} had come by {_at(outcome, proof[1].received_ms)}"
    # A gap is told as an event, too.
    told = sum(each.type == OWN for each in outcome.stored)
    if told < len({(gap.subscription, gap.since_ms, gap.reason) for gap in outcome.gaps}):
        yield f"{len(outcome.gaps)} gaps, and {told} events that tell of them"


def count_machine_gaps(outcome: Outcome) -> int:
    """Return how many gaps have no other cause than that this machine was busy: there the oracle sees less."""
    return sum(_causes(outcome, gap) == {"machine"} for gap in outcome.gaps)


def _causes(outcome: Outcome, gap: Gap) -> set[str]:
    """Return the troubles that can have caused *gap*, for its reason."""
    causes = REASONS.get(gap.reason.split(" (")[0], set()) | _by_knobs(outcome, gap)
    return {trouble.kind for trouble in _around(outcome, gap)} & causes


def _by_knobs(outcome: Outcome, gap: Gap) -> set[str]:
    """Return what else can be a cause, as the knobs are."""
    more: set[str] = set()
    if not outcome.knobs.get("details_with_wsc", True):
        more |= {"stop"}  # no session can be recovered, however it ended
    if outcome.knobs.get("second_connection", "replaces") == "replaces" and gap.reason == "connection was deaf":
        more |= {"disk-full", "freeze"}  # they keep the first in use while RingCentral serves the second instead
    return more


def _around(outcome: Outcome, gap: Gap) -> Iterator[Trouble]:
    """Yield the troubles that *gap* can come of: until RingCentral's events came again, they were not over."""
    wrong_ms = max(abs(wrong_ms) for _, wrong_ms in outcome.clock)
    for trouble in outcome.troubles:
        proofs = [each.received_ms for each in _proofs(outcome, gap.subscription, trouble.until_ms)]
        over_ms = min(proofs, default=gap.until_ms or 0) + WIDE_MS
        if gap.reason in LATE:
            over_ms = math.inf
        until_ms = _end_of(outcome, gap)
        if gap.reason in FULL:
            came = [each.received_ms for each in _proofs(outcome, gap.subscription, until_ms - SLACK_MS)]
            until_ms = max(until_ms, min(came, default=until_ms))  # a clock that was put back tells of earlier times
        if gap.since_ms - wrong_ms <= over_ms and trouble.since_ms <= until_ms + wrong_ms + WIDE_MS:
            yield trouble


def _end_of(outcome: Outcome, gap: Gap) -> int:
    """Return where *gap* ends, or the one that begins there: what is unproven before an outage has the same cause."""
    if gap.until_ms is None:
        return gap.since_ms
    after = [each for each in outcome.gaps if each.since_ms == gap.until_ms and each.subscription == gap.subscription]
    return max((each.until_ms or each.since_ms for each in after), default=gap.until_ms)


def _proofs(outcome: Outcome, name: str, since_ms: int) -> list[Stored]:
    """Return the events sent since *since_ms* that came as they were sent."""
    sent = {event.id: event.at_ms for event in outcome.emitted}
    return [each for each in _received(outcome, name) if each.origin == "live" and sent.get(each.id, 0) >= since_ms]


def _too_wide(outcome: Outcome, gap: Gap) -> tuple[int, Stored] | None:
    """Return what shows that *gap* covers too much: an event that came live, wholly inside.

    What was sent more than a second before a live event is stored with it or before it, and the subscription was served
    when it was sent. So no gap reaches over both of its moments, beyond that second: neither further back than the last
    event before the trouble, nor on beyond the first one after it.
    """
    if gap.until_ms is None:
        return None
    wrong_ms = max(abs(wrong_ms) for _, wrong_ms in outcome.clock)
    since_ms = gap.since_ms + ORDER_MS + WIDE_MS + wrong_ms + _late_ms(outcome, gap)
    until_ms = gap.until_ms - WIDE_MS - wrong_ms
    sent = {event.id: event.at_ms for event in outcome.emitted}
    for each in _received(outcome, gap.subscription):
        if each.origin == "live" and sent.get(each.id, 0) > since_ms and each.received_ms < until_ms:
            return sent[each.id], each
    return None


def _late_ms(outcome: Outcome, gap: Gap) -> int:
    """Return how much earlier than the last event a gap may begin, where that cannot be known better."""
    if gap.reason == "queue full" and any(trouble.kind == "rotate" for trouble in outcome.troubles):
        # The limit: a channel that a renewal tells of may have been in use since the one before.
        return 1000 * int(outcome.knobs["pubnub_life_s"])
    if outcome.owed.get(gap.subscription) != "webhook":
        return 0
    # The limit: each post of a webhook comes by itself. As late as some were, others may have been.
    since_ms, until_ms = gap.since_ms - LATE_MEMORY_MS, gap.until_ms or gap.since_ms
    events = {event.id: event for event in outcome.emitted}
    came = [(came_ms, came_ms - sent_ms) for came_ms, sent_ms in _came(outcome, gap.subscription)]
    # Where one comes again, late, those that did not come the first time may be about to.
    sent = {each.uuid: event.at_ms for each in _received(outcome, gap.subscription) if (event := events.get(each.id))}
    came += [(began_ms, began_ms - sent[uuid]) for began_ms, uuid in outcome.posts if uuid in sent]
    if gap.reason == "posts refused":
        # The limit: when a post was sent that broke off in its body, nobody knows.
        came.append((gap.since_ms, ON_THE_WAY_MS))
    return max((late_ms for came_ms, late_ms in came if since_ms <= came_ms <= until_ms), default=0)


# ------------------------------------------------------------------------------------------------------------- handlers


def _handlers(outcome: Outcome) -> Iterator[str]:
    """Each handler has seen every stored event at least once, or has parked it, and saw nothing else."""
    positions = {each.position: each for each in outcome.stored if each.type != OWN}
    for handler, lines in outcome.lines.items():
        seen = {line.position for line in lines}
        # What a webhook posts again can come as the daemon is told to end: the next one would hand it over.
        lost = {each.position for each in positions.values() if not _came_at_the_end(outcome, each)}
        lost -= seen | outcome.parked[handler]
        if lost:
            yield f"{handler} never saw {_some(lost)}"
        if strange := seen - positions.keys():
            yield f"{handler} saw what is not stored: {_some(strange)}"
        for line in lines:
            stored = positions.get(line.position)
            if stored and line.id != stored.id:
                yield f"{handler}: position {line.position} is {line.id}, stored is {stored.id}"
            elif stored and line.event is not None and line.event != json.loads(stored.payload):
                yield f"{handler}: position {line.position} was handed over changed"


def _came_at_the_end(outcome: Outcome, each: Stored) -> bool:
    _, wrong_ms = outcome.clock[-1]
    return 0 < outcome.stopped_ms <= each.received_ms - wrong_ms + SLACK_MS


def _order(outcome: Outcome) -> Iterator[str]:
    """What belongs together comes in order, when it comes for the first time (it may come again after a crash)."""
    for handler, lines in outcome.lines.items():
        order = outcome.order[handler]
        if order == "none":
            continue
        firsts: dict[str, list[int]] = defaultdict(list)
        seen: set[int] = set()
        for line in lines:
            if line.position not in seen:
                seen.add(line.position)
                firsts[line.chat if order == "key" else ""].append(line.position)
        for chat, positions in firsts.items():
            wrong = [(a, b) for a, b in pairwise(positions) if a > b]
            if wrong:
                yield f"{handler}: {chat or 'all'} came as {wrong[:3]}"


# ------------------------------------------------------------------------------------------------------------- the rest


def _audit(outcome: Outcome) -> Iterator[str]:
    """The audit adds up, at each end of a process too."""
    if not outcome.audits:
        yield "nobody has asked for it"
    for audit in outcome.audits:
        if audit.exit_code != 0:
            yield f"at {audit.when} it ended with {audit.exit_code}: {audit.said}"


def _fresh(outcome: Outcome) -> Iterator[str]:
    """After the faults, a fresh event arrives in time."""
    within_s = fresh_within_s(outcome)
    for name in outcome.owed:
        took_s = outcome.fresh_s.get(name)
        if took_s is None:
            yield f"{name}: nothing fresh has come"
        elif took_s - _busy_s(outcome, took_s) > within_s:
            yield f"{name}: the first fresh event came after {took_s:.0f} s, not within {within_s:.0f} s"


def _busy_s(outcome: Outcome, took_s: float) -> float:
    """Return for how long of the *took_s* after the faults this machine was too busy to be judged by its times."""
    until_ms = outcome.healed_ms + round(took_s * 1000)
    spans = [(max(each.since_ms, outcome.healed_ms), min(each.until_ms, until_ms)) for each in _of_machine(outcome)]
    return sum(max(0, end_ms - begin_ms) for begin_ms, end_ms in spans) / 1000


def _of_machine(outcome: Outcome) -> list[Trouble]:
    return [trouble for trouble in outcome.troubles if trouble.kind == "machine"]


def fresh_within_s(outcome: Outcome) -> float:
    """Return how soon a fresh event has to come."""
    has_penalty = outcome.knobs.get("rate_limits", True) or any(t.kind == "rate-limit" for t in outcome.troubles)
    return FRESH_WITHIN_S + (PENALTY_S if has_penalty else 0.0)


def _end(outcome: Outcome) -> Iterator[str]:
    """The daemon ends as it is told to, and has said nothing that a daemon must not say."""
    if outcome.exit_code != 0:
        yield f"SIGTERM ended with {outcome.exit_code}"
    yield from outcome.told


# -------------------------------------------------------------------------------------------------------------- details


def _received(outcome: Outcome, name: str = "") -> list[Stored]:
    return [each for each in outcome.stored if each.type != OWN and name in ("", each.subscription)]


def _some(positions: set[int]) -> str:
    return f"{len(positions)} events: {sorted(positions)[:5]}"


def _at(outcome: Outcome, at_ms: int) -> str:
    return f"{(at_ms - outcome.began_ms) / 1000:.2f} s"


def _gap_text(outcome: Outcome, gap: Gap) -> str:
    until = "…" if gap.until_ms is None else _at(outcome, gap.until_ms)
    return f"{gap.subscription}: gap {_at(outcome, gap.since_ms)} → {until} ({gap.reason}, {gap.certainty})"
