"""What a cursor keeps for PubNub, and when it is out of date."""

from __future__ import annotations

import msgspec
import pytest

from rc_push.envelope import Cursor
from rc_push.protocol.pubnub import QUEUE_S, Answer, Message
from rc_push.transports.pubnub_state import DRAIN_S, LIFE_S, Channel, State, state_from

NOW_MS = 1_795_000_000_000
HERE = Answer("17950000000000000", 4, [])
ONE = Answer("17950000000100000", 4, [Message("…", NOW_MS)])

# By how much a place is ahead, in 10⁻⁷ s.
AHEAD = {"ahead": 110_000_000, "skewed": 90_000_000, "behind": -1}


def channels(*names: str) -> list[Channel]:
    return [Channel(name, "sub-c-1") for name in names]


def cursor(state: State, transport: str = "pubnub") -> Cursor:
    return Cursor("team", transport, NOW_MS, msgspec.json.encode(state))


def test_a_place_moves_forward_only():
    channel = Channel("a", "k", timetoken="17950000000000005", region=1)
    channel.go_on_at(HERE, NOW_MS, NOW_MS)
    assert (channel.timetoken, channel.region) == ("17950000000000005", 1)
    channel.go_on_at(ONE, NOW_MS, NOW_MS)
    assert (channel.timetoken, channel.region) == (ONE.timetoken, 4)


def test_what_is_seen_moves_forward_unless_the_clock_is_put_back():
    channel = Channel("a", "k")
    for seen_at_ms, at_ms, kept_ms in ((500, 1000, 500), (400, 1000, 500), (300, 350, 300), (400, 350, 350)):
        channel.go_on_at(HERE, seen_at_ms, at_ms)
        assert channel.seen_at_ms == kept_ms


def test_places_that_are_ahead_are_set_back_as_far_as_the_queue_reaches():
    ahead, skewed, behind = (Channel(name, "k", str(int(HERE.timetoken) + by)) for name, by in AHEAD.items())
    state = State(channels=[ahead, skewed, behind], heard_at_ms=NOW_MS + 86_400_000)
    places = [timetoken for _, timetoken in state.places()]
    assert state.set_back(state.places(), HERE) == [ahead]
    assert ahead.since_ms() == NOW_MS - QUEUE_S * 1000
    assert [skewed.timetoken, behind.timetoken] == places[1:]
    assert state.heard_at_ms == 0


def test_a_place_that_has_moved_on_meanwhile_is_not_ahead():
    channel = Channel("a", "k", HERE.timetoken)
    state = State(channels=[channel], heard_at_ms=NOW_MS)
    before = state.places()
    channel.go_on_at(Answer(str(int(HERE.timetoken) + AHEAD["ahead"]), 4, []), NOW_MS, NOW_MS)
    assert state.set_back(before, HERE) == []
    assert state.heard_at_ms == NOW_MS


def test_a_channel_that_was_never_read_may_hold_all_since_its_place():
    channel = Channel("a", "k")
    channel.begin_at(HERE, 10.0)
    assert (channel.since_ms(), channel.region) == (NOW_MS - 10_000, 4)
    channel.go_on_at(ONE, NOW_MS - 1000, NOW_MS)
    assert channel.since_ms() == NOW_MS - 1000


def test_a_place_is_never_set_before_what_the_queue_keeps():
    channel = Channel("a", "k")
    channel.begin_at(HERE, 86_400.0)
    assert channel.since_ms() == NOW_MS - QUEUE_S * 1000


@pytest.mark.parametrize(
    ("replaced_at_ms", "answer", "is_drained"),
    [
        (None, HERE, False),
        (NOW_MS - 1, HERE, False),
        (NOW_MS - DRAIN_S * 1000, ONE, False),
        (NOW_MS - DRAIN_S * 1000, HERE, True),
    ],
)
def test_a_replaced_channel_is_done_with_when_it_is_found_empty_after_a_while(replaced_at_ms, answer, is_drained):
    assert Channel("a", "k", replaced_at_ms=replaced_at_ms).is_drained(answer, NOW_MS) is is_drained


def test_the_newest_channel_is_the_last_and_the_others_know_since_when_they_are_replaced():
    state = State()
    a, b, c = channels("a", "b", "c")
    for number, channel in enumerate((a, b, c)):
        state.switch_to(channel, "", NOW_MS + number)
    assert state.channels == [a, b, c]
    assert [channel.replaced_at_ms for channel in (a, b, c)] == [NOW_MS + 1, NOW_MS + 2, None]


def test_a_channel_that_comes_back_goes_on_at_its_place():
    state = State()
    a, b = channels("a", "b")
    for channel in (a, b):
        state.switch_to(channel, "", NOW_MS)
    a.timetoken = ONE.timetoken
    told = Channel("a", "sub-c-1")
    assert state.find(told) is a
    state.switch_to(a, "", NOW_MS + 5)
    assert state.channels == [b, a]
    assert (a.timetoken, a.replaced_at_ms, b.replaced_at_ms) == (ONE.timetoken, None, NOW_MS + 5)


def test_one_address_under_two_subscriber_keys_is_two_channels():
    state = State(channels=channels("a"))
    assert state.find(Channel("a", "sub-c-2")) is None
    assert state.find(Channel("a", "sub-c-1")) is state.channels[0]


def test_the_newest_key_is_the_first_and_the_one_before_is_kept():
    state = State()
    (a,) = channels("a")
    kept = []
    for key in ("1", "1", "2", "3", "2", ""):
        state.switch_to(a, key, NOW_MS)
        kept.append("".join(state.keys))
    assert kept == ["1", "1", "21", "32", "23", "23"]


def test_it_was_alive_when_it_was_renewed_or_last_heard():
    assert State().alive_at_ms() == 0
    assert State(renewed_at_ms=5, heard_at_ms=7).alive_at_ms() == 7
    assert State(renewed_at_ms=9, heard_at_ms=7).alive_at_ms() == 9


def test_what_waited_in_the_queue_is_not_heard_when_it_is_read_though_the_clock_is_behind():
    state = State()
    behind_ms = 3_600_000
    assert state.hear(NOW_MS, NOW_MS - behind_ms, 1000) == NOW_MS - behind_ms - 1000
    read_at_ms = NOW_MS + 60_000 - behind_ms
    assert state.hear(NOW_MS + 2000, read_at_ms, 1000) == read_at_ms - 59_000
    assert state.alive_at_ms() == read_at_ms - 59_000


def test_a_clock_that_is_right_or_ahead_changes_nothing_of_when_a_message_was_published():
    state = State()
    assert [state.hear(NOW_MS, NOW_MS + ahead_ms, 1000) for ahead_ms in (0, 3_600_000)] == [NOW_MS - 1000] * 2
    assert state.alive_at_ms() == NOW_MS - 1000


@pytest.mark.parametrize(("expires_at_ms", "ended_at_ms"), [(NOW_MS - 5, NOW_MS - 5), (NOW_MS + 5, NOW_MS)])
def test_a_subscription_that_is_gone_has_ended_when_it_was_to_expire_or_by_now(expires_at_ms, ended_at_ms):
    state = State("there", expires_at_ms=expires_at_ms, ends_at_ms=expires_at_ms)
    state.forget(NOW_MS)
    assert (state.subscription_id, state.expires_at_ms, state.ends_at_ms) == ("", ended_at_ms, ended_at_ms)


def test_a_state_survives_the_journal():
    state = State("there", ["/a"], "", NOW_MS, NOW_MS, NOW_MS, NOW_MS, ["key"], channels("a", "b"))
    assert state_from(cursor(state), NOW_MS) == state


def test_a_clock_that_was_put_back_hides_nothing():
    ahead = NOW_MS + 3_600_000
    state = State("there", [], "", ahead, ahead, ahead, ahead, [], [Channel("a", "k", seen_at_ms=ahead)])
    read = state_from(cursor(state), NOW_MS)
    assert (read.renewed_at_ms, read.alive_at_ms(), read.channels[0].since_ms()) == (NOW_MS, NOW_MS, NOW_MS)
    assert read.expires_at_ms == read.ends_at_ms == NOW_MS + LIFE_S * 1000


def test_no_cursor_or_another_transports_is_an_empty_state():
    assert state_from(None, NOW_MS) == State()
    assert state_from(cursor(State("there"), "websocket"), NOW_MS) == State()
