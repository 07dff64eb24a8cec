"""Rate limits, as numbers over time."""

from __future__ import annotations

import pytest

from rc_push.simulator.answers import Refused
from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.limits import PER_MINUTE, RateLimits


class World:
    def __init__(self, speed=1.0, **knobs):
        self.now = 1000.0
        self.limits = RateLimits(Clock(speed, lambda: self.now), Knobs(**knobs))
        self.headers = {}
        self.answer = None

    def take(self, user="u", group="auth"):
        """Return the Retry-After of a call that is refused, None of one that is not."""
        self.headers = {}
        try:
            self.limits.take(user, group, self.headers)
        except Refused as refused:
            self.answer = refused.answer
            return refused.answer.headers.get("Retry-After", "absent")
        return None


@pytest.mark.parametrize("group", PER_MINUTE)
def test_each_group_has_its_own_number_of_calls(group):
    world = World()
    for _ in range(PER_MINUTE[group]):
        assert world.take(group=group) is None
    assert world.take(group=group) == "60"
    assert world.take("other", group) is None


def test_the_headers_tell_the_state_of_the_bucket():
    world = World()
    world.take()
    world.take()
    assert world.headers == {
        "X-Rate-Limit-Group": "auth",
        "X-Rate-Limit-Limit": "5",
        "X-Rate-Limit-Remaining": "3",
        "X-Rate-Limit-Window": "60",
    }
    for _ in range(4):
        world.take()
    assert world.headers["X-Rate-Limit-Remaining"] == "0"


def test_the_window_slides():
    world = World()
    for _ in range(5):
        assert world.take() is None
        world.now += 10
    world.now += 10
    assert world.take() is None
    assert world.take() == "60"


def test_every_call_during_the_penalty_restarts_it():
    world = World()
    for _ in range(6):
        world.take()
    world.now += 59
    assert world.take() == "60"
    world.now += 59
    assert world.take() == "60"
    world.now += 60
    assert world.take() is None


def test_retry_after_can_be_absent():
    world = World(retry_after=False, auth_limit=1)
    assert [world.take(), world.take()] == [None, "absent"]


def test_speed_shortens_what_is_told_and_what_is_enforced():
    world = World(speed=30, auth_limit=1)
    world.take()
    assert world.take() == "2"
    assert (world.answer.status, world.answer.body["errorCode"]) == (429, "CMN-301")
    assert world.headers["X-Rate-Limit-Window"] == "2"
    world.now += 2
    assert world.take() is None


def test_the_limits_can_be_off():
    world = World(rate_limits=False)
    assert {world.take() for _ in range(100)} == {None}
    assert world.headers == {}


def test_what_ran_into_a_limit_is_on_record():
    world = World(auth_limit=1)
    world.take()
    world.take()
    assert [(hit["limit"], hit["user"]) for hit in world.limits.hits] == [("rate:auth", "u")]
    world.limits.clear()
    assert world.limits.hits == []
    assert world.take() is None
