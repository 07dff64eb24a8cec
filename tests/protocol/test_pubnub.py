"""What one answer of PubNub's long poll says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import SAMPLES

from rc_push.errors import ProtocolError
from rc_push.protocol.pubnub import (
    Message,
    answer_from,
    earlier,
    is_timetoken,
    ms_from_timetoken,
)

HERE = {"t": "14818963573055360", "r": 12}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
timetokens = st.integers(1, 10**18).map(str)
cursors = st.fixed_dictionaries({}, optional={"t": timetokens | json_values, "r": json_values})
items = st.fixed_dictionaries({}, optional={"d": json_values, "p": cursors | json_values, "c": st.text()})
answers = st.fixed_dictionaries(
    {}, optional={"t": cursors | json_values, "m": st.lists(items | json_values) | json_values}
)


def sample(name: str) -> object:
    path = SAMPLES / f"pubnub-{name}-response.json"
    if not path.is_file():
        pytest.skip("the recorded answers are not here")
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "timetoken", "region"),
    [("subscribe-handshake", "14818963571353315", 12), ("subscribe-idle-timeout", "17309129601106056", 42)],
)
def test_an_answer_without_messages_says_where_to_go_on(name, timetoken, region):
    answer = answer_from(sample(name))
    assert (answer.timetoken, answer.region, answer.messages) == (timetoken, region, [])


def test_a_message_has_its_data_and_its_time():
    answer = answer_from(sample("subscribe-one-message"))
    assert answer.messages == [Message("hey", 1481896357302)]
    assert answer.timetoken == HERE["t"]


def test_an_answer_tells_where_to_go_on_and_a_message_when_it_was_published():
    published = {"t": "14818963573025400", "r": 12}
    answer = answer_from({"t": HERE, "m": [{"c": "channel", "d": "hey", "p": published, "f": 0}]})
    assert (answer.timetoken, answer.region) == (HERE["t"], 12)
    assert answer.messages == [Message("hey", 1481896357302)]


def test_a_time_of_publishing_can_be_a_number():
    assert answer_from({"t": HERE, "m": [{"d": 1, "p": {"t": 20000}}]}).messages == [Message(1, 2)]


def test_data_that_is_an_object_stays_one():
    (message,) = answer_from(sample("subscribe-presence-event")).messages
    assert message.data["action"] == "join"


def test_messages_keep_their_order():
    answer = answer_from({"t": HERE, "m": [{"d": text} for text in "cab"]})
    assert [message.data for message in answer.messages] == ["c", "a", "b"]


@pytest.mark.parametrize("messages", [{}, {"m": None}, {"m": []}])
def test_an_answer_need_not_have_messages(messages):
    assert answer_from({"t": HERE} | messages).messages == []


@pytest.mark.parametrize("said", [None, "12", [12], 1.5])
def test_a_region_that_is_no_number_counts_as_none(said):
    assert answer_from({"t": {"t": "1", "r": said}}).region == 0


def test_a_timetoken_can_be_a_number():
    assert answer_from({"t": {"t": 14818963573055360}}).timetoken == "14818963573055360"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "text",
        [[], "14818963573055360"],  # the form of v1
        {},
        {"t": None},
        {"t": "14818963573055360"},
        {"t": {}},
        {"t": {"t": ""}},
        {"t": {"t": None}},
        {"t": {"t": "-1"}},
        {"t": {"t": "x"}},
        {"t": {"t": "1" * 20}},
        {"status": 403, "error": True, "message": "Forbidden", "service": "Access Manager"},
    ],
)
def test_an_answer_without_a_timetoken_is_refused(raw):
    with pytest.raises(ProtocolError, match=r"^a PubNub answer without a timetoken: "):
        answer_from(raw)


@pytest.mark.parametrize("messages", ["text", {"d": 1}, 7, True])
def test_messages_that_are_no_list_are_refused(messages):
    with pytest.raises(ProtocolError, match=r"^a PubNub answer whose messages are no list"):
        answer_from({"t": HERE, "m": messages})


def test_of_what_is_no_answer_an_error_tells_the_kind_and_none_of_its_text():
    with pytest.raises(ProtocolError) as raised:
        answer_from("a message" * 1000)
    assert str(raised.value).endswith(": str")


@pytest.mark.parametrize("item", [None, 7, "text", [], {}, {"c": "channel"}])
def test_an_item_that_is_no_message_is_data_whole(item):
    assert answer_from({"t": HERE, "m": [item]}).messages == [Message(item, None)]


@pytest.mark.parametrize("published", [None, "14818963573025400", {}, {"t": None}, {"t": "x"}, {"t": -1}])
def test_a_message_need_not_say_when_it_was_published(published):
    assert answer_from({"t": HERE, "m": [{"d": None, "p": published}]}).messages == [Message(None, None)]


@given(answers | json_values)
def test_any_json_raises_nothing_but_its_own_error(raw):
    try:
        answer = answer_from(raw)
    except ProtocolError:
        return
    assert is_timetoken(answer.timetoken)
    assert isinstance(answer.region, int)


@pytest.mark.parametrize("text", ["0", "14818963571353315", "9" * 19])
def test_digits_are_a_timetoken(text):
    assert is_timetoken(text)


@pytest.mark.parametrize("text", ["", "1" * 20, "-1", "1.0", " 1", "\u0661", "\u00b2", "0x1"])
def test_anything_else_is_none(text):
    assert not is_timetoken(text)


def test_a_timetoken_counts_tenths_of_microseconds_since_1970():
    assert ms_from_timetoken("14818963571353315") == 1481896357135  # 2016-12-16T13:52:37.135Z


def test_an_earlier_timetoken_is_earlier_by_so_many_seconds():
    assert earlier("14818963571353315", 1.5) == "14818963556353315"
    assert earlier("14818963571353315", 0) == "14818963571353315"


def test_the_earliest_timetoken_is_not_0_which_would_mean_now():
    assert earlier("5", 60) == "1"


@given(timetokens, st.floats(0, 10_000))
def test_an_earlier_timetoken_is_one_and_is_not_later(timetoken, by_s):
    assert is_timetoken(earlier(timetoken, by_s))
    assert 1 <= int(earlier(timetoken, by_s)) <= int(timetoken)
