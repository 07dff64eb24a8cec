"""The error tree: what is worth another try, exit codes, and what the texts say."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback

import pytest

from rc_push import errors
from rc_push.errors import (
    DETAIL_MAX_LENGTH,
    ConfigError,
    ControlError,
    CredentialsRefused,
    Failed,
    FiltersRefused,
    HandlerError,
    JournalCorrupt,
    JournalError,
    JournalFull,
    JournalInUse,
    JournalTooNew,
    NoAnswer,
    NotRunning,
    PermissionRefused,
    Problem,
    ProtocolError,
    RateLimited,
    RcPushError,
    RefusedError,
    Reject,
    RestError,
    Retry,
    RoutingError,
    ServerError,
    UnreachableError,
    UpgradeBlocked,
    delay_asked_for_s,
    detail_of,
    is_retryable,
)

PROBLEM = Problem("accounts.main.jwt", "is missing", "name a file", line=12)
REFUSED = CredentialsRefused(400, "OAU-213", "Token not found", remedy="create a new JWT", where="token")

EXAMPLES = [
    RcPushError("something"),
    ConfigError([PROBLEM]),
    RefusedError(403, "CMN-401", "no", remedy="ask the admin"),
    REFUSED,
    PermissionRefused(403, "SUB-528", "no", remedy="add the permission"),
    FiltersRefused(400, "SUB-508", "no", remedy="correct event_filters"),
    RestError(404, "CMN-102", "not found"),
    RateLimited(60.0),
    ServerError(503, retry_after_s=7.0),
    UnreachableError("no answer"),
    UpgradeBlocked("gw refused the upgrade with HTTP 403", retry_after_s=60.0),
    ProtocolError("not JSON", beginning="<html>"),
    JournalError("broken"),
    JournalInUse("in use"),
    JournalTooNew("too new"),
    JournalFull("no room"),
    JournalCorrupt("damaged"),
    ControlError("no such handler"),
    NotRunning("nobody listens"),
    NoAnswer("it hangs"),
    HandlerError("no such handler"),
    RoutingError("where: contains() takes string and got null"),
    Retry(2.0),
    Failed("exit code 3"),
    Reject("no"),
]


def test_the_examples_are_the_whole_tree():
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, RcPushError)}
    assert {type(example) for example in EXAMPLES} == classes


@pytest.mark.parametrize("exc", EXAMPLES, ids=lambda exc: type(exc).__name__)
def test_every_error_stands_in_the_docstring_with_its_own_line(exc):
    assert type(exc).__name__ in (errors.__doc__ or "").split()


@pytest.mark.parametrize("exc", EXAMPLES, ids=lambda exc: type(exc).__name__)
def test_every_error_says_when_it_is_raised(exc):
    assert (type(exc).__doc__ or "").startswith(("Raised", "The root"))


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (RcPushError("x"), 1),
        (RestError(404), 1),
        (UnreachableError("x"), 69),
        (UpgradeBlocked("x"), 69),
        (JournalError("x"), 74),
        (JournalFull("x"), 74),
        (ControlError("x"), 1),
        (ControlError("x", 2), 2),
        (NotRunning("x"), 3),
        (REFUSED, 77),
        (PermissionRefused(403, "SUB-528", "no", remedy="add it"), 77),
        (ConfigError([PROBLEM]), 78),
        (HandlerError("x"), 78),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_carry_the_exit_codes_that_systemd_and_scripts_rely_on(exc, code):
    assert exc.exit_code == code


FINAL = (RefusedError, ConfigError, HandlerError)


@pytest.mark.parametrize("exc", EXAMPLES, ids=lambda exc: type(exc).__name__)
def test_only_refusals_and_mistakes_in_the_file_are_final(exc):
    assert is_retryable(exc) is not isinstance(exc, FINAL)


@pytest.mark.parametrize("exc", [ValueError("x"), OSError(5, "I/O"), TimeoutError(), MemoryError(), RecursionError()])
def test_an_unknown_exception_is_worth_another_try(exc):
    assert is_retryable(exc)


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), GeneratorExit()])
def test_a_request_to_stop_is_never_retried(exc):
    assert not is_retryable(exc)


@pytest.mark.parametrize(
    ("exc", "delay_s"),
    [
        (RateLimited(60.0), 60.0),
        (RateLimited(0), 0.0),
        (ServerError(503, retry_after_s=7), 7.0),
        (ServerError(502), 0.0),
        (UnreachableError("x"), 0.0),
        (UpgradeBlocked("x", retry_after_s=60.0), 60.0),
        (ValueError("x"), 0.0),
    ],
    ids=repr,
)
def test_the_delay_asked_for_is_the_servers_or_none(exc, delay_s):
    assert delay_asked_for_s(exc) == delay_s


def test_a_rest_error_says_where_what_and_why():
    assert str(RestError(404, "CMN-102", "Not found", where="GET /x")) == "GET /x 404 CMN-102 Not found"


def test_a_rest_error_without_details_has_no_holes_in_its_text():
    assert str(RestError(500)) == "500"


def test_a_refusal_ends_with_its_remedy():
    assert str(REFUSED) == "token 400 OAU-213 Token not found: create a new JWT"


def test_a_protocol_error_shows_how_the_guilty_frame_begins():
    assert str(ProtocolError("not JSON", beginning="<html>")) == "not JSON: <html>"
    assert str(ProtocolError("not JSON")) == "not JSON"


def test_a_configuration_error_lists_every_mistake():
    other = Problem("journal.path", "is a number", "write it in quotes")
    exc = ConfigError([PROBLEM, other], path="rc-push.toml")
    assert str(exc) == (
        "line 12: accounts.main.jwt: is missing; name a file\njournal.path: is a number; write it in quotes"
    )
    assert exc.problems == [PROBLEM, other]


@pytest.mark.parametrize(("asked_s", "delay_s"), [(5, 5.0), ("2.5", 2.5), (-1, 0.0), (math.nan, 0.0)])
def test_a_retry_asks_for_a_delay_that_one_can_sleep(asked_s, delay_s):
    assert Retry(asked_s).delay_s == delay_s


@pytest.mark.parametrize("asked_s", [None, "soon", []])
def test_a_retry_without_a_number_fails_in_the_handler_that_made_the_mistake(asked_s):
    with pytest.raises((TypeError, ValueError)):
        Retry(asked_s)


@pytest.mark.parametrize("reason", ["no such ticket", ValueError("no such ticket")])
def test_a_reject_takes_its_reason_as_text_or_as_an_exception(reason):
    assert Reject(reason).reason == "no such ticket"


@pytest.mark.parametrize("exc", [Failed("exit code 3", detail="what it said"), Reject("no", detail="what it said")])
def test_a_detail_is_for_the_record_and_stands_neither_in_the_text_nor_in_the_traceback(exc):
    assert detail_of(exc) == "what it said"
    assert "what it said" not in "".join([str(exc), repr(exc), *traceback.format_exception(exc)])


async def test_a_handler_that_is_cut_can_leave_its_detail_on_the_cancellation():
    async def handle():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            exc.detail = "what it said so far"
            raise

    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await handle()
    assert detail_of(caught.value) == "what it said so far"


def test_a_detail_is_bounded():
    assert len(detail_of(Failed("x", detail="y" * (DETAIL_MAX_LENGTH + 1)))) == DETAIL_MAX_LENGTH


def test_foreign_exceptions_have_no_detail_unless_it_is_text():
    foreign = ValueError("x")
    foreign.detail = {"loc": "body"}
    foreign.__cause__ = KeyError("y")
    foreign.__cause__.__cause__ = foreign
    assert detail_of(foreign) == ""
