"""When is a handler worth calling? The breaker's transitions, one by one, with times as numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc_push.dispatch.breaker import FAILING_EVENTS, FIRST_PAUSE, PAUSE_MAX_S, Breaker


def longest(_, high):
    return high


def made(state, *, first_delay_s=1.0, max_delay_s=300.0):
    """Return a breaker in *state*; an open one may be tried 4 s after 0."""
    breaker = Breaker(first_delay_s, max_delay_s, longest)
    if state != "closed":
        for position in range(FAILING_EVENTS):
            breaker.failed(position, 0.0)
    if state == "half-open":
        breaker.begin_trial()
    assert breaker.state == state
    return breaker


# State, what happens, what it says, the state then, and when the next trial may begin.
TRANSITIONS = [
    ("closed", lambda b: b.succeeded(), False, "closed", math.inf),
    ("closed", lambda b: b.failed(0, 9.0), False, "closed", math.inf),
    ("closed", lambda b: b.is_trial_due(math.inf), False, "closed", math.inf),
    ("open", lambda b: b.is_trial_due(3.9), False, "open", 4.0),
    ("open", lambda b: b.is_trial_due(4.0), True, "open", 4.0),
    ("open", lambda b: b.begin_trial(), None, "half-open", 4.0),
    ("open", lambda b: b.failed(99, 9.0), False, "open", 4.0),  # was under way when it opened
    ("open", lambda b: b.succeeded(), True, "closed", math.inf),  # the same
    ("open", lambda b: b.give_up_trial(2.0), None, "open", 2.0),
    ("half-open", lambda b: b.is_trial_due(math.inf), False, "half-open", 4.0),
    ("half-open", lambda b: b.succeeded(), True, "closed", math.inf),
    ("half-open", lambda b: b.failed(0, 9.0), True, "open", 9.0 + 2 * FIRST_PAUSE),
    ("half-open", lambda b: b.give_up_trial(9.0), None, "open", 9.0),
]


@pytest.mark.parametrize(("state", "act", "says", "then", "next_trial_at"), TRANSITIONS)
def test_each_state_answers_what_happens(state, act, says, then, next_trial_at):
    breaker = made(state)
    assert act(breaker) is says
    assert (breaker.state, breaker.next_trial_at) == (then, next_trial_at)


def test_it_opens_at_the_failure_of_the_tenth_event_with_no_success_between():
    breaker = made("closed")
    for position in range(FAILING_EVENTS - 1):
        assert not breaker.failed(position, 0.0)
    assert not breaker.succeeded(), "it was closed"
    for position in range(FAILING_EVENTS - 1):
        assert not breaker.failed(position, 0.0)
    assert breaker.failed(FAILING_EVENTS, 0.0)


def test_one_event_that_fails_for_ever_does_not_open_it():
    breaker = made("closed")
    assert not any(breaker.failed(1, float(now)) for now in range(1000))


def test_the_pauses_double_up_to_the_longest_and_begin_anew_after_a_success():
    breaker, pauses = made("open"), []
    for _ in range(7):
        breaker.begin_trial()
        breaker.failed(1, 0.0)
        pauses.append(breaker.next_trial_at)
    assert pauses == [8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    breaker.succeeded()
    for position in range(FAILING_EVENTS):
        breaker.failed(position, 0.0)
    assert breaker.next_trial_at == FIRST_PAUSE


@settings(deadline=None)
@given(
    first_delay_s=st.floats(0.001, 10_000),
    max_delay_s=st.floats(0.001, 10_000),
    acts=st.lists(st.sampled_from(["fail", "fail", "fail", "succeed", "try", "give up"]), max_size=60),
)
def test_it_pauses_never_longer_than_it_may_and_is_always_tried_again(first_delay_s, max_delay_s, acts):
    breaker = Breaker(first_delay_s, max_delay_s, longest)
    for now, act in enumerate(acts):
        if act == "fail":
            breaker.failed(now, float(now))
        elif act == "succeed":
            breaker.succeeded()
        elif breaker.state == "half-open" and act == "give up":
            breaker.give_up_trial(float(now))
        elif breaker.is_trial_due(float(now)):
            breaker.begin_trial()
        if breaker.state == "open":
            assert breaker.next_trial_at - now <= min(max_delay_s, PAUSE_MAX_S) + 1e-6
            assert breaker.is_trial_due(breaker.next_trial_at)
