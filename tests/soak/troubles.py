"""What goes wrong, in turn? The rotation of a soak's faults, as data.

Each trouble has its steps and a time in which it has to be over. What each step does stands in `soak.py`, what the
faults mean in docs/simulator.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """After *after_s* of its trouble: a call of the simulator, or what *what* says of the daemon or the receiver."""

    after_s: float
    what: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """One trouble, and how long it has until the next."""

    name: str
    lasts_s: float
    steps: tuple[Step, ...] = ()


def faults(*bodies: dict[str, Any], after_s: float = 2.0) -> tuple[Step, ...]:
    """Return steps that let faults strike one after the other, at once."""
    return tuple(Step(after_s, "faults", body) for body in bodies)


ROTATION = (
    Trouble("none", 20.0),
    Trouble("connection reset", 15.0, faults({"fault": "drop"})),
    Trouble("half-open connection", 25.0, faults({"fault": "half-open"})),
    Trouble("session revoked", 15.0, faults({"fault": "revoke-session"})),
    Trouble("access token expired", 15.0, faults({"fault": "expire-token"}, {"fault": "drop", "clean": True})),
    Trouble(
        "429 to all calls",
        20.0,
        faults(
            {"fault": "rate-limit", "retryAfter": 1},
            {"fault": "drop"},
            {"fault": "rate-limit", "path": "/ws"},
        ),
    ),
    Trouble("recovery refused", 15.0, faults({"fault": "fail-recovery"}, {"fault": "drop"})),
    Trouble("subscription lost in silence", 25.0, faults({"fault": "lose-subscription"})),
    Trouble(
        "handler slow, failing, well",
        50.0,
        (Step(2.0, "receiver", "slow"), Step(12.0, "receiver", "failing"), Step(22.0, "receiver", "well")),
    ),
    Trouble(
        "PubNub rotates, refuses, drops",
        25.0,
        (
            *faults({"fault": "rotate", "what": ["channel", "subscriberKey", "encryptionKey"]}),
            *faults({"fault": "pubnub-drop"}, {"fault": "pubnub-error"}, after_s=12.0),
        ),
    ),
    Trouble(
        "garbage, twice, out of order",
        20.0,
        faults(
            {"fault": "garbage", "times": 14},
            {"fault": "pubnub-garbage", "times": 6},
            {"fault": "duplicate", "times": 50},
            {"fault": "reorder", "times": 10},
        ),
    ),
    Trouble(
        "webhook storm, replays, strangers",
        20.0,
        faults(
            {"fault": "webhook-storm", "count": 200},
            {"fault": "webhook-replay", "times": 20},
            {"fault": "webhook-slow-body", "times": 3},
        ),
    ),
    Trouble("reload (SIGHUP)", 15.0, (Step(2.0, "reload"), Step(8.0, "reload"))),
    Trouble("burst of 5000", 15.0, (Step(2.0, "burst", 5000),)),
    Trouble("frozen for 3 s", 20.0, (Step(2.0, "freeze", 3.0),)),
    Trouble(
        "REST fails, gateway gone",
        25.0,
        faults(
            {"fault": "http-error", "forS": 5}, {"fault": "http-error", "path": "/ws", "forS": 5}, {"fault": "drop"}
        ),
    ),
    Trouble("people look", 15.0, (Step(2.0, "look"),)),
)
# What a smoke test has time for.
SHORT = (
    Trouble("connection reset", 4.0, faults({"fault": "drop"}, after_s=1.0)),
    Trouble("session revoked", 4.0, faults({"fault": "revoke-session"}, after_s=0.5)),
    Trouble("handler failing", 5.0, (Step(0.5, "receiver", "failing"), Step(2.5, "receiver", "well"))),
    Trouble("reload (SIGHUP)", 3.0, (Step(0.5, "reload"), Step(2.0, "reload"))),
)
