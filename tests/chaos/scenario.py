"""What shall happen? A scenario as plain data, drawn from a seed: the same seed is the same scenario.

All seconds are those of the run's own time, which passes faster than ours (hastened.py). Knows names and numbers; knows
nothing of processes. What each step does stands in play.py, what it may cost in oracle.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

# The faults last so long at the most; then all is well, and has to become so.
LENGTH_S = (15.0, 40.0)
STEPS = (2, 8)
PUBNUB_MAX_BYTES = 70_000
EVENT = "/team-messaging/v1/posts"
NAMES = {"websocket": "socket", "pubnub": "channel", "webhook": "hook"}

Details = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """At *at_s*, *do* happens, and may go on for *for_s*. *details* are what else there is to say."""

    at_s: float
    do: str
    for_s: float
    details: Details = field(default_factory=dict)

    def __str__(self) -> str:
        more = "".join(f" {name}={value}" for name, value in self.details.items())
        return f"{self.at_s:6.1f} s  {self.do:18} for {self.for_s:4.1f} s{more}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """*rate_per_s* events in *chats* chats, of one of *sizes* bytes of text each; none in *pauses* (since, until)."""

    rate_per_s: float
    chats: int
    sizes: tuple[int, ...]
    pauses: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Handler:
    """How the handler that gets in trouble is: how often it fails or hangs, how long it takes, how it is called."""

    fails: float
    hangs: float
    takes_s: float
    order: str
    concurrency: int
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    seed: int
    transports: tuple[str, ...]
    knobs: Details
    traffic: Traffic
    handler: Handler
    steps: tuple[Step, ...]
    length_s: float

    @property
    def needs_small_disk(self) -> bool:
        """Say whether the journal has to be on a disk that can become full."""
        return any(step.do == "disk-full" for step in self.steps)

    def __str__(self) -> str:
        knobs = " ".join(f"{name}={value}" for name, value in self.knobs.items())
        lines = [
            f"seed {self.seed}: {' + '.join(self.transports)}, {self.length_s:.0f} s",
            f"  knobs    {knobs}",
            f"  traffic  {self.traffic}",
            f"  handler  {self.handler}",
        ]
        return "\n".join([*lines, *(f"  {step}" for step in self.steps)])


def scenario_from(seed: int) -> Scenario:
    """Draw the scenario of *seed*."""
    rng = random.Random(seed)
    transports = rng.choices(TRANSPORTS, WEIGHTS)[0]
    length_s = rng.uniform(*LENGTH_S)
    steps = [_step(rng, transports, length_s) for _ in range(rng.randint(*STEPS))]
    traffic = _traffic(rng, length_s)
    if "pubnub" in transports:
        # The limit: an answer of more than 16 MiB is not read. A hundred of the messages that PubNub takes have 3 MB.
        traffic = replace(traffic, sizes=tuple(min(size, PUBNUB_MAX_BYTES) for size in traffic.sizes))
    return Scenario(
        seed=seed,
        transports=transports,
        knobs=_knobs(rng, transports, {step.do for step in steps}),
        traffic=traffic,
        handler=_handler(rng, traffic),
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
        length_s=length_s,
    )


TRANSPORTS = (
    ("websocket",),
    ("pubnub",),
    ("webhook",),
    ("websocket", "pubnub"),
    ("websocket", "pubnub", "webhook"),
)
WEIGHTS = (42, 28, 10, 12, 8)


# ---------------------------------------------------------------------------------------------------------------- steps


def _times(rng: random.Random) -> Details:
    return {"times": rng.choice((1, 1, 2, 3))}


def _drop(rng: random.Random) -> Details:
    return {"clean": rng.random() < 0.3, **_times(rng)}


def _recovery(rng: random.Random) -> Details:
    return {"code": rng.choice(("WSG-1003", "WSG-1005"))}


def _penalty(rng: random.Random) -> Details:
    path = rng.choice(
        ("/restapi", "/restapi/oauth/wstoken", "/restapi/oauth/token", "/restapi/v1.0/subscription", "/ws")
    )
    return {"path": path, "retryAfter": rng.choice((None, 0.5, 2, 5)), **_times(rng)}


def _error(rng: random.Random) -> Details:
    path = rng.choice(("/restapi", "/restapi/oauth/wstoken", "/restapi/v1.0/subscription", "/ws"))
    return {"path": path, "status": rng.choice((500, 502, 503, 504)), **_times(rng)}


def _slow(rng: random.Random) -> Details:
    """Return how slow: some answers come after nobody waits for them any more."""
    delay_s = rng.choice((rng.uniform(0.5, 8), rng.uniform(8, 60)))
    return {"path": rng.choice(("/restapi", "/ws")), "delayS": round(delay_s, 1), **_times(rng)}


def _rotate(rng: random.Random) -> Details:
    whats = (["channel"], ["encryptionKey"], ["subscriberKey"], ["channel", "encryptionKey"])
    return {"what": rng.choice(whats), "times": 1}


def _nothing(_rng: random.Random) -> Details:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step: for which transport (empty = any), how often it is drawn, its seconds, its details."""

    transport: str
    weight: int
    for_s: tuple[float, float]
    details: Callable[[random.Random], Details] = _nothing


# Those that strike at once have no length of their own; a fault that waits for its moment waits for so long.
KINDS = {
    "kill": Kind("", 12, (0, 15)),
    "kill long": Kind("", 3, (25, 80)),
    "kill again": Kind("", 4, (0, 5)),
    "stop": Kind("", 5, (0, 15)),
    "freeze": Kind("", 6, (1, 25)),
    "disk-full": Kind("", 5, (3, 20)),
    "clock": Kind("", 5, (0, 0), lambda rng: {"byS": rng.choice((-1, 1)) * rng.choice((2, 30, 3600))}),
    "burst": Kind("", 8, (0, 0), lambda rng: {"count": rng.choice((50, 120, 300, 600))}),
    "rate-limit": Kind("", 5, (5, 10), _penalty),
    "http-error": Kind("", 5, (5, 10), _error),
    "slow": Kind("", 4, (5, 10), _slow),
    "expire-token": Kind("", 3, (0, 0)),
    "revoke-session": Kind("", 5, (0, 0)),
    "duplicate": Kind("", 4, (5, 10), lambda rng: {"times": rng.choice((1, 5, 20))}),
    "reorder": Kind("", 4, (5, 10), lambda rng: {"times": rng.choice((1, 3, 10))}),
    "drop": Kind("websocket", 12, (0, 6), _drop),
    "half-open": Kind("websocket", 8, (0, 0)),
    "absolute-timeout": Kind("websocket", 3, (0, 0)),
    "idle-timeout": Kind("websocket", 3, (0, 0)),
    "fail-recovery": Kind("websocket", 5, (10, 15), _recovery),
    "garbage": Kind("websocket", 5, (5, 10), lambda rng: {"times": rng.choice((1, 5, 10))}),
    "zombie": Kind("websocket", 3, (5, 10), lambda rng: {"times": rng.choice((1, 2, 200))}),
    "lose-subscription": Kind("websocket", 5, (0, 0)),
    "pubnub-drop": Kind("pubnub", 8, (0, 6), _times),
    "pubnub-403": Kind("pubnub", 4, (2, 6), _times),
    "pubnub-error": Kind("pubnub", 4, (2, 6), lambda rng: {"status": rng.choice((500, 503)), **_times(rng)}),
    "pubnub-garbage": Kind("pubnub", 5, (5, 10), lambda rng: {"times": rng.choice((1, 5, 10))}),
    "rotate": Kind("pubnub", 10, (30, 30), _rotate),
    "webhook-replay": Kind("webhook", 6, (5, 10), lambda rng: {"times": rng.choice((1, 5, 20))}),
    "webhook-slow-body": Kind("webhook", 6, (5, 10), lambda rng: {"delayS": rng.uniform(0.2, 2), **_times(rng)}),
    "webhook-storm": Kind("webhook", 6, (5, 10), lambda rng: {"count": rng.choice((20, 200)), "times": 1}),
}


def _step(rng: random.Random, transports: tuple[str, ...], length_s: float) -> Step:
    names = [name for name, kind in KINDS.items() if kind.transport in ("", *transports)]
    name = rng.choices(names, [KINDS[name].weight for name in names])[0]
    kind = KINDS[name]
    at_s = round(rng.uniform(0, length_s), 1)
    for_s = rng.uniform(*kind.for_s)
    if "times" in (details := kind.details(rng)) and details["times"] == 1 and name in ("drop", "pubnub-drop"):
        for_s = 0.0
    return Step(at_s, name, round(for_s, 1), details)


# ------------------------------------------------------------------------------------------ knobs, traffic, the handler


def _knobs(rng: random.Random, transports: tuple[str, ...], does: set[str]) -> Details:
    """Return the answers to what RingCentral does not document, and times short enough to pass within a run."""
    knobs: Details = {"rate_limits": rng.random() < 0.2, "uuid_form": rng.choice(("decimal", "uuid4", "pod"))}
    if len(transports) > 1:
        knobs["same_uuid"] = rng.random() < 0.5
    if "websocket" in transports:
        knobs |= {
            "recovery_timeout_s": rng.choice((180, 60, 30)),
            "recovery_buffer_size": rng.choice((100, 100, 30)),
            "absolute_timeout_s": rng.choice((86400, 86400, 86400, 40)),
            "in_flight": rng.choice(("lost", "replayed")),
            "in_flight_s": rng.choice((1, 5)),
            "wsc_every": rng.choice((0, 0, 7)),
            "kept_after_s": rng.choice((0.05, 1)),
            "bare_errors": rng.random() < 0.3,
            "failed_request_type": rng.choice(("ClientRequest", "Error")),
            "recovers_after_timeout": rng.random() < 0.7,
            "on_session_revoked": rng.choice(("close", "error", "nothing")),
            "on_token_expired": rng.choice(("nothing", "close", "error")),
            "second_connection": rng.choice(("replaces", "fails")),
            "details_with_wsc": rng.random() < 0.95,
        }
    if "pubnub" in transports:
        knobs |= {
            "pubnub_life_s": rng.choice((900, 60, 30)),
            "pubnub_hold_s": rng.choice((40, 5, 1)),
            "pubnub_gone_code": rng.choice(("CMN-102", "SUB-507")),
            "pubnub_session_end": rng.choice(("lives", "expires")),
            "pubnub_secret_key": rng.random() < 0.3,
        }
    if "webhook" in transports:
        knobs |= {
            "webhook_retries": rng.choice((0, 0, 2)),
            "webhook_retry_s": rng.choice((2, 10)),
            "webhook_blacklist_s": rng.choice((600, 600, 10)),
            "webhook_reactivate_s": rng.choice((0, 0, 30)),
            "webhook_ended_status": rng.choice(("Blacklisted", "Suspended")),
            "webhook_validates_renewals": rng.random() < 0.5,
        }
    if knobs.get("pubnub_session_end") == "expires" and "revoke-session" in does:
        # The limit: where RingCentral ends one early and says nothing, only its renewal tells, after minutes.
        knobs["pubnub_life_s"] = min(60, knobs["pubnub_life_s"])
    if "rate-limit" in does:
        knobs["retry_after"] = rng.random() < 0.7
    return knobs


def _traffic(rng: random.Random, length_s: float) -> Traffic:
    pauses = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        since = rng.uniform(0, length_s)
        pauses.append((round(since, 1), round(since + rng.uniform(3, 15), 1)))
    sizes = rng.choice(((50,), (50, 1000), (0, 200, 5000), (100, 20_000), (100, 100, 100, 70_000), (100, 100, 300_000)))
    rate_per_s = rng.choice(
        (1, 4, 10, 10, 30) if max(sizes) < 10_000 else (1, 4, 10) if max(sizes) < 50_000 else (1, 4)
    )
    return Traffic(float(rate_per_s), rng.choice((1, 3, 20)), sizes, tuple(pauses))


def _handler(rng: random.Random, traffic: Traffic) -> Handler:
    concurrency = rng.choice((1, 4, 16))
    order = rng.choice(("key", "key", "key", "strict", "none"))
    lanes = 1 if order == "strict" else min(concurrency, traffic.chats)
    return Handler(
        fails=rng.choice((0, 0, 0.1, 0.4)),
        hangs=rng.choice((0, 0, 0, 0.005)),
        takes_s=round(rng.choice((0, 0.1, 0.5)) * min(1.0, lanes / traffic.rate_per_s), 3),
        order=order,
        concurrency=concurrency,
        max_attempts=rng.choice((2, 10)),
    )
