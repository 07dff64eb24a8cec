"""Does the oracle see what is wrong? A run in which all is right, then the same with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from oracle import OWN, count_machine_gaps, fresh_within_s, judge
from outcome import Audit, Emitted, Gap, Line, Outcome, Stored, Trouble

BEGAN_MS = 1_795_000_000_000
# When the connection is gone: what is emitted then lies in a gap.
AWAY_MS = (20_000, 26_000)
CHATS = 3


def payload(number: int) -> str:
    body = {"id": str(number), "groupId": f"chat-{number % CHATS}", "text": "Grüße"}
    return json.dumps({"uuid": f"u-{number}", "body": body}, ensure_ascii=False)


def is_away(at_ms: int) -> bool:
    return AWAY_MS[0] <= at_ms - BEGAN_MS < AWAY_MS[1]


@pytest.fixture
def outcome() -> Outcome:
    """An event a second for a minute; those of six seconds are lost with a connection, and a gap says so."""
    emitted = [
        Emitted(str(number), BEGAN_MS + number * 1000, {("sub", f"u-{number}"): payload(number)})
        for number in range(60)
    ]
    came = [event for event in emitted if not is_away(event.at_ms)]
    stored = [
        Stored(position, "socket", "websocket", "live", "post.added", event.at_ms + 20, *names(event))
        for position, event in enumerate(came, 1)
    ]
    gap = Gap("socket", BEGAN_MS + 18_000, BEGAN_MS + 26_100, "connection lost", "possible")
    told = Stored(len(stored) + 1, "socket", "websocket", "live", OWN, gap.until_ms or 0, "g", "", "", "{}")
    lines = [Line(each.position, each.id, each.chat, json.loads(each.payload)) for each in stored]
    return Outcome(
        owed={"socket": "websocket"},
        emitted=emitted,
        stored=[*stored, told],
        gaps=[gap],
        audits=[Audit("the end", 0, "it adds up")],
        lines={"steady": lines},
        parked={"steady": set()},
        troubles=[Trouble("drop", BEGAN_MS + AWAY_MS[0], BEGAN_MS + AWAY_MS[0])],
        clock=[(BEGAN_MS, 0)],
        knobs={"rate_limits": False},
        order={"steady": "key"},
        fresh_s={"socket": 0.5},
        exit_code=0,
        began_ms=BEGAN_MS,
    )


def names(event: Emitted) -> tuple[str, str, str, str]:
    """Return uuid, id, chat and payload of *event*."""
    [((_, uuid), text)] = event.payloads.items()
    return uuid, event.id, json.loads(text)["body"]["groupId"], text


def checks(outcome: Outcome) -> list[str]:
    """Return which checks complain."""
    return sorted({complaint.partition(":")[0] for complaint in judge(outcome)})


def test_a_run_in_which_all_is_right_is_right(outcome):
    assert judge(outcome) == []


# ------------------------------------------------------------------------------------------------- one thing is wrong

POSITION = 10


def lose(outcome: Outcome) -> None:
    del outcome.stored[POSITION], outcome.lines["steady"][POSITION]


def lose_at_the_handler(outcome: Outcome) -> None:
    del outcome.lines["steady"][POSITION]


def change_a_byte(outcome: Outcome) -> None:
    one = outcome.stored[POSITION]
    outcome.stored[POSITION] = replace(one, payload=one.payload.replace("ü", "u"))


def change_a_blank(outcome: Outcome) -> None:
    one = outcome.stored[POSITION]
    outcome.stored[POSITION] = replace(one, payload=one.payload + " ")


def change_a_line(outcome: Outcome) -> None:
    outcome.lines["steady"][POSITION] = replace(outcome.lines["steady"][POSITION], event={})


def store_twice(outcome: Outcome) -> None:
    outcome.stored.append(replace(outcome.stored[POSITION], position=1000))
    outcome.lines["steady"].append(replace(outcome.lines["steady"][POSITION], position=1000))


def store_twice_under_another_uuid(outcome: Outcome) -> None:
    store_twice(outcome)
    outcome.emitted[POSITION].payloads["sub", "other"] = outcome.stored[POSITION].payload
    outcome.stored[-1] = replace(outcome.stored[-1], uuid="other")


def store_what_nobody_sent(outcome: Outcome) -> None:
    store_twice(outcome)
    outcome.stored[-1] = replace(outcome.stored[-1], id="strange", uuid="strange")
    outcome.lines["steady"][-1] = replace(outcome.lines["steady"][-1], id="strange")


def hand_over_in_the_wrong_order(outcome: Outcome) -> None:
    lines = outcome.lines["steady"]
    lines[POSITION], lines[POSITION + CHATS] = lines[POSITION + CHATS], lines[POSITION]


def hand_over_what_is_not_stored(outcome: Outcome) -> None:
    outcome.lines["steady"].append(Line(1000, "1000", "chat-1"))


def forget_the_gap(outcome: Outcome) -> None:
    outcome.gaps.clear()


def change_the_gap(**fields: object) -> Callable[[Outcome], None]:
    def change(outcome: Outcome) -> None:
        outcome.gaps[0] = replace(outcome.gaps[0], **fields)

    return change


def tell_of_no_gap(outcome: Outcome) -> None:
    del outcome.stored[-1]


def have_no_trouble(outcome: Outcome) -> None:
    outcome.troubles.clear()


def add_up_wrongly(outcome: Outcome) -> None:
    outcome.audits.append(Audit("kill", 1, "it does not add up"))


def ask_for_no_audit(outcome: Outcome) -> None:
    outcome.audits.clear()


def stay_away(outcome: Outcome) -> None:
    outcome.fresh_s["socket"] = None


def come_late(outcome: Outcome) -> None:
    outcome.fresh_s["socket"] = fresh_within_s(outcome) + 1


def end_badly(outcome: Outcome) -> None:
    outcome.exit_code = 70


def say_too_much(outcome: Outcome) -> None:
    outcome.told.append("internal error")


@pytest.mark.parametrize(
    ("doctor", "complaining"),
    [
        (lose, ["missing"]),
        (lose_at_the_handler, ["handlers"]),
        (change_a_byte, ["bytes", "handlers"]),
        (change_a_blank, ["bytes"]),
        (change_a_line, ["handlers"]),
        (store_twice, ["twice"]),
        (store_twice_under_another_uuid, ["twice"]),
        (store_what_nobody_sent, ["bytes"]),
        (hand_over_in_the_wrong_order, ["order"]),
        (hand_over_what_is_not_stored, ["handlers"]),
        (forget_the_gap, ["missing"]),
        (change_the_gap(since_ms=BEGAN_MS + 21_000), ["missing"]),
        (change_the_gap(until_ms=BEGAN_MS + 24_000), ["missing"]),
        (change_the_gap(since_ms=BEGAN_MS + 10_000), ["gaps"]),
        (change_the_gap(until_ms=BEGAN_MS + 40_000), ["gaps"]),
        (change_the_gap(until_ms=None), ["gaps"]),
        (change_the_gap(reason="queue full"), ["gaps"]),
        (change_the_gap(reason="out of luck"), ["gaps"]),
        (change_the_gap(subscription="other"), ["missing"]),
        (tell_of_no_gap, ["gaps"]),
        (have_no_trouble, ["gaps"]),
        (add_up_wrongly, ["audit"]),
        (ask_for_no_audit, ["audit"]),
        (stay_away, ["fresh"]),
        (come_late, ["fresh"]),
        (end_badly, ["end"]),
        (say_too_much, ["end"]),
    ],
)
def test_it_is_seen(outcome, doctor, complaining):
    doctor(outcome)
    assert checks(outcome) == complaining


# ------------------------------------------------------------------------------------------------ what is no mistake


def test_what_is_parked_need_not_be_handed_over(outcome):
    lose_at_the_handler(outcome)
    outcome.parked["steady"].add(POSITION + 1)
    assert judge(outcome) == []


def test_what_comes_again_after_a_crash_has_no_order(outcome):
    outcome.lines["steady"].append(outcome.lines["steady"][POSITION])
    assert judge(outcome) == []


def test_what_ringcentral_never_sent_and_nothing_marks_cannot_be_known(outcome):
    lose(outcome)
    outcome.withheld.add(outcome.emitted[POSITION].id)
    assert judge(outcome) == []


def set_the_clock(outcome: Outcome, after_s: float, by_ms: int) -> None:
    """Let the daemon's clock jump, and tell by that clock when events have come since."""
    outcome.clock.append((at_ms := BEGAN_MS + round(after_s * 1000), by_ms))
    for number, each in enumerate(outcome.stored):
        if each.received_ms >= at_ms:
            outcome.stored[number] = replace(each, received_ms=each.received_ms + by_ms)


def test_where_the_daemons_clock_is_wrong_its_gaps_are_by_that_clock(outcome):
    set_the_clock(outcome, 15, 3_600_000)
    change_the_gap(since_ms=BEGAN_MS + 3_618_000, until_ms=BEGAN_MS + 3_626_100)(outcome)
    assert judge(outcome) == []
    change_the_gap(since_ms=BEGAN_MS + 1_618_000, until_ms=BEGAN_MS + 1_626_100)(outcome)
    assert "missing" in checks(outcome)


def test_a_clock_that_jumps_ahead_is_an_absence(outcome):
    """Seed 60024: polls that fail after it were all that had happened, and they lose nothing."""
    set_the_clock(outcome, 22, 3_600_000)
    outcome.troubles[:] = [Trouble("clock", BEGAN_MS + 22_000, BEGAN_MS + 22_000)]
    change_the_gap(until_ms=BEGAN_MS + 3_626_100, reason="no connection")(outcome)
    assert judge(outcome) == []
    outcome.troubles.clear()
    assert checks(outcome) == ["gaps"]


def test_a_clock_that_was_put_back_hides_no_cause_of_a_full_buffer(outcome):
    set_the_clock(outcome, 10, -30_000)
    change_the_gap(since_ms=BEGAN_MS - 12_000, until_ms=BEGAN_MS - 3900, reason="recovery buffer full")(outcome)
    assert judge(outcome) == []


def test_what_was_unproven_before_an_outage_has_the_outages_cause(outcome):
    unproven = Gap("socket", BEGAN_MS + 13_000, outcome.gaps[0].since_ms, "subscription lost", "possible")
    outcome.gaps[0] = replace(outcome.gaps[0], reason="recovery failed")
    outcome.gaps.append(unproven)
    outcome.stored.append(replace(outcome.stored[-1], position=len(outcome.stored) + 1, uuid="g2"))
    outcome.troubles[0] = replace(outcome.troubles[0], since_ms=BEGAN_MS + 21_000)
    assert judge(outcome) == []
    outcome.gaps[1] = replace(unproven, until_ms=BEGAN_MS + 14_000)
    assert checks(outcome) == ["gaps"]


def test_what_comes_as_the_daemon_is_told_to_end_is_the_next_ones_to_hand_over(outcome):
    last = outcome.stored[POSITION]
    del outcome.lines["steady"][POSITION]
    outcome.stopped_ms = last.received_ms + 1000
    assert checks(outcome) == ["handlers"]
    outcome.stopped_ms = last.received_ms + 100
    assert judge(outcome) == []


def test_a_connection_is_deaf_beside_its_successor_where_ringcentral_serves_one_and_the_journal_is_full(outcome):
    outcome.troubles[0] = replace(outcome.troubles[0], kind="disk-full")
    change_the_gap(reason="connection was deaf")(outcome)
    assert judge(outcome) == []
    outcome.knobs["second_connection"] = "fails"
    assert checks(outcome) == ["gaps"]


@pytest.mark.parametrize(
    ("after_s", "by_ms", "complaining"),
    [
        (22, -3_600_000, []),
        (22, -6000, []),
        (22, -2000, ["missing"]),  # what is told in either time covers all
        (15, -3_600_000, ["missing"]),
        (30, -3_600_000, ["missing"]),
        (22, 3_600_000, ["missing"]),
    ],
)
def test_a_clock_that_is_put_back_hides_the_outage_in_which_that_was_and_no_other(outcome, after_s, by_ms, complaining):
    forget_the_gap(outcome)
    set_the_clock(outcome, after_s, by_ms)
    assert checks(outcome) == complaining


def test_what_was_sent_in_an_outage_in_which_the_clock_is_put_back_and_came_afterwards_does_not_end_it(outcome):
    forget_the_gap(outcome)
    set_the_clock(outcome, 21, -3_600_000)
    late, position = outcome.emitted[23], len(outcome.stored) + 1
    came_ms = BEGAN_MS + 26_500 - 3_600_000
    outcome.stored.append(Stored(position, "socket", "websocket", "live", "post.added", came_ms, *names(late)))
    outcome.lines["steady"].append(Line(position, late.id, "chat-2"))
    outcome.order["steady"] = "none"
    assert judge(outcome) == []


def test_gaps_are_counted_of_which_only_the_machine_was_the_cause(outcome):
    assert count_machine_gaps(outcome) == 0
    outcome.troubles.append(Trouble("machine", BEGAN_MS + AWAY_MS[0], BEGAN_MS + AWAY_MS[0]))
    assert count_machine_gaps(outcome) == 0
    del outcome.troubles[0]
    assert judge(outcome) == []
    assert count_machine_gaps(outcome) == 1


def test_a_gap_of_a_webhook_may_begin_as_much_earlier_as_posts_were_late_and_no_more(outcome):
    outcome.owed["socket"] = "webhook"
    change_the_gap(since_ms=BEGAN_MS + 10_000, reason="no connection")(outcome)
    outcome.troubles.append(Trouble("kill", BEGAN_MS + AWAY_MS[0], BEGAN_MS + AWAY_MS[0]))
    assert checks(outcome) == ["gaps"]
    late = outcome.stored[9]
    outcome.stored[9] = replace(late, received_ms=late.received_ms + 8000)
    assert judge(outcome) == []
    outcome.owed["socket"] = "websocket"
    assert checks(outcome) == ["gaps"]


def test_a_post_that_came_again_is_late_as_well_and_one_that_comes_at_once_is_not(outcome):
    outcome.owed["socket"] = "webhook"
    change_the_gap(since_ms=BEGAN_MS + 10_000, reason="no connection")(outcome)
    outcome.troubles.append(Trouble("kill", BEGAN_MS + AWAY_MS[0], BEGAN_MS + AWAY_MS[0]))
    first = outcome.stored[9]
    outcome.posts = [(first.received_ms, first.uuid)]
    assert checks(outcome) == ["gaps"]
    outcome.posts.append((first.received_ms + 8000, first.uuid))
    assert judge(outcome) == []


def test_a_gap_of_posts_refused_may_begin_two_seconds_earlier_and_no_more(outcome):
    outcome.owed["socket"] = "webhook"
    outcome.troubles.append(Trouble("kill", BEGAN_MS + AWAY_MS[0], BEGAN_MS + AWAY_MS[0]))
    change_the_gap(since_ms=BEGAN_MS + AWAY_MS[0] - 2_000, reason="posts refused")(outcome)
    assert judge(outcome) == []
    change_the_gap(since_ms=BEGAN_MS + AWAY_MS[0] - 8_000, reason="posts refused")(outcome)
    assert checks(outcome) == ["gaps"]


def test_the_cause_of_a_full_queue_can_lie_behind_the_first_that_it_had_and_not_behind_when_that_came(outcome):
    """A queue reaches back: what was lost of it was sent before the absence was over, or had even begun."""
    change_the_gap(reason="queue full")(outcome)
    for number, each in enumerate(outcome.stored):
        if BEGAN_MS + 26_000 <= each.received_ms < BEGAN_MS + 40_000:
            outcome.stored[number] = replace(each, received_ms=BEGAN_MS + 40_000)
    outcome.troubles = [Trouble("kill", BEGAN_MS + 35_000, BEGAN_MS + 36_000)]
    assert "gaps" not in checks(outcome)
    outcome.troubles = [Trouble("kill", BEGAN_MS + 45_000, BEGAN_MS + 46_000)]
    assert "gaps" in checks(outcome)


def test_what_takes_too_long_while_this_machine_is_busy_is_not_judged_by_that_time(outcome):
    outcome.healed_ms = BEGAN_MS + 60_000
    outcome.fresh_s["socket"] = within_s = fresh_within_s(outcome) + 10
    outcome.troubles += [
        Trouble("machine", BEGAN_MS + 55_000, BEGAN_MS + 65_000),
        Trouble("machine", outcome.healed_ms + round(within_s * 1000) - 4900, outcome.healed_ms + 900_000),
    ]
    assert checks(outcome) == ["fresh"]
    outcome.troubles.append(Trouble("machine", BEGAN_MS + 70_000, BEGAN_MS + 70_200))
    assert judge(outcome) == []
