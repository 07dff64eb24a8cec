"""When one knocks at the gateway again, with time as a number."""

from __future__ import annotations

import pytest

from rc_push.errors import UnreachableError, UpgradeBlocked
from rc_push.upgrade_gate import PAUSES_S, SCOUT_S, UpgradeGate

BLOCKED = UpgradeBlocked("HTTP 403", status=403)
CUT = UnreachableError("it was closed", phase="upgrade")


def test_an_open_gate_lets_everybody_in():
    gate = UpgradeGate()
    for now in range(5):
        gate.enter(now)


def test_an_answer_that_is_no_gateways_is_named_at_once():
    assert isinstance(UpgradeGate().failed(BLOCKED, 0.0), UpgradeBlocked)


def test_a_connection_that_ends_at_the_upgrade_is_named_the_second_time():
    gate = UpgradeGate()
    assert gate.failed(CUT, 0.0) is CUT
    gate.enter(PAUSES_S[0])
    named = gate.failed(CUT, PAUSES_S[0])
    assert isinstance(named, UpgradeBlocked)
    assert "HTTP works, WebSocket is blocked: it was closed" in str(named)
    assert named.retry_after_s == PAUSES_S[1]


@pytest.mark.parametrize("exc", [CUT, BLOCKED])
def test_the_pauses_grow_and_the_last_one_repeats(exc: UnreachableError):
    gate, now = UpgradeGate(), 0.0
    for pause_s in (*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]):
        gate.enter(now)
        gate.failed(exc, now)
        with pytest.raises(UpgradeBlocked) as caught:
            gate.enter(now + pause_s / 2)
        assert caught.value.retry_after_s == pytest.approx(pause_s / 2)
        now += pause_s


def test_one_knocks_for_all_and_the_others_wait():
    gate = UpgradeGate()
    gate.failed(BLOCKED, 0.0)
    gate.enter(PAUSES_S[0])
    with pytest.raises(UpgradeBlocked):
        gate.enter(PAUSES_S[0])
    gate.worked()
    gate.enter(PAUSES_S[0])


def test_a_scout_that_never_comes_back_is_replaced():
    gate = UpgradeGate()
    gate.failed(BLOCKED, 0.0)
    gate.enter(PAUSES_S[0])
    with pytest.raises(UpgradeBlocked):
        gate.enter(PAUSES_S[0] + SCOUT_S - 0.1)
    gate.enter(PAUSES_S[0] + SCOUT_S)


@pytest.mark.parametrize(
    "exc", [UnreachableError("x", phase="tls"), UnreachableError("x", phase="upgrade", status=503)]
)
def test_what_is_not_about_the_upgrade_shuts_nothing_and_lets_the_next_knock(exc: UnreachableError):
    gate = UpgradeGate()
    gate.failed(BLOCKED, 0.0)
    gate.enter(PAUSES_S[0])
    assert gate.failed(exc, PAUSES_S[0]) is exc
    gate.enter(PAUSES_S[0])


def test_those_who_set_out_together_count_as_one_failure():
    gate = UpgradeGate()
    for _ in range(8):
        gate.enter(0.0)
    for _ in range(8):
        gate.failed(CUT, 0.5)
    gate.enter(0.5 + PAUSES_S[0])
