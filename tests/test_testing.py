"""The kit for the authors of handlers: its events are events, and its rules are the daemon's."""

from __future__ import annotations

import asyncio
import re

import pytest

from rc_push.errors import ConfigError, Reject, Retry
from rc_push.simulator.samples import SAMPLES
from rc_push.testing import SimulatorThread, envelope, run_handler


@pytest.mark.parametrize("type_", SAMPLES)
def test_there_is_a_realistic_event_of_every_type(type_):
    one, other = envelope(type_), envelope(type_)
    assert one.type == type_
    assert one.uuid != other.uuid


def test_what_an_event_says_can_be_replaced():
    one = envelope("post.added", body={"text": "x"}, ownerId="7", origin="recovered", subscription="mine")
    assert (one.body["text"], one.owner_id, one.origin, one.subscription) == ("x", "7", "recovered", "mine")
    assert one.body["groupId"], "the rest of the sample stays"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: envelope("post.eaten"), "'post.eaten' is none of post.added"),
        (lambda: envelope("post.added", colour="red"), "no colour"),
        (lambda: envelope("post.added", uuid=""), "no usable uuid"),
    ],
)
def test_what_is_no_event_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_events_are_done_or_parked_by_the_rules_that_are_given():
    def handle(event):
        if event.body["text"] == "never":
            raise ValueError("no")
        if event.body["text"] == "reject":
            raise Reject("not mine")

    events = [envelope("post.added", body={"text": text, "groupId": text}) for text in ("well", "never", "reject")]
    result = run_handler(handle, events, retry={"max_attempts": 2, "first_delay_s": 5.0}, order="none")
    assert [one.body["text"] for one in result.delivered] == ["well"]
    assert {(one.envelope.body["text"], one.reason, one.attempts) for one in result.parked} == {
        ("never", "ValueError: no", 2),
        ("reject", "not mine", 1),
    }
    assert [one.body["text"] for one in result.calls].count("never") == 2


def test_what_the_rules_keep_away_is_not_handed_over():
    result = run_handler(lambda _: None, [envelope("post.added"), envelope("fax.received")], types=["fax.*"])
    assert [one.type for one in result.delivered] == ["fax.received"]
    assert len(result.calls) == 1


def test_time_is_made_up():
    times = iter([Retry(3600.0), Retry(7200.0), None])

    def handle(_):
        if outcome := next(times):
            raise outcome

    assert run_handler(handle, [envelope()]).slept_s == [3600.0, 7200.0]


def test_a_batch_is_one_call_and_the_handler_is_opened_and_closed():
    class Sink:
        def __init__(self):
            self.story = []

        async def __aenter__(self):
            self.story.append("open")
            return self

        async def __aexit__(self, *_):
            self.story.append("close")

        async def handle(self, envelope):
            raise AssertionError

        async def handle_batch(self, envelopes):
            self.story.append(len(envelopes))

    sink = Sink()
    assert len(run_handler(sink, [envelope() for _ in range(3)]).delivered) == 3
    assert sink.story[0] == "open"
    assert sink.story[-1] == "close"
    assert sum(sink.story[1:-1]) == 3


async def test_it_works_within_a_running_loop():
    assert len(run_handler(lambda _: None, [envelope()]).delivered) == 1
    await asyncio.sleep(0)


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(ConfigError):
        run_handler(lambda _: None, [envelope()], where="foo(")


def test_the_simulator_runs_beside_a_test_that_knows_no_asyncio():
    running = SimulatorThread()
    running.start()
    try:
        assert running.ready["server"] == running.environment["RC_SERVER_URL"]
        assert running.subscriptions == 0
        assert running.emit("sms.received", {"subject": "x"})
        running.fault("rate-limit")
    finally:
        running.stop()
