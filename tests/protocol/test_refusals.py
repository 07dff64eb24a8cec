"""What RingCentral's refusals mean."""

from __future__ import annotations

import json
import re

import pytest
from published import SAMPLES

from rc_push.errors import (
    CredentialsRefused,
    FiltersRefused,
    PermissionRefused,
    RateLimited,
    RestError,
    ServerError,
    is_retryable,
)
from rc_push.protocol.refusals import (
    CODE_MAX_CHARS,
    MESSAGE_MAX_CHARS,
    SILENCE_S,
    error_from_response,
    remedy_for,
)


def rest_body(code: str, message: str = "words") -> bytes:
    first = {"errorCode": code, "message": message}
    return json.dumps({**first, "errors": [first]}).encode()


def oauth_body(error: str, code: str = "", description: str = "words") -> bytes:
    errors = [{"errorCode": code, "message": description}] if code else []
    return json.dumps({"error": error, "error_description": description, "errors": errors}).encode()


def test_429_is_rate_limited_for_as_long_as_asked():
    exc = error_from_response(429, rest_body("CMN-301"), where="here", retry_after_s=12.0)
    assert isinstance(exc, RateLimited)
    assert (exc.retry_after_s, exc.error_code, str(exc)) == (12.0, "CMN-301", "here 429 CMN-301 words")


def test_429_is_rate_limited_whatever_the_code():
    exc = error_from_response(429, b"")
    assert isinstance(exc, RateLimited)
    assert exc.retry_after_s == SILENCE_S


@pytest.mark.parametrize("status", [0, 400, 403, 503])
def test_a_rate_code_is_rate_limited_whatever_the_status(status: int):
    exc = error_from_response(status, rest_body("CMN-310"))
    assert isinstance(exc, RateLimited)
    assert exc.retry_after_s == SILENCE_S


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_5xx_is_a_server_error_that_keeps_the_wait(status: int):
    exc = error_from_response(status, rest_body("CMN-201"), retry_after_s=15.0)
    assert isinstance(exc, ServerError)
    assert (exc.status, exc.retry_after_s) == (status, 15.0)
    assert is_retryable(exc)


@pytest.mark.parametrize("status", [0, 403])
@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            "SUB-528",
            "[SubscriptionWebSocket] application permission is required",
            "the app the permission Subscription",
        ),
        ("CMN-408", "[ReadMessages] permission required", "the user the permission ReadMessages"),
        ("CMN-401", "Specific application permission required", "the app the missing permission"),
        ("SUB-402", "Presence feature is disabled", "event_filters"),
        ("SUB-408", "Not allowed subscribe for unknown user", "event_filters"),
    ],
)
def test_a_missing_permission_is_final_and_named(status: int, code: str, message: str, words: str):
    exc = error_from_response(status, rest_body(code, message), where="subscription")
    assert isinstance(exc, PermissionRefused)
    assert not is_retryable(exc)
    assert words in str(exc)
    assert code in str(exc)


@pytest.mark.parametrize(
    ("status", "body", "code", "key"),
    [
        (400, oauth_body("invalid_client", "OAU-153"), "OAU-153", "client_id"),
        (400, oauth_body("invalid_grant", "OAU-210"), "OAU-210", "jwt"),
        (400, oauth_body("invalid_grant"), "invalid_grant", "jwt"),
        (400, oauth_body("invalid_grant", "OAU-999"), "OAU-999", "jwt"),
        (400, oauth_body("unauthorized_client", "OAU-251"), "OAU-251", "JWT auth flow"),
        (401, rest_body("OAU-146"), "OAU-146", "client_secret"),
        (401, rest_body("OAU-213"), "OAU-213", "access_token"),
        (401, rest_body("OAU-999"), "OAU-999", "client_secret"),
        (400, rest_body("OAU-236"), "OAU-236", "user"),
        (401, b"", "", "client_secret"),
        (401, b"<html>Unauthorized</html>", "", "client_secret"),
    ],
)
def test_refused_credentials_are_final_and_name_the_key_to_look_at(status: int, body: bytes, code: str, key: str):
    exc = error_from_response(status, body)
    assert isinstance(exc, CredentialsRefused)
    assert exc.error_code == code
    assert key in exc.remedy


@pytest.mark.parametrize("code", ["AGW-401", "CMN-405"])
def test_a_code_of_credentials_counts_whatever_it_is_called_and_whatever_the_status(code):
    assert isinstance(error_from_response(403, rest_body(code)), CredentialsRefused)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "CMN-301", RateLimited),
        (503, "CMN-201", ServerError),
        (403, "SUB-402", PermissionRefused),
        (400, "SUB-508", FiltersRefused),
        (401, "OAU-146", CredentialsRefused),
        (404, "CMN-102", RestError),
    ],
)
def test_each_refusal_says_what_was_asked_and_what_was_answered(status, code, kind):
    exc = error_from_response(status, rest_body(code), where="POST /x")
    assert type(exc) is kind
    assert (exc.status, exc.error_code, exc.message, exc.where) == (status, code, "words", "POST /x")
    assert str(exc).startswith(f"POST /x {status} {code} words")
    assert error_from_response(status, rest_body(code)).where == ""


def test_an_oauth_error_without_a_code_names_what_to_look_at_by_its_word():
    assert "JWT auth flow" in error_from_response(400, oauth_body("unauthorized_client")).remedy
    assert "client_secret" in error_from_response(400, oauth_body("access_denied")).remedy


def test_too_many_subscriptions_are_told_with_what_to_do_and_tried_again():
    exc = error_from_response(403, rest_body("SUB-505"))
    assert str(exc) == ("403 SUB-505 words; end subscriptions that nobody needs: rc-push subscriptions lists them")
    assert is_retryable(exc)


def test_a_code_that_nobody_knows_has_no_remedy():
    assert remedy_for("XYZ-1", "[ReadMessages] permission required") == ""


def test_an_unknown_event_filter_is_a_mistake_in_the_file():
    exc = error_from_response(400, rest_body("SUB-508"))
    assert isinstance(exc, FiltersRefused)
    assert exc.exit_code == 78
    assert "event_filters" in str(exc)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "SUB-505"), (404, "CMN-102"), (403, ""), (302, ""), (0, "WSG-1005")]
)
def test_everything_else_is_a_plain_rest_error(status: int, code: str):
    exc = error_from_response(status, rest_body(code))
    assert type(exc) is RestError
    assert (exc.status, exc.error_code) == (status, code)


def test_the_error_of_another_service_is_no_oauth_error():
    body = json.dumps({"timestamp": 1, "status": 404, "error": "Not Found", "path": "/x"}).encode()
    assert type(error_from_response(404, body)) is RestError


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"<html>",
        b"\xff\xfe",
        b"{",
        b'{"errors":null}',
        b'{"errors":[]}',
        b'{"errors":[null]}',
        b'{"errors":{}}',
        b'{"errorCode":7,"message":["x"],"error":{}}',
        b"[" * 100_000,
    ],
)
def test_garbage_is_a_rest_error_without_words(body: bytes):
    exc = error_from_response(404, body, where="here")
    assert type(exc) is RestError
    assert str(exc) == "here 404"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"errorCode":"CMN-102","message":"gone"}', ("CMN-102", "gone")),
        (b'{"errorCode":"CMN-102","message":"gone","errors":[{"errorCode":"X","message":"y"}]}', ("CMN-102", "gone")),
        (b'{"error":"invalid_grant","error_description":"expired"}', ("invalid_grant", "expired")),
        (b'{"message":"gone","error_description":"y"}', ("", "gone")),
    ],
)
def test_the_top_speaks_first(body, said):
    exc = error_from_response(404, body)
    assert (exc.error_code, exc.message) == said


def test_the_first_of_errors_speaks_where_the_top_is_silent():
    exc = error_from_response(404, b'{"errors":[{"errorCode":"CMN-102","message":"gone"},{"errorCode":"X"}]}')
    assert (exc.error_code, exc.message) == ("CMN-102", "gone")


def test_the_servers_words_are_short_and_on_one_line():
    exc = error_from_response(400, rest_body("CMN-101\x1b[2J", "a\nb\x1b[31m\x00c\u2028d " + "x" * 1000))
    assert exc.message.startswith("a b [31m c d xxx")
    assert len(exc.message) == MESSAGE_MAX_CHARS
    assert str(exc).isprintable()
    assert error_from_response(400, rest_body("C" * 1000)).error_code == "C" * CODE_MAX_CHARS


def test_secrets_that_the_server_quotes_are_left_out_also_where_the_message_is_cut():
    message = "x" * (MESSAGE_MAX_CHARS - 4) + "PLANTED/secret and PLANTED%2Fsecret"
    exc = error_from_response(400, rest_body("PLANTED/secret", message), secrets=["PLANTED/secret", "", "and"])
    assert exc.error_code == "***"
    assert exc.message == "x" * (MESSAGE_MAX_CHARS - 4) + "*** "
    short = error_from_response(400, rest_body("X", "PLANTED%2Fsecret and"), secrets=["PLANTED/secret", "", "and"])
    assert short.message == "*** and", "what is short is no secret that one could tell"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not here")
def test_every_published_error_is_understood():
    files = sorted(SAMPLES.glob("error-*.json"))
    assert files
    for file in files:
        sample = json.loads(file.read_text())
        status, body = sample.get("_http_status", 400), json.dumps(sample.get("body", sample)).encode()
        exc = error_from_response(status, body)
        assert exc.error_code == re.search(r"[A-Z]{3}-\d+$", file.stem)[0]
        assert exc.message, file.name
