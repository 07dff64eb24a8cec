"""Does rc-push receive what it should? The states of all subscriptions, as one judgement and one sentence."""

from __future__ import annotations

import dataclasses
import re
import time

import known
import pytest

from rc_push.health import PASSES_WITHIN_S, WHY_MAX_LENGTH, Health, Verdict, health_of, stuck, verdict_of
from rc_push.receive import ReceiverStatistics
from rc_push.transports import Evidence

NOW = 1_800_000_000.0


def receiver(name="team", state="live", why="confirmed", **fields):
    known = ReceiverStatistics(name, "websocket", Evidence(state, why), NOW, 1, 0, 0, 0, 0, None, None)
    return dataclasses.replace(known, **fields)


def test_what_is_live_is_settled_and_named():
    assert health_of([receiver("team"), receiver("sms")]) == Health(is_settled=True, sentence="live: team, sms")


@pytest.mark.parametrize("state", ["connecting", "subscribing", "recovering", "down"])
def test_what_may_still_change_is_not_settled(state):
    health = health_of([receiver("team"), receiver("sms", state, "no answer")])
    assert health == Health(is_settled=False, sentence=f"{state}: sms (no answer); live: team")


def test_a_refusal_is_settled_and_told_first():
    refused = receiver("sms", "down", "SUB-528: add the permission", is_final=True)
    health = health_of([receiver("team"), receiver("faxes", "connecting", "connecting"), refused])
    assert not health.is_settled
    assert health.sentence == ("refused: sms (SUB-528: add the permission); connecting: faxes (connecting); live: team")
    assert health_of([receiver("team"), refused]).is_settled


def test_with_some_filters_refused_it_is_settled_but_not_while_nothing_can_be_stored():
    partly = Evidence("degraded", "/presence is refused", is_served=True)
    assert health_of([receiver(evidence=partly)]).is_settled
    assert health_of([receiver(evidence=dataclasses.replace(partly, is_all_refused=True))]).is_settled, (
        "waiting would not help"
    )
    assert not health_of([receiver("team", "degraded", "cannot store: no room on the disk")]).is_settled


def test_the_next_try_is_told_in_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    sentence = health_of([receiver("team", "down", "no answer", next_try_at=NOW)]).sentence
    monkeypatch.undo()
    time.tzset()
    assert sentence == "down: team (no answer, next try at 10:00:00)"


def test_a_long_reason_is_cut():
    sentence = health_of([receiver("team", "down", "x" * 5000)]).sentence
    assert sentence == f"down: team ({'x' * (WHY_MAX_LENGTH - 1)}…)"


def test_without_subscriptions_there_is_nothing_to_wait_for():
    assert health_of([]) == Health(is_settled=True, sentence="no subscriptions")


def test_a_file_that_is_not_in_force_is_told_in_one_line():
    health = health_of([receiver("team")], "line 3: handlers.x: no such key; take it out\nline 9: more")
    assert health == Health(
        is_settled=True, sentence="live: team; not reloaded: line 3: handlers.x: no such key; take it out"
    )


@pytest.mark.parametrize("state", ["connecting", "subscribing", "recovering", "down"])
def test_a_loop_that_stays_where_it_should_pass_is_stuck(state):
    waiting = receiver("sms", state, "connecting")
    assert stuck([receiver(), waiting], NOW + PASSES_WITHIN_S) is None
    assert f"the subscription sms has been {state} since" in (
        stuck([receiver(), waiting], NOW + PASSES_WITHIN_S + 1) or ""
    )
    assert stuck([dataclasses.replace(waiting, next_try_at=NOW + 60)], NOW + PASSES_WITHIN_S + 59) is None


def test_quiet_times_and_refusals_are_not_stuck():
    late = NOW + 100 * PASSES_WITHIN_S
    assert stuck([receiver(), receiver("b", "degraded", "x"), receiver("c", "down", "x", is_final=True)], late) is None


# ------------------------------------------------------------------------------------------------------------- verdict


def test_where_all_is_live_and_works_it_is_ok():
    assert verdict_of([known.receiver()], [known.dispatcher()], known.journal()) == Verdict("ok", True, ())


@pytest.mark.parametrize("state", ["connecting", "subscribing", "recovering", "down"])
def test_one_that_is_not_live_degrades_it_and_none_that_is_live_takes_it_down(state):
    other = known.receiver("sms", state, "no answer")
    degraded = verdict_of([known.receiver(), other], [], known.journal())
    assert (degraded.state, degraded.is_ready) == ("degraded", False)
    assert f"subscription sms (no answer) is {state} since" in degraded.reasons[0]
    down = verdict_of([other], [], known.journal())
    assert (down.state, down.is_ready) == ("down", False)


def test_what_has_not_begun_today_is_told_with_its_date():
    down = known.receiver("sms", "down", "no answer", since=NOW)
    (today,) = verdict_of([down], [], known.journal(), now_at=NOW).reasons
    (later,) = verdict_of([down], [], known.journal(), now_at=NOW + 86400).reasons
    assert re.search(r"is down since \d\d:\d\d:\d\d$", today)
    assert re.search(r"is down since 2027-01-15 \d\d:\d\d:\d\d$", later)
    assert "since 2027-01-15" in (stuck([down], NOW + 86400) or "")


def test_a_refusal_degrades_it_and_waiting_does_not_help():
    refused = known.receiver("sms", "down", "SUB-528", is_final=True)
    verdict = verdict_of([known.receiver(), refused], [], known.journal())
    assert (verdict.state, verdict.is_ready) == ("degraded", True)
    assert "is refused since" in verdict.reasons[0]
    assert verdict_of([refused], [], known.journal()).is_ready is False


def test_where_nothing_can_be_stored_nothing_is_received():
    full = known.receiver("team", "degraded", "cannot store: no room on the disk")
    assert (verdict_of([full], [], known.journal()).state, verdict_of([full], [], known.journal()).is_ready) == (
        "down",
        False,
    )


def test_what_is_not_proven_to_be_served_is_not_received():
    doubted = known.receiver("team", "degraded", "no proof for 70 s that RingCentral serves the subscription")
    verdict = verdict_of([doubted], [], known.journal())
    assert (verdict.state, verdict.is_ready) == ("down", False)


def test_with_some_filters_refused_it_is_degraded_and_ready():
    partly = known.receiver("team", "degraded", "event filters refused: /presence (SUB-412)", is_served=True)
    verdict = verdict_of([partly], [], known.journal())
    assert (verdict.state, verdict.is_ready) == ("degraded", True)


def test_where_all_filters_of_a_subscription_are_refused_nothing_of_it_is_received():
    refused = {"why": "event filters refused: /presence (SUB-412)", "is_served": True, "is_all_refused": True}
    verdict = verdict_of([known.receiver("team", "degraded", **refused)], [], known.journal())
    assert (verdict.state, verdict.is_ready) == ("down", False)
    verdict = verdict_of([known.receiver("sms"), known.receiver("team", "degraded", **refused)], [], known.journal())
    assert (verdict.state, verdict.is_ready) == ("degraded", True)


def test_a_handler_that_fails_and_a_journal_that_is_full_are_told_and_events_still_come():
    failing = [known.dispatcher("crm", "failing", last_error="no route"), known.dispatcher("b", "paused")]
    verdict = verdict_of([known.receiver()], failing, known.journal(state="degraded", why="max_bytes is near"))
    assert (verdict.state, verdict.is_ready) == ("degraded", True)
    assert verdict.reasons == ("handler crm fails: no route", "journal: max_bytes is near")
