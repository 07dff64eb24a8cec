"""Whether the server still serves our subscription: when it is asked, and what its answers mean."""

from __future__ import annotations

import json
import math

import pytest

from rc_push.protocol.wsg import Answered
from rc_push.transports.serving import ASK_AFTER_S, ASK_AGAIN_S, ASK_EVERY_S, Proof
from rc_push.transports.websocket_state import State

POSTS, CHATS = "/team-messaging/v1/posts", "/team-messaging/v1/chats"
DAY_S = 86_400.0
DEADLINE_S = 50.0


def proof(held=None, event_filters=(POSTS,)):
    begun = Proof(State(subscription_id="ours", event_filters=list(event_filters), held=held), event_filters)
    begun.begin(0.0, DAY_S)
    return begun


def info(id_="ours", event_filters=(POSTS,), **more):
    body = {"id": id_, "eventFilters": list(event_filters), "deliveryMode": {"transportType": "WebSocket"}, **more}
    return Answered("m", True, 200, json.dumps(body).encode())


def refusal(status, code, message="no"):
    return Answered("m", False, status, json.dumps({"errorCode": code, "message": message}).encode())


def ask(asked, answer, now):
    asked.ask("m", now)
    assert asked.is_asked("m")
    return asked.answered(answer, now)


def test_it_is_asked_soon_after_it_has_confirmed_then_regularly():
    ours = proof()
    assert ours.ask_at(DEADLINE_S) == ASK_AFTER_S
    ours.ask("m", ASK_AFTER_S)
    assert ours.ask_at(DEADLINE_S) == math.inf, "one question at a time"
    ours.answered(info(), ASK_AFTER_S)
    assert ours.ask_at(1000.0) == ASK_AFTER_S + ASK_EVERY_S


def test_it_is_asked_sooner_where_a_lost_contact_costs_more():
    ours = proof()
    ask(ours, info(), 10.0)
    assert ours.ask_at(5.0) == 15.0


def test_event_filters_that_are_named_only_by_a_later_answer_are_no_change():
    ours = proof()
    assert ask(ours, info(event_filters=()), 10.0).kind == "held"
    assert ask(ours, info(), 70.0).kind == "held"
    assert ask(ours, info(event_filters=(CHATS,)), 130.0).kind == "doubted"


def test_events_put_off_what_follows_from_silence_but_not_what_is_regular():
    ours = proof()
    ask(ours, info(), 10.0)
    ours.note(14.0)
    assert ours.ask_at(5.0) == 19.0
    ours.note(9 + ASK_EVERY_S)
    assert ours.ask_at(5.0) == 10.0 + ASK_EVERY_S


def test_a_subscription_is_proven_only_by_what_comes_after_it_was_confirmed():
    ours = proof()
    assert not ours.is_proven
    assert ask(ours, info(), 2.0).kind == "held"
    assert ours.is_proven


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (info("another"), "subscription replaced"),
        (info("ours", [CHATS]), "subscription changed"),
        (refusal(404, "CMN-102"), "subscription lost"),
    ],
)
def test_a_bad_answer_is_believed_the_second_time(answer, reason):
    ours = proof(held=[POSTS])
    first = ask(ours, answer, 2.0)
    assert (first.kind, first.why) == ("doubted", reason)
    assert ours.ask_at(DEADLINE_S) == 2.0 + ASK_AGAIN_S
    second = ask(ours, answer, 3.0)
    assert (second.kind, second.why) == ("lost", reason)


def test_a_good_answer_in_between_makes_it_the_first_time_again():
    ours = proof(held=[POSTS])
    ask(ours, info("another"), 2.0)
    assert ask(ours, info(), 3.0).kind == "held"
    assert ask(ours, info("another"), 60.0).kind == "doubted"


def test_a_filter_that_is_written_otherwise_is_the_same_filter():
    own = "/restapi/v1.0/account/~/extension/~/presence"
    expanded = "/restapi/v1.0/account/11/extension/22/presence"
    ours = proof(held=[own], event_filters=(own,))
    assert ask(ours, info(event_filters=[expanded]), 2.0).kind == "held"


def test_a_filter_that_it_has_come_to_refuse_is_named():
    ours = proof(held=[POSTS, CHATS], event_filters=(POSTS, CHATS))
    disabled = [{"filter": CHATS, "reason": "SUB-412", "message": "no"}]
    assert ask(ours, info(disabledFilters=disabled), 2.0).kind == "held"
    assert "SUB-412" in ours._state.refused


def test_who_was_never_told_believes_in_heartbeats_from_then_on():
    """Undocumented: whether everybody may ask over the gateway."""
    ours = proof()
    verdict = ask(ours, refusal(403, "CMN-408", "permission required"), 2.0)
    assert verdict.kind == "unanswerable"
    assert ours.is_unanswerable
    assert ours.is_proven


@pytest.mark.parametrize("answer", [refusal(401, "OAU-213"), refusal(404, "CMN-102")])
def test_who_was_never_told_and_is_told_that_all_is_over_needs_another_connection_first(answer):
    """Else a subscription that ended before it was asked for would be believed in for ever."""
    ours = proof()
    assert ask(ours, answer, 2.0).kind == "over"
    assert not ours.is_proven
    again = Proof(ours._state, (POSTS,))
    again.begin(10.0, DAY_S)
    assert ask(again, answer, 12.0).kind == "unanswerable", "it is what is told to who may not ask"


def test_another_subscription_is_asked_for_as_if_nothing_had_been():
    state = State(subscription_id="ours", was_refused=True)
    state.forget_subscription()
    assert state == State()


def test_a_refusal_where_it_was_told_before_means_that_this_connection_is_no_good_any_more():
    assert ask(proof(held=[POSTS]), refusal(401, "OAU-213"), 2.0).kind == "closed"


@pytest.mark.parametrize("answer", [refusal(429, "CMN-301"), refusal(503, "CMN-201"), Answered("m", True, 200, b"{}")])
def test_what_says_nothing_is_no_proof_and_no_loss(answer):
    ours = proof(held=[POSTS])
    assert ask(ours, answer, 2.0).kind == "unknown"
    assert ours.proven_at == 0.0


def test_it_is_left_alone_for_as_long_as_it_asks_for():
    ours = proof(held=[POSTS])
    ask(ours, refusal(429, "CMN-301"), 2.0)
    assert ours.ask_at(5.0) > 2.0 + 5.0
