"""What an answer means: done, again later, again after so long, or never; and what is told of it to whom."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.config import Secret
from rc_push.errors import Failed, HandlerError, Reject, Retry, UnreachableError
from rc_push.handlers.webhook_answer import KEPT_MAX_BYTES, Answer, judge, judge_validation, retry_after_s

ORIGIN = "https://receiver.example.com"
NOW_S = 1_800_000_000.0


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(ORIGIN, status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_done(status):
    judge(answer(status), [], NOW_S)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_be_taken_later_is_a_failed_attempt_with_the_answer_as_its_detail(status):
    with pytest.raises(Failed, match=rf"^https://receiver\.example\.com answered {status} ") as caught:
        judge(answer(status, b"not now"), [], NOW_S)
    assert caught.value.detail == "not now"
    assert "not now" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422, 499])
def test_other_4xx_are_never_taken_and_say_why_in_the_detail(status):
    with pytest.raises(Reject, match=rf"answered {status} ") as caught:
        judge(answer(status, b"no such ticket", Retry_After="5"), [], NOW_S)
    assert caught.value.detail == "no such ticket"
    assert "ticket" not in caught.value.reason


@pytest.mark.parametrize("status", [101, 199, 600, 999])
def test_a_status_that_no_receiver_answers_with_is_a_failed_attempt(status):
    with pytest.raises(Failed, match=f"answered {status}"):
        judge(answer(status), [], NOW_S)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://other.example.com:8443/path?token=PLANTED", "other.example.com"),
        ("//other.example.com/", "other.example.com"),
        ("/login?next=PLANTED", "another path of its own"),
        ("", "another path of its own"),
        ("https://[bad/PLANTED", "another path of its own"),
        ("https://" + "x" * 200, "x" * 100),
    ],
)
def test_a_redirect_is_named_with_the_host_it_points_to(status, location, shown):
    with pytest.raises(Reject, match=rf"pointing to {shown}; redirects are not followed: name the final address") as it:
        judge(answer(status, Location=location), [], NOW_S)
    assert "PLANTED" not in str(it.value)


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_receiver_that_asks_for_time_gets_it_and_no_attempt_is_counted(status):
    with pytest.raises(Retry) as caught:
        judge(answer(status, Retry_After="7"), [], NOW_S)
    assert caught.value.delay_s == 7


@pytest.mark.parametrize(
    ("value", "delay_s"),
    [
        ("0", 1),
        ("7", 7),
        ("3600", 3600),
        ("86400", 3600),
        ("9" * 5000, 3600),
        (email.utils.formatdate(NOW_S + 90, usegmt=True), 90),
        (email.utils.formatdate(NOW_S - 90, usegmt=True), 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_both_forms_of_retry_after_are_understood_within_bounds(value, delay_s):
    assert retry_after_s(value, NOW_S) == delay_s


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/Berlin", "UTC"])
@pytest.mark.parametrize("value", ["Fri Jan 15 08:02:00 2027", "Fri, 15 Jan 2027 08:02:00 -0000"])
def test_a_date_without_a_zone_is_in_utc_wherever_we_are(monkeypatch, zone, value):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after_s(value, NOW_S) == 120.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_no_retry_after_breaks_anything(value):
    delay_s = retry_after_s(value, NOW_S)
    assert delay_s is None or 1 <= delay_s <= 3600


def test_at_most_4_kb_of_a_body_are_kept_and_our_secrets_cut_out():
    body = b"you sent PLANTED and \xff " + b"x" * 2 * KEPT_MAX_BYTES
    with pytest.raises(Reject) as caught:
        judge(answer(400, body), [Secret("PLANTED")], NOW_S)
    detail = caught.value.detail
    assert detail.startswith("you sent *** and � xx")
    assert len(detail) == KEPT_MAX_BYTES


def test_a_secret_that_the_end_of_what_is_kept_cuts_in_two_is_cut_out():
    body = b"x" * (KEPT_MAX_BYTES - 4) + b"PLANTED"
    with pytest.raises(Reject) as caught:
        judge(answer(400, body), [Secret("PLANTED")], NOW_S)
    assert caught.value.detail.endswith("x***")


# ----------------------------------------------------------------------------------------------------------- validation


def test_an_echo_is_what_is_asked_for():
    judge_validation(answer(200, Validation_Token="t-1"), "t-1")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_receiver_that_is_not_well_may_echo_later(status):
    with pytest.raises(UnreachableError, match=f"answered {status} "):
        judge_validation(answer(status, Validation_Token="t-1"), "t-1")


@pytest.mark.parametrize(
    ("given_answer", "told"),
    [
        (answer(200), "does not echo Validation-Token; a request with the header Validation-Token has to be"),
        (answer(200, Validation_Token="t-2"), "echoes another Validation-Token; "),
        (answer(204, Validation_Token="t-1"), "answered 204 No Content to the validation request; "),
        (answer(404), "answered 404 Not Found to the validation request; "),
        (answer(401), "answered 401 Unauthorized to the validation request; "),
        (answer(302, Location="https://a.example/?PLANTED"), "answered 302 Found, pointing to a.example; "),
    ],
)
def test_a_receiver_that_answers_wrongly_is_a_mistake_with_its_remedy(given_answer, told):
    with pytest.raises(HandlerError) as caught:
        judge_validation(given_answer, "t-1")
    assert str(caught.value).startswith(f"{ORIGIN} {told}")
    assert "PLANTED" not in str(caught.value)
