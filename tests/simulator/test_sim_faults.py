"""The faults that wait for their moment."""

from __future__ import annotations

import pytest

from rc_push.simulator.answers import Refused
from rc_push.simulator.clock import Clock
from rc_push.simulator.faults import (
    GARBAGE,
    ConnectionFault,
    Drop,
    Duplicate,
    Faults,
    Garbage,
    HalfOpen,
    Slow,
    fault_from,
)


class World:
    def __init__(self):
        self.now = 0.0
        self.faults = Faults(Clock(1.0, lambda: self.now))

    def refusal(self, path):
        try:
            self.faults.refuse(path)
        except Refused as refused:
            return refused.answer
        return None


def test_a_fault_strikes_once_or_as_often_as_it_is_told():
    faults = World().faults
    faults.add(Duplicate())
    faults.add(Duplicate(times=2))
    assert [bool(faults.take(Duplicate)) for _ in range(4)] == [True, True, True, False]
    assert not faults.any_waiting()


def test_a_fault_with_a_time_strikes_as_often_as_it_can_until_then():
    world = World()
    world.faults.add(Duplicate(for_s=5.0))
    assert all(world.faults.take(Duplicate) for _ in range(10))
    world.now = 5.0
    assert world.faults.take(Duplicate) is None


def test_times_and_time_both_end_a_fault():
    world = World()
    world.faults.add(Duplicate(times=2, for_s=5.0))
    assert world.faults.take(Duplicate)
    world.now = 5.0
    assert world.faults.take(Duplicate) is None


def test_what_has_struck_already_is_counted():
    faults = World().faults
    faults.add(Drop(times=3), struck=1)
    faults.add(Drop(), struck=1)
    assert [bool(faults.take(Drop)) for _ in range(3)] == [True, True, False]


def test_faults_are_taken_by_kind_in_the_order_in_which_they_came():
    faults = World().faults
    faults.add(HalfOpen())
    faults.add(Drop())
    assert faults.take(Duplicate) is None
    assert isinstance(faults.take(ConnectionFault), HalfOpen)
    assert isinstance(faults.take(ConnectionFault), Drop)


def test_a_rest_fault_strikes_the_calls_below_its_path():
    world = World()
    world.faults.add(Slow(path="/restapi/oauth"))
    assert world.faults.take(Slow, "/restapi/v1.0/subscription") is None
    assert world.faults.take(Slow, "/restapi/oauth/token") is not None


@pytest.mark.parametrize(("asked", "told"), [({}, None), ({"retryAfter": 7}, "7")])
def test_a_rate_limit_says_how_long_only_where_it_is_asked_to(asked, told):
    world = World()
    world.faults.add(fault_from({"fault": "rate-limit"} | asked))
    answer = world.refusal("/restapi/oauth/token")
    assert answer is not None
    assert (answer.status, answer.headers.get("Retry-After")) == (429, told)
    assert world.refusal("/restapi/oauth/token") is None


def test_an_http_error_has_the_status_and_the_code_that_were_asked_for():
    world = World()
    world.faults.add(
        fault_from({"fault": "http-error", "status": 502, "errorCode": "X-1", "message": "no", "times": 2})
    )
    answers = [world.refusal("/restapi/x") for _ in range(3)]
    assert [answer and (answer.status, answer.body["errorCode"]) for answer in answers] == [(502, "X-1")] * 2 + [None]


def test_garbage_is_of_one_kind_after_the_other_or_of_the_kind_that_was_asked_for():
    faults = World().faults
    assert [faults.garbage(Garbage()) for _ in range(len(GARBAGE) + 1)] == [*GARBAGE.values(), GARBAGE["text"]]
    assert faults.garbage(Garbage(kind="empty")) == b"[]"
    assert len(GARBAGE["huge"]) > 5_000_000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"fault": "nonsense"}, "the faults are absolute-timeout, drop"),
        ({}, "fault"),
        (7, "object"),
        ({"fault": "drop", "retryAfter": 5}, "retryAfter"),
        ({"fault": "drop", "times": 0}, "times"),
        ({"fault": "garbage", "kind": "nonsense"}, "none of text, object"),
        ({"fault": "expire-token", "times": 2}, "strikes once"),
        ({"fault": "lose-subscription", "forS": 2}, "strikes once"),
        ({"fault": "http-error", "status": 200}, "status"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_word_on_why(body, says):
    with pytest.raises(ValueError, match=says):
        fault_from(body)


def test_what_waits_can_be_listed_and_forgotten():
    faults = World().faults
    faults.add(fault_from({"fault": "drop", "clean": True, "times": 3}), struck=1)
    faults.add(Duplicate(for_s=1.0))
    first, second = faults.to_list()
    assert (first["fault"], first["clean"], first["left"]) == ("drop", True, 2)
    assert second["left"] is None
    faults.clear()
    assert faults.to_list() == []
