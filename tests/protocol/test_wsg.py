"""Both sides of a gateway session against each other, in memory: no socket, no task, time is a number."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.errors import ProtocolError, UnreachableError
from rc_push.protocol import frames, wsg
from rc_push.protocol.frames import BadFrame, Wsc
from rc_push.protocol.wsg import (
    Answered,
    ClientSession,
    Connected,
    ConnectionDetails,
    ErrorReceived,
    HeartbeatAnswered,
    Notified,
    Unknown,
)
from rc_push.protocol.wsg_server import MESSAGES, HeartbeatReceived, Limits, Requested, ServerSession

CREATED = "2026-11-23T10:00:00.000+0000"


def ids(prefix):
    numbers = itertools.count(1)
    return lambda: f"{prefix}{next(numbers)}"


def server_session(oauth="o1", **limits):
    session = ServerSession(session_id="s", oauth_session=oauth, limits=Limits(**limits), new_id=ids("s"))
    session.subscription = {"id": "sub"}
    return session


def client_session(now=0.0, wsc=None):
    return ClientSession(now=now, new_id=ids("c"), wsc=wsc)


def to_client(server, client, now=0.0):
    """Carry what the server has to say; return what the client makes of it."""
    return [client.receive(frame, now) for frame in server.data_to_send()]


def to_server(client, server, now=0.0):
    return [server.receive(frame, now) for frame in client.data_to_send()]


def connected(now=0.0, **limits):
    """Return a client and a server that are connected."""
    client, server = client_session(now), server_session(**limits)
    server.connect(now, CREATED)
    server.hand_over()
    to_client(server, client, now)
    return client, server


def reconnect(server, now, wsc, **details):
    client = client_session(now, wsc)
    server.connect(now, CREATED, **details)
    server.hand_over()
    return client, to_client(server, client, now)


def frame(meta, body=None):
    return frames.encode(meta, None if body is None else json.dumps(body).encode())


# ------------------------------------------------------------------------------------------------------ connection


def test_connection_details_carry_the_servers_limits_and_the_first_wsc():
    limits = {"recovery_buffer_size": 7, "recovery_timeout_s": 60.0, "idle_timeout_s": 1.5, "absolute_timeout_s": 99.0}
    client, server = client_session(), server_session(**limits, max_active_requests=2, max_connections=3)
    server.connect(0.0, CREATED)
    (fact,) = to_client(server, client)
    assert fact == Connected(ConnectionDetails(CREATED, 3, 7, 60, 1.5, 99, 2), None)
    assert client.wsc == Wsc(server.wsc_token, 1)
    assert server.wsc_token.startswith("s-")


def test_connection_details_on_the_wire_are_an_answer_with_an_id_of_its_own_and_say_nothing_of_a_recovery():
    server = server_session()
    server.connect(0.0, CREATED)
    meta, body = json.loads(server.data_to_send()[0])
    assert (meta["type"], meta["messageId"], meta["status"]) == ("ConnectionDetails", "s1", 200)
    assert "recoveryState" not in body
    assert "recoveryErrorCode" not in body


def test_a_session_begins_without_a_connection_a_subscription_or_a_token_and_keeps_what_is_published():
    server = ServerSession(session_id="s", oauth_session="o1", limits=Limits(), new_id=ids("s"))
    assert (server.is_connected, server.is_live, server.subscription, server.wsc_token) == (False, False, None, "")
    assert not server.has_expired(1e9)
    server.publish(b"{}", "1", 0.0)
    assert (server.kept, server.data_to_send()) == (1, [])


def test_whole_seconds_are_written_without_a_fraction():
    server = server_session()
    server.connect(0.0, CREATED)
    assert b'"recoveryTimeout":180,' in server.data_to_send()[0]


def test_details_without_a_wsc_leave_the_client_without_recovery():
    client, server = client_session(), server_session()
    server.connect(0.0, CREATED, with_wsc=False)
    to_client(server, client)
    assert client.wsc is None


def test_details_that_are_no_details_are_a_bad_frame():
    client = client_session()
    fact = client.receive(frame({"type": "ConnectionDetails"}, ["recoveryTimeout"]), 0.0)
    assert isinstance(fact, BadFrame)
    assert fact.raw == b'["recoveryTimeout"]', "without the meta, which holds the recovery token"
    assert fact.reason.startswith("ConnectionDetails: Expected `object`")
    assert client.details is None


def details_with(**odd):
    fact = client_session(wsc=Wsc("t")).receive(frame({"type": "ConnectionDetails"}, odd), 0.0)
    assert isinstance(fact, Connected)
    return fact.details


def test_what_does_not_fit_in_the_details_keeps_nobody_from_connecting():
    assert details_with(creationTime=5, recoveryState="Failed", recoveryErrorCode=1005) == ConnectionDetails(
        "5", recovery_state="Failed", recovery_error_code="1005"
    )
    assert details_with(recoveryTimeout="long", idleTimeout="PT30M", recoveryState=True) == ConnectionDetails()
    assert details_with(recoveryErrorCode="\ud800").recovery_error_code.isascii()


@pytest.mark.parametrize(("said", "taken"), [(10**400, wsg.COUNT_MAX), (-1, 1), (0, 1), (1, 1), (7, 7), ("7", 7)])
def test_what_the_server_counts_is_taken_within_bounds(said, taken):
    details = details_with(maxConnectionsPerSession=said, recoveryBufferSize=said, maxActiveRequests=said)
    counts = (details.max_connections_per_session, details.recovery_buffer_size, details.max_active_requests)
    assert counts == (taken, taken, taken)


def test_a_recovery_token_that_cannot_be_stored_is_none():
    client = client_session()
    assert isinstance(client.receive(frame({"type": "ConnectionDetails"}, {}), 0.0), Connected)
    client.receive(b'[{"type":"Heartbeat","wsc":{"token":"\\ud800","sequence":2}}]', 0.0)
    assert client.wsc is None
    client.receive(b'[{"type":"Heartbeat","messageId":7,"wsc":{"token":"t","sequence":2}}]', 0.0)
    assert client.wsc == Wsc("t", 2)


def test_details_without_a_body_count_with_the_documented_limits():
    client = client_session()
    fact = client.receive(frame({"type": "ConnectionDetails"}), 0.0)
    assert isinstance(fact, Connected)
    assert fact.details.recovery_timeout == 180


def test_a_second_connection_details_without_recovery_keeps_the_newer_wsc():
    client, _ = connected()
    client.receive(frame({"type": "Surprise", "wsc": {"token": "new", "sequence": 5}}), 0.0)
    client.receive(frame({"type": "ConnectionDetails", "wsc": {"token": "old", "sequence": 2}}, {}), 0.0)
    assert client.wsc == Wsc("new", 5)


def test_until_details_come_the_wsc_is_the_one_that_is_offered_and_a_recovery_keeps_it():
    client = client_session(wsc=Wsc("old", 900))
    assert client.wsc == Wsc("old", 900)
    fact = client.receive(frame({"type": "ConnectionDetails"}, {"recoveryState": "Successful"}), 0.0)
    assert isinstance(fact, Connected)
    assert fact.recovered is True
    assert client.wsc == Wsc("old", 900)


def test_nothing_is_sent_before_details_have_come_however_busy_it_was_before():
    client = ClientSession(now=0.0, new_id=ids("c"), rate_per_s=500.0)
    client.handle_timer(wsg.DETAILS_WITHIN_S - 0.1)
    assert not client.has_data_to_send
    assert client.data_to_send() == []


def test_no_details_within_their_time_mean_that_nobody_is_there():
    client = client_session(now=100.0)
    assert client.timer_at() == 100.0 + wsg.DETAILS_WITHIN_S
    client.handle_timer(100.0 + wsg.DETAILS_WITHIN_S - 0.1)
    with pytest.raises(UnreachableError, match="ConnectionDetails") as caught:
        client.handle_timer(100.0 + wsg.DETAILS_WITHIN_S)
    assert caught.value.phase == "details"


# -------------------------------------------------------------------------------------------------------- requests


def test_a_request_is_answered_under_its_own_id():
    client, server = connected()
    first = client.request("POST", "/restapi/v1.0/subscription", b'{"a":1}', 0.0)
    second = client.request("GET", "/x", None, 0.0)
    asked = to_server(client, server)
    assert asked == [
        Requested(first, "POST", "/restapi/v1.0/subscription", None, b'{"a":1}'),
        Requested(second, "GET", "/x", None, b""),
    ]
    server.answer(second, 204, None)
    server.answer(first, 200, b'{"id":"x"}', headers={"RoutingKey": "A"})
    assert to_client(server, client) == [Answered(second, True, 204, b""), Answered(first, True, 200, b'{"id":"x"}')]


def test_headers_of_an_answer_stand_in_its_meta():
    _, server = connected()
    server.answer("1", 200, None, headers={"RoutingKey": "A"})
    meta = json.loads(server.data_to_send()[0])[0]
    assert meta["headers"] == {"RCRequestId": "1", "RoutingKey": "A"}


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_answer_with_a_status_of_success_is_ok(status):
    client, server = connected()
    message_id = client.request("GET", "/x", None, 0.0)
    server.answer(message_id, status, None)
    assert to_client(server, client) == [Answered(message_id, True, status, b"")]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0, frames.CLIENT_REQUEST),
        (199, frames.CLIENT_REQUEST),
        (300, frames.CLIENT_REQUEST),
        (404, frames.CLIENT_REQUEST),
        (403, frames.ERROR),
        (200, frames.ERROR),
    ],
)
def test_an_answer_that_is_no_success_is_not_ok_whatever_its_type(status, kind):
    client, server = connected()
    message_id = client.request("GET", "/x", None, 0.0)
    server.answer(message_id, status, b"{}", kind=kind)
    assert to_client(server, client) == [Answered(message_id, False, status, b"{}")]


def test_an_answer_to_nobody_is_unknown_and_so_is_a_second_one():
    client, server = connected()
    message_id = client.request("GET", "/x", None, 0.0)
    server.answer(message_id, 200, b"{}")
    server.answer(message_id, 200, b"{}")
    _, second = to_client(server, client)
    assert isinstance(second, Unknown)


def test_no_request_goes_out_before_connection_details():
    with pytest.raises(ProtocolError, match=r"^a request before ConnectionDetails"):
        client_session().request("GET", "/x", None, 0.0)


def test_no_more_requests_than_the_server_allows_are_active():
    client, server = connected(max_active_requests=2)
    for _ in range(2):
        assert client.has_room
        last = client.request("GET", "/x", None, 0.0)
    assert not client.has_room
    with pytest.raises(ProtocolError, match="more than 2"):
        client.request("GET", "/x", None, 0.0)
    server.answer(last, 200, None)
    to_client(server, client)
    assert client.has_room
    client.request("GET", "/x", None, 0.0)


def test_a_request_without_an_answer_ends_the_connection():
    client, _ = connected()
    client.request("GET", "/x", None, 0.0)
    client.receive(frame({"type": "Surprise"}), 5.0)
    assert client.timer_at() == wsg.REQUEST_ANSWER_S
    with pytest.raises(UnreachableError, match="request") as caught:
        client.handle_timer(wsg.REQUEST_ANSWER_S)
    assert caught.value.phase == "request"


def test_the_query_of_a_request_reaches_the_server():
    server = server_session()
    fact = server.receive(frame({"type": "ClientRequest", "messageId": "1", "method": "get", "query": {"a": "b"}}), 0.0)
    assert fact == Requested("1", "GET", "", {"a": "b"}, b"")


# -------------------------------------------------------------------------------------------------- notifications


def test_a_notification_arrives_as_its_payload():
    client, server = connected()
    server.publish(b'{"uuid":"1"}', "1", 0.0)
    assert to_client(server, client) == [Notified(b'{"uuid":"1"}')]


def test_a_notification_on_the_wire_carries_its_uuid_as_message_id():
    _, server = connected()
    server.publish(b'{"uuid":"1"}', "1", 0.0)
    (sent,) = server.data_to_send()
    assert json.loads(sent) == [
        {"type": "ServerNotification", "messageId": "1", "status": 200, "headers": {"RCRequestId": "1"}},
        {"uuid": "1"},
    ]


def test_a_notification_can_carry_a_newer_wsc():
    client, server = connected()
    server.publish(b"{}", "1", 0.0, with_wsc=True)
    (sent,) = server.data_to_send()
    meta = json.loads(sent)[0]
    assert (meta["type"], meta["messageId"], meta["status"]) == ("ServerNotification", "1", 200)
    assert client.receive(sent, 0.0) == Notified(b"{}")
    assert client.wsc == Wsc(server.wsc_token, 2)


def test_an_older_wsc_does_not_replace_a_newer_one():
    client, _ = connected()
    client.receive(frame({"type": "Surprise", "wsc": {"token": "x", "sequence": 1}}), 0.0)
    assert client.wsc is not None
    assert client.wsc.token != "x"


def test_a_frame_that_is_injected_arrives_as_it_is():
    client, server = connected()
    server.inject(b"not-json")
    (fact,) = to_client(server, client)
    assert isinstance(fact, BadFrame)
    assert fact.raw == b"not-json"


# ---------------------------------------------------------------------------------------------- heartbeats and time


def test_silence_leads_to_a_heartbeat_and_its_answer_proves_the_time_before_it():
    client, server = connected()
    assert client.timer_at() == wsg.HEARTBEAT_AFTER_S
    client.handle_timer(wsg.HEARTBEAT_AFTER_S - 1)
    assert client.data_to_send() == []
    client.handle_timer(wsg.HEARTBEAT_AFTER_S)
    assert to_server(client, server, 31.0) == [HeartbeatReceived()]
    assert to_client(server, client, 31.5) == [HeartbeatAnswered(wsg.HEARTBEAT_AFTER_S)]
    assert client.timer_at() == 31.5 + wsg.HEARTBEAT_AFTER_S


def test_only_one_heartbeat_is_on_its_way():
    client, _ = connected()
    client.heartbeat(1.0)
    client.heartbeat(2.0)
    assert len(client.data_to_send()) == 1


def test_a_heartbeat_that_was_answered_makes_way_for_another():
    client, server = connected()
    for now in (1.0, 2.0):
        client.heartbeat(now)
        to_server(client, server, now)
        assert to_client(server, client, now) == [HeartbeatAnswered(now)]


def test_a_rate_that_was_known_before_leaves_half_of_its_time_for_the_silence_and_half_for_the_answer():
    client = ClientSession(now=7.0, new_id=ids("c"), rate_per_s=5.0)
    assert client.received_at == 7.0
    assert client.deadline_s == pytest.approx(10.0), "half of the buffer of 100"
    client.receive(frame({"type": "ConnectionDetails"}), 7.0)
    assert client.timer_at() == pytest.approx(12.0)
    client.handle_timer(client.timer_at())
    assert client.timer_at() == pytest.approx(17.0)


def test_how_long_silence_is_borne_follows_from_what_this_server_keeps():
    client = ClientSession(now=0.0, new_id=ids("c"), rate_per_s=1.0)
    assert client.deadline_s == pytest.approx(50.0), "by the documented limits, until it says its own"
    client.receive(frame({"type": "ConnectionDetails"}, {"recoveryBufferSize": 20}), 0.0)
    assert client.deadline_s == pytest.approx(10.0)
    client.receive(frame({"type": "ConnectionDetails"}, {"recoveryTimeout": 24}), 0.0)
    assert client.deadline_s == pytest.approx(8.0)


def test_rate_and_patience_follow_from_what_was_heard_last():
    client, _ = connected()
    assert (client.rate_per_s, client.deadline_s) == (0.0, 60.0)
    client.heard(1000.0, events=300)
    assert client.received_at == 1000.0
    assert client.rate_per_s == pytest.approx(10.0), "300 within the 30 s that are remembered"
    assert client.deadline_s == pytest.approx(5.0), "half of the buffer of 100"
    client.heard(1030.0)
    assert client.rate_per_s == pytest.approx(10.0 / math.e), "and nothing since"
    assert client.deadline_s == pytest.approx(5.0 * math.e)
    client.receive(b"[]", 1060.0)
    assert client.rate_per_s == pytest.approx(10.0 / math.e**2)


def test_a_heartbeat_without_an_answer_ends_the_connection_even_while_events_come():
    client, server = connected()
    client.heartbeat(1.0)
    server.publish(b"{}", "1", 5.0)
    to_client(server, client, 5.0)
    assert client.timer_at() == 1.0 + wsg.HEARTBEAT_ANSWER_S
    with pytest.raises(UnreachableError, match="Heartbeat") as caught:
        client.handle_timer(1.0 + wsg.HEARTBEAT_ANSWER_S)
    assert caught.value.phase == "heartbeat"


def test_the_echo_of_a_heartbeat_of_somebody_else_answers_nothing():
    client, _ = connected()
    echo = frame({"type": "Heartbeat", "messageId": "other"})
    assert client.receive(echo, 0.0) == Unknown("Heartbeat", echo)
    client.heartbeat(0.0)
    assert client.receive(echo, 0.0) == Unknown("Heartbeat", echo)


def test_the_echo_takes_ids_that_utf_8_cannot_hold():
    server = server_session()
    assert server.receive(b'[{"type":"Heartbeat","messageId":"\\ud800"}]', 0.0) == HeartbeatReceived()


def test_the_idle_limit_counts_from_the_last_message_in_either_direction():
    client, server = connected(idle_timeout_s=100.0)
    assert server.timer_at() == 100.0
    client.heartbeat(40.0)
    to_server(client, server, 40.0)
    assert server.handle_timer(139.9) == ""
    server.publish(b"{}", "1", 90.0)
    assert server.timer_at() == 190.0
    assert server.handle_timer(189.9) == ""
    assert server.handle_timer(190.0) == wsg.IDLE_TIMEOUT


def test_the_absolute_limit_counts_from_the_connect_whatever_happens():
    _, server = connected(absolute_timeout_s=500.0, idle_timeout_s=1000.0)
    server.publish(b"{}", "1", 499.0)
    assert server.timer_at() == 500.0
    assert server.handle_timer(500.0) == wsg.ABSOLUTE_TIMEOUT


@pytest.mark.parametrize("bare", [False, True])
def test_an_error_frame_is_told_with_its_code(bare):
    client, server = connected()
    server.fail(wsg.IDLE_TIMEOUT, MESSAGES[wsg.IDLE_TIMEOUT], bare=bare)
    (sent,) = server.data_to_send()
    meta = json.loads(sent)[0]
    assert meta == {"type": "Error"} if bare else (meta["messageId"], meta["status"]) == ("s2", 400)
    assert client.receive(sent, 0.0) == ErrorReceived("WSG-902", "Idle timeout expired")


def test_an_error_frame_in_upper_case_or_without_a_code_is_an_error_too():
    client, server = connected()
    assert client.receive(b'[{"type":"ERROR"},{"message":"Subscription failed"}]', 0.0) == ErrorReceived(
        "", "Subscription failed"
    )
    server.fail("X-1", "words")
    (sent,) = server.data_to_send()
    assert json.loads(sent)[0]["status"] == 400
    assert client.receive(sent, 0.0) == ErrorReceived("X-1", "words")


@pytest.mark.parametrize("body", [b'"wsc=PLANTED"', b"{}", b"[1]", b'{"message":["PLANTED"]}', None])
def test_of_an_error_that_says_nothing_we_can_read_nothing_is_told(body):
    fact = connected()[0].receive(frames.encode({"type": "Error"}, body), 0.0)
    assert fact == ErrorReceived("", "")
    assert str(fact) == "no reason that can be read"


def test_an_error_is_told_on_one_line_and_in_few_words():
    said = {"errorCode": 7, "message": "a\nb\x1b[31m\ud800" + "x" * 1000}
    fact = connected()[0].receive(frame({"type": "Error"}, said), 0.0)
    assert str(fact).startswith("7 a b [31m\\ud800xxx")
    assert len(str(fact)) < 400
    assert len(str(connected()[0].receive(frame({"type": "Error"}, {"errorCode": "x" * 1000}), 0.0))) < 400


def test_no_error_tells_the_tokens_that_it_quotes():
    client = ClientSession(now=0.0, new_id=ids("c"), wsc=Wsc("PLANTED/wsc="), access_token="PLANTED+access")
    client.receive(frame({"type": "ConnectionDetails", "wsc": {"token": "PLANTED-next", "sequence": 1}}, {}), 0.0)
    quotes = "PLANTED/wsc= PLANTED%2Fwsc%3D PLANTED+access PLANTED-next"
    body = json.dumps({"errorCode": "X-PLANTED+access", "message": f"no {quotes}"}).replace("/", "\\/").encode()
    assert client.receive(frames.encode({"type": "Error"}, body), 0.0) == ErrorReceived("X-***", "no *** *** *** ***")
    message_id = client.request("POST", "/x", None, 0.0)
    fact = client.receive(frames.encode({"type": "ClientRequest", "messageId": message_id, "status": 400}, body), 0.0)
    assert isinstance(fact, Answered)
    assert str(fact.refusal("subscription")) == "subscription 400 X-*** no *** *** *** ***"


def test_the_code_of_a_failed_recovery_is_short_and_tells_no_token():
    client = client_session(wsc=Wsc("PLANTED-wsc"))
    said = {"recoveryState": "Failed", "recoveryErrorCode": "PLANTED-wsc\n" + "x" * 1000}
    client.receive(frame({"type": "ConnectionDetails"}, said), 0.0)
    assert client.details is not None
    assert client.details.recovery_error_code == "*** " + "x" * 36


def test_what_is_kept_of_a_frame_that_is_not_understood_tells_no_token():
    client = client_session(wsc=Wsc("PLANTED-wsc", 7))
    client.receive(frame({"type": "ConnectionDetails", "wsc": {"token": "PLANTED-newer", "sequence": 8}}), 0.0)
    older = {"token": "PLANTED-older", "sequence": 3}
    kept = [
        client.receive(frame({"type": "Surprise", "wsc": older}), 0.0).raw,
        client.receive(frame({"type": "Heartbeat", "messageId": "nobody's", "wsc": older}), 0.0).raw,
        client.receive(b'{"quoted":"PLANTED-wsc PLANTED-newer"}', 0.0).raw,
    ]
    assert kept[0] == frame({"type": "Surprise", "wsc": older | {"token": "***"}})
    assert not any(b"PLANTED" in raw for raw in kept)
    assert kept[2] == b'{"quoted":"*** ***"}'


def test_an_unknown_type_is_unknown_to_both_sides():
    client, server = connected()
    surprise = frame({"type": "Surprise"})
    assert client.receive(surprise, 0.0) == Unknown("Surprise", surprise)
    assert server.receive(surprise, 0.0) == Unknown("Surprise", surprise)


def test_the_server_survives_what_is_no_frame():
    assert isinstance(server_session().receive(b"{}", 0.0), BadFrame)


# --------------------------------------------------------------------------------------------------------- recovery


def test_a_recovered_session_hands_over_what_was_missed_behind_the_details():
    client, server = connected()
    server.disconnect(10.0)
    for number in range(3):
        server.publish(b'{"n":%d}' % number, str(number), 11.0)
    assert server.kept == 3
    assert server.refusal_to_recover("o1", 12.0, expired_code="E") == ""
    _, facts = reconnect(server, 12.0, client.wsc, recovery="Successful")
    assert isinstance(facts[0], Connected)
    assert facts[0].recovered is True
    assert facts[1:] == [Notified(b'{"n":0}'), Notified(b'{"n":1}'), Notified(b'{"n":2}')]
    assert server.kept == 0


def test_what_was_kept_comes_before_what_waits_to_be_said():
    _, server = connected()
    server.disconnect(1.0)
    server.publish(b'{"n":0}', "0", 1.0)
    server.connect(2.0, CREATED, recovery="Successful")
    client = client_session(2.0, Wsc("w", 1))
    to_client(server, client)
    client.heartbeat(2.0)
    to_server(client, server, 2.0)
    server.publish(b'{"n":1}', "1", 2.0)
    server.hand_over()
    assert to_client(server, client) == [Notified(b'{"n":0}'), Notified(b'{"n":1}'), HeartbeatAnswered(2.0)]


def test_a_connection_that_ends_before_the_hand_over_leaves_all_that_was_kept():
    _, server = connected()
    server.disconnect(1.0)
    server.publish(b"{}", "0", 1.0)
    server.connect(2.0, CREATED, recovery="Successful")
    server.publish(b"{}", "1", 2.0)
    server.disconnect(3.0)
    assert (server.kept, server.dropped) == (2, 0)


def test_only_the_newest_notifications_are_kept_and_the_others_are_counted():
    client, server = connected(recovery_buffer_size=2)
    server.disconnect(0.0)
    for number in range(5):
        server.publish(b'{"n":%d}' % number, str(number), 0.0)
    assert (server.kept, server.dropped) == (2, 3)
    _, facts = reconnect(server, 1.0, client.wsc, recovery="Successful")
    assert facts[1:] == [Notified(b'{"n":3}'), Notified(b'{"n":4}')]


def test_what_is_published_on_a_connection_is_not_sent_again():
    client, server = connected()
    server.publish(b"{}", "1", 1.0)
    server.disconnect(1.0)
    _, facts = reconnect(server, 2.0, client.wsc, recovery="Successful")
    assert len(facts) == 1


def test_with_replay_the_last_moments_of_a_connection_are_sent_again():
    client, server = connected(replay_sent_s=1.0)
    for second in (0.0, 4.0, 4.5):
        server.publish(b'{"at":%.1f}' % second, "1", second)
    to_client(server, client)
    server.disconnect(5.0)
    _, facts = reconnect(server, 6.0, client.wsc, recovery="Successful")
    assert facts[1:] == [Notified(b'{"at":4.0}'), Notified(b'{"at":4.5}')]


def test_what_a_replay_sends_again_is_no_more_than_the_buffer_holds_and_nothing_of_it_counts_as_dropped():
    _, server = connected(replay_sent_s=10.0, recovery_buffer_size=2)
    for number in range(3):
        server.publish(b"{}", str(number), 1.0)
    server.disconnect(2.0)
    assert (server.kept, server.dropped) == (2, 0)


def test_a_replay_sends_again_what_was_sent_over_this_connection_and_not_over_the_one_before():
    client, server = connected(replay_sent_s=100.0)
    server.publish(b"{}", "1", 1.0)
    to_client(server, client)
    for now in (2.0, 4.0):
        server.disconnect(now)
        _, facts = reconnect(server, now, client.wsc, recovery="Successful")
        assert len(facts) == (2 if now == 2.0 else 1)


def test_what_was_to_be_sent_when_the_connection_ended_is_not_sent_over_the_next_one():
    _, server = connected()
    server.inject(b"1")
    server.disconnect(1.0)
    assert server.data_to_send() == []
    server.connect(2.0, CREATED)
    server.inject(b"2")
    server.disconnect(3.0)
    _, facts = reconnect(server, 4.0, None)
    assert len(facts) == 1


def test_what_waited_for_the_hand_over_is_said_once():
    _, server = connected()
    server.disconnect(1.0)
    server.connect(2.0, CREATED)
    server.inject(b"2")
    server.hand_over()
    assert server.data_to_send()[1:] == [b"2"]
    server.hand_over()
    assert server.data_to_send() == []
    server.disconnect(3.0)
    assert len(reconnect(server, 4.0, None)[1]) == 1


def test_of_what_came_before_the_hand_over_no_more_is_kept_than_the_buffer_holds():
    _, server = connected(recovery_buffer_size=2)
    server.disconnect(1.0)
    server.connect(2.0, CREATED)
    for number in range(5):
        server.publish(b"{}", str(number), 2.0)
    assert server.kept == 5, "they are about to be sent"
    server.disconnect(3.0)
    assert (server.kept, server.dropped) == (2, 3)


def test_a_disconnect_without_a_connection_changes_nothing():
    _, server = connected()
    server.disconnect(10.0)
    server.disconnect(100.0)
    assert server.has_expired(10.0 + 180.1)


def test_a_session_that_is_connected_does_not_expire():
    _, server = connected()
    assert not server.has_expired(1e9)


@pytest.mark.parametrize(
    ("oauth", "now", "has_subscription", "code"),
    [
        ("o1", 190.0, True, ""),
        ("o1", 190.1, True, "EXPIRED"),
        ("o2", 11.0, True, wsg.OTHER_OAUTH_SESSION),
        ("o1", 11.0, False, wsg.NO_SUBSCRIPTION),
    ],
)
def test_a_recovery_is_refused_for_its_reason(oauth, now, has_subscription, code):
    _, server = connected()
    server.disconnect(10.0)
    if not has_subscription:
        server.subscription = None
    assert server.refusal_to_recover(oauth, now, expired_code="EXPIRED") == code


def test_a_failed_recovery_is_told_with_its_code_and_takes_the_new_wsc():
    server = server_session()
    client, (fact,) = reconnect(server, 0.0, Wsc("old", 900), recovery="Failed", error_code="WSG-1003")
    assert isinstance(fact, Connected)
    assert (fact.recovered, fact.details.recovery_error_code) == (False, "WSG-1003")
    assert client.wsc == Wsc(server.wsc_token, 1)


def test_details_without_a_recovery_state_after_a_wsc_are_no_recovery():
    client, (fact,) = reconnect(server_session(), 0.0, Wsc("old", 900))
    assert isinstance(fact, Connected)
    assert fact.recovered is False
    assert client.wsc is not None
    assert client.wsc.sequence == 1


def test_a_failed_recovery_without_a_new_wsc_forgets_the_old_one():
    client, _ = reconnect(server_session(), 0.0, Wsc("old", 900), recovery="Failed", with_wsc=False)
    assert client.wsc is None


def test_a_malformed_wsc_is_forgotten():
    client = client_session(wsc=Wsc("fake", 1))
    fact = client.receive(
        frame({"type": "Error", "status": 400}, {"errorCode": "WSG-400", "message": "Malformed"}), 0.0
    )
    assert fact == ErrorReceived("WSG-400", "Malformed")
    assert client.wsc is None


# ------------------------------------------------------------------------------------------------------- properties

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
types = st.sampled_from(
    ["ConnectionDetails", "ClientRequest", "ServerNotification", "Heartbeat", "Error", "ERROR", "X"]
)
some_frames = st.tuples(
    st.fixed_dictionaries(
        {"type": types | values},
        optional=dict.fromkeys(("messageId", "status", "wsc", "method", "path", "query", "headers"), values),
    ),
    values,
).map(lambda pair: json.dumps(pair).encode())


@given(st.lists(st.binary() | some_frames, max_size=6))
def test_neither_side_raises_for_what_it_receives(received):
    client, server = connected()
    client.request("GET", "/x", None, 0.0)
    client.heartbeat(0.0)
    for data in received:
        assert client.receive(data, 0.0) is not None
        assert server.receive(data, 0.0) is not None
    server.data_to_send()


@given(st.lists(st.sampled_from(["publish", "disconnect", "reconnect", "carry"]), max_size=40))
def test_in_any_order_of_events_nothing_is_received_twice_or_out_of_order(steps):
    client, server = connected(recovery_buffer_size=1000)
    now, sent, got = 0.0, 0, []
    for step in steps:
        now += 0.1
        if step == "publish":
            server.publish(b"%d" % sent, str(sent), now)
            sent += 1
        elif step == "disconnect":
            server.disconnect(now)
        elif step == "reconnect" and not server.is_connected:
            client, facts = reconnect(server, now, client.wsc, recovery="Successful")
            got += [int(fact.payload) for fact in facts if isinstance(fact, Notified)]
        elif step == "carry":
            got += [int(fact.payload) for fact in to_client(server, client, now) if isinstance(fact, Notified)]
    assert got == sorted(set(got))
    assert server.dropped == 0
