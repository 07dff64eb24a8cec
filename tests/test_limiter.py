"""The limits, with time as a number."""

from __future__ import annotations

import pytest

from rc_push.limiter import (
    GROUP_SILENCE_S,
    LIMIT_MAX,
    MARGIN_S,
    RETRY_AFTER_MAX_S,
    SILENCE_S,
    Limiter,
    LimitState,
    retry_after_s_from,
)

TOKEN = ("POST", "/restapi/oauth/token")
WSTOKEN = ("POST", "/restapi/oauth/wstoken")
LIST = ("GET", "/restapi/v1.0/subscription")
CREATE = ("POST", "/restapi/v1.0/subscription")
GROUP_HEADERS = {
    "X-Rate-Limit-Group": "auth",
    "X-Rate-Limit-Limit": "5",
    "X-Rate-Limit-Remaining": "0",
    "X-Rate-Limit-Window": "60",
}


def reserve_all(limiter: Limiter, call: tuple[str, str], *, now: float) -> int:
    """Reserve until the limiter says wait; return how often it did not."""
    count = 0
    while limiter.reserve(*call, now=now) == 0:
        count += 1
    return count


def test_the_auth_group_lets_five_pass_in_a_minute_over_all_its_endpoints():
    limiter = Limiter()
    assert [limiter.reserve(*call, now=0.0) for call in (TOKEN, WSTOKEN, TOKEN, WSTOKEN, TOKEN)] == [0.0] * 5
    assert limiter.reserve(*WSTOKEN, now=10.0) == 50.0 + MARGIN_S
    assert limiter.reserve(*WSTOKEN, now=60.0 + MARGIN_S) == 0.0


def test_the_window_slides():
    limiter = Limiter()
    for now in (0.0, 10.0, 20.0, 30.0, 40.0):
        assert limiter.reserve(*TOKEN, now=now) == 0.0
    assert limiter.reserve(*TOKEN, now=61.0) == 0.0
    assert limiter.reserve(*TOKEN, now=61.0) == 10.0


def test_no_window_ever_holds_more_than_the_limit():
    limiter, sent, now = Limiter(), [], 0.0
    for _ in range(200):
        wait_s = limiter.reserve(*TOKEN, now=now)
        if wait_s:
            now += wait_s
        else:
            sent.append(now)
            now += 0.7
    assert all(later - first > 60.0 for first, later in zip(sent, sent[5:], strict=False))


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        (LIST, 50),
        (("GET", "/restapi/v1.0/subscription/2db5c0de"), 50),
        (("POST", "/restapi/v1.0/subscription/2db5c0de/renew"), 50),
        (CREATE, 40),
        (("DELETE", "/restapi/v1.0/subscription/2db5c0de"), 40),
        (("GET", "/nothing/is/known/of/this"), 40),
        (("POST", "/restapi/oauth/revoke"), 5),
    ],
)
def test_groups_are_known_before_the_first_answer(call: tuple[str, str], limit: int):
    assert reserve_all(Limiter(), call, now=0.0) == limit


def test_groups_do_not_share_their_limits():
    limiter = Limiter()
    reserve_all(limiter, TOKEN, now=0.0)
    assert limiter.reserve(*LIST, now=0.0) == 0.0


def test_headers_say_which_group_an_endpoint_is_in_whatever_the_id_and_the_letters_case():
    limiter = Limiter()
    limiter.learn("GET", "/restapi/v1.0/thing/17?a=1", 200, {"x-rate-LIMIT-group": "Heavy"}, now=0.0)
    assert reserve_all(limiter, ("GET", "/restapi/v1.0/thing/99"), now=0.0) == 10


def test_headers_correct_limit_and_window_of_a_group_that_nobody_knew():
    limiter = Limiter()
    headers = {"X-Rate-Limit-Group": "special", "X-Rate-Limit-Limit": "2", "X-Rate-Limit-Window": "10"}
    limiter.learn("GET", "/special", 200, headers, now=0.0)
    assert reserve_all(limiter, ("GET", "/special"), now=0.0) == 2
    assert limiter.reserve("GET", "/special", now=10.0 + MARGIN_S) == 0.0


def test_what_others_sent_under_our_limit_counts():
    limiter = Limiter()
    limiter.reserve(*TOKEN, now=0.0)
    limiter.learn(*TOKEN, 200, {**GROUP_HEADERS, "X-Rate-Limit-Remaining": "1"}, now=0.5)
    assert reserve_all(limiter, TOKEN, now=1.0) == 1


def test_a_429_with_retry_after_silences_its_group_and_no_other():
    limiter = Limiter()
    limiter.learn(*WSTOKEN, 429, {**GROUP_HEADERS, "Retry-After": "90"}, now=0.0)
    assert limiter.silence_s(*TOKEN, now=10.0) == 80.0
    assert limiter.reserve(*TOKEN, now=10.0) == 80.0
    assert limiter.reserve(*LIST, now=10.0) == 0.0
    assert limiter.reserve(*TOKEN, now=90.0) == 0.0


def test_a_429_of_a_group_without_retry_after_is_a_minute():
    limiter = Limiter()
    limiter.learn(*WSTOKEN, 429, GROUP_HEADERS, now=0.0)
    assert limiter.silence_s(*TOKEN, now=0.0) == GROUP_SILENCE_S


def test_a_429_without_any_header_silences_everything():
    limiter = Limiter()
    limiter.learn(*LIST, 429, {"Content-Type": "application/json"}, now=0.0)
    assert [limiter.reserve(*call, now=0.0) for call in (TOKEN, LIST, CREATE)] == [SILENCE_S] * 3
    assert limiter.silence_s(*TOKEN, now=1.0) == SILENCE_S - 1.0
    assert limiter.reserve(*TOKEN, now=SILENCE_S) == 0.0


def test_another_429_never_shortens_a_penalty():
    limiter = Limiter()
    limiter.learn(*TOKEN, 429, {**GROUP_HEADERS, "Retry-After": "60"}, now=0.0)
    limiter.learn(*TOKEN, 429, {**GROUP_HEADERS, "Retry-After": "5"}, now=1.0)
    assert limiter.silence_s(*TOKEN, now=1.0) == 59.0


def test_the_rounding_of_a_clock_is_no_wait():
    limiter = Limiter()
    limiter.learn(*TOKEN, 429, {**GROUP_HEADERS, "Retry-After": "60"}, now=0.1)
    assert limiter.reserve(*TOKEN, now=60.1 + MARGIN_S - 1e-9) == 0.0


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "inf", "1e9", "٣", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_header_that_is_no_number_is_as_good_as_none(value: str):
    assert retry_after_s_from({"Retry-After": value}) is None
    limiter = Limiter()
    limiter.learn(*TOKEN, 200, dict.fromkeys(GROUP_HEADERS, value) | {"X-Rate-Limit-Group": "auth"}, now=0.0)
    assert reserve_all(limiter, TOKEN, now=0.0) == 5


def test_retry_after_is_bounded_on_both_sides():
    assert retry_after_s_from({"retry-after": "0"}) == 1.0
    assert retry_after_s_from({"retry-after": "12"}) == 12.0
    assert retry_after_s_from({"retry-after": "999999999"}) == RETRY_AFTER_MAX_S


def test_no_header_makes_the_limiter_remember_without_bound():
    limiter = Limiter()
    limiter.learn(*TOKEN, 200, {**GROUP_HEADERS, "X-Rate-Limit-Limit": "999999999999"}, now=0.0)
    assert len(limiter._groups["auth"].sent) == LIMIT_MAX


def test_what_is_spared_is_left_to_others_but_for_a_last_one():
    limiter = Limiter()
    assert [limiter.reserve(*TOKEN, now=0.0, spare=2) for _ in range(3)] == [0.0] * 3
    assert limiter.reserve(*TOKEN, now=0.0, spare=2) == 60.0 + MARGIN_S
    assert [limiter.reserve(*WSTOKEN, now=0.0) for _ in range(2)] == [0.0] * 2
    assert Limiter().reserve(*TOKEN, now=0.0, spare=9) == 0.0


def test_a_request_counts_from_its_answer_on():
    limiter = Limiter()
    for _ in range(5):
        limiter.reserve(*TOKEN, now=0.0)
    for _ in range(5):
        limiter.learn(*TOKEN, 200, {}, now=20.0)
    assert limiter.reserve(*TOKEN, now=20.0) == 60.0 + MARGIN_S


def test_what_never_reached_ringcentral_is_given_back():
    limiter = Limiter()
    for _ in range(5):
        limiter.reserve(*TOKEN, now=0.0)
    limiter.give_back(*TOKEN)
    assert [limiter.reserve(*TOKEN, now=0.0) for _ in range(2)] == [0.0, 60.0 + MARGIN_S]


def test_another_process_goes_on_with_what_is_used_up_by_the_wall_clock():
    first, second = Limiter(), Limiter()
    for now in (100.0, 110.0, 120.0, 130.0, 140.0):
        first.reserve(*TOKEN, now=now)
    second.restore(first.state(now=150.0, wall=1_000_150.0), now=7.0, wall=1_000_155.0)
    assert second.reserve(*TOKEN, now=7.0) == pytest.approx(5.0 + MARGIN_S)


def test_a_penalty_outlives_the_process():
    first, second = Limiter(), Limiter()
    first.learn(*WSTOKEN, 429, {**GROUP_HEADERS, "Retry-After": "60"}, now=0.0)
    second.restore(first.state(now=10.0, wall=1_000_010.0), now=500.0, wall=1_000_020.0)
    assert second.silence_s(*TOKEN, now=500.0) == pytest.approx(40.0)


@pytest.mark.parametrize("shift_s", [-86_400.0, 86_400.0])
def test_a_clock_that_was_moved_makes_nothing_wait_for_long(shift_s: float):
    first, second = Limiter(), Limiter()
    first.learn(*WSTOKEN, 429, {**GROUP_HEADERS, "Retry-After": "60"}, now=0.0)
    second.restore(first.state(now=0.0, wall=1_000_000.0), now=0.0, wall=1_000_000.0 + shift_s)
    assert second.silence_s(*TOKEN, now=0.0) <= 60.0


def test_what_a_version_before_has_kept_of_a_penalty_makes_nothing_wait_for_ever():
    limiter = Limiter()
    limiter.restore(LimitState(silent_until=2_000_000.0), now=0.0, wall=1_000_000.0)
    assert limiter.silence_s(*TOKEN, now=0.0) == RETRY_AFTER_MAX_S
