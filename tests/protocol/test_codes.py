"""Each errorCode, one by one: what is done about it, whether another attempt is made, what people are told."""

from __future__ import annotations

import json
import re

import pytest
from published import SHARED

from rc_push.errors import (
    CredentialsRefused,
    FiltersRefused,
    PermissionRefused,
    RateLimited,
    RestError,
    ServerError,
    is_retryable,
)
from rc_push.protocol.codes import CODES
from rc_push.protocol.refusals import error_from_response, over_gateway

PROTOCOL = SHARED / "protocol.md"

# Status and class of the exception, spelled once more: the table in the code must not be its own judge.
LOG_IN = dict.fromkeys(["OAU-123", "OAU-128", "OAU-129", "OAU-134", "OAU-149", "OAU-165", "OAU-213"], 401)
LOG_IN |= {"AGW-401": 401, "AGW-402": 401, "CMN-405": 401, "OAU-210": 400}
BAD_CREDENTIALS = dict.fromkeys(["OAU-125", "OAU-127", "OAU-136", "OAU-140", "OAU-141", "OAU-142", "OAU-146"], 401)
BAD_CREDENTIALS |= dict.fromkeys(["OAU-147", "OAU-153", "OAU-232", "OAU-236", "OAU-250", "OAU-251"], 400)
BAD_CREDENTIALS |= {"OAU-151": 401}
NO_PERMISSION = dict.fromkeys(["CMN-401", "CMN-404", "CMN-408", "SUB-527", "SUB-528"], 403)
NO_PERMISSION |= dict.fromkeys([f"SUB-{number}" for number in (402, 403, 404, 405, 406, 407, 408, 412)], 403)
BAD_FILTERS = dict.fromkeys(["SUB-508", "SUB-515", "SUB-516"], 400)
RATE = dict.fromkeys(["CMN-301", "CMN-302", "CMN-303", "CMN-304", "CMN-310"], 429)
SERVER = {"CMN-201": 503, "CMN-203": 500}
RENEW = {"CMN-102": 404, "SUB-507": 404, "WSG-400": 0, "WSG-1003": 0, "WSG-1005": 0}
RETRY = dict.fromkeys(["CMN-101", "CMN-103", "CMN-104", "MSG-333", "SUB-509"], 400)
RETRY |= dict.fromkeys([f"CLG-{number}" for number in range(101, 106)], 400)
RETRY |= dict.fromkeys([f"SUB-{number}" for number in (520, 521, 522, 523, 524, 525, 530, 531)], 400)
RETRY |= {"CMN-120": 404, "SUB-505": 403, "SUB-511": 405, "SUB-518": 403, "WSG-902": 0, "WSG-903": 0}

EXPECTED = [
    *((code, status, "log in", CredentialsRefused) for code, status in LOG_IN.items()),
    *((code, status, "stop", CredentialsRefused) for code, status in BAD_CREDENTIALS.items()),
    *((code, status, "stop", PermissionRefused) for code, status in NO_PERMISSION.items()),
    *((code, status, "stop", FiltersRefused) for code, status in BAD_FILTERS.items()),
    *((code, status, "retry", RateLimited) for code, status in RATE.items()),
    *((code, status, "retry", ServerError) for code, status in SERVER.items()),
    *((code, status, "renew", RestError) for code, status in RENEW.items()),
    *((code, status, "retry", RestError) for code, status in RETRY.items()),
]


def body(code: str, message: str = "words") -> bytes:
    first = {"errorCode": code, "message": message}
    return json.dumps(first | {"errors": [first]}).encode()


def test_the_table_has_these_codes_and_no_other():
    assert sorted(code for code, *_ in EXPECTED) == sorted(CODES)


@pytest.mark.skipif(not PROTOCOL.is_file(), reason="the notes on RingCentral's side are not here")
def test_every_code_that_is_known_of_ringcentral_is_in_the_table():
    text = PROTOCOL.read_text()
    section = text[text.index("### 1.5") : text.index("## 2.")]
    known = set()
    for row in re.findall(r"(?m)^\|[^|]*\|([^|]*)\|", section):
        for prefix, numbers in re.findall(r"([A-Z]{3})-(\d+(?:(?: / |\.\.|, )\d+)*)", row):
            first, *more = re.split(r" / |, ", numbers)
            low, _, high = first.partition("..")
            known |= {f"{prefix}-{number}" for number in range(int(low), int(high or low) + 1)}
            known |= {f"{prefix}-{number}" for number in more}
    known |= set(re.findall(r"WSG-\d+", text)) - {"WSG-9"}
    assert {"OAU-142", "CLG-103", "SUB-524", "SUB-518", "WSG-1005"} <= known
    assert known <= CODES.keys()


@pytest.mark.parametrize(("code", "status", "action", "kind"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_a_code_becomes_the_exception_that_does_what_the_table_says(code, status, action, kind):
    assert (CODES[code].action, CODES[code].status) == (action, status)
    exc = error_from_response(status, body(code), where="here")
    assert type(exc) is kind
    assert exc.error_code == code
    assert code in str(exc)
    assert is_retryable(exc) == (action in ("retry", "renew"))
    assert CODES[code].means, "people are told"
    remedy = getattr(exc, "remedy", "")
    assert bool(remedy) == (action in ("stop", "log in"))
    assert "{" not in remedy


@pytest.mark.parametrize("code", [*LOG_IN, *BAD_CREDENTIALS])
def test_over_the_gateway_dead_credentials_are_worth_another_connection_which_logs_in(code):
    exc = over_gateway(error_from_response(0, body(code), where="POST /subscription"))
    assert is_retryable(exc)
    assert type(exc) is RestError
    assert (exc.status, exc.error_code, exc.message, exc.where) == (0, code, "words", "POST /subscription")


@pytest.mark.parametrize("code", [*NO_PERMISSION, *BAD_FILTERS])
def test_over_the_gateway_a_permission_or_a_filter_stays_refused(code):
    exc = error_from_response(0, body(code))
    assert over_gateway(exc) is exc
    assert not is_retryable(exc)


@pytest.mark.parametrize(("parameter", "words"), [("eventFilters", "event_filters"), ("deliveryMode", "transport")])
def test_an_invalid_parameter_that_is_ours_to_correct_stops(parameter, words):
    exc = error_from_response(400, body("CMN-101", f"Parameter [{parameter}] value is invalid"))
    assert type(exc) is FiltersRefused
    assert words in exc.remedy


@pytest.mark.parametrize(
    ("status", "code"), [(400, "XYZ-1"), (403, "SUB-999"), (404, "CMN-999"), (0, "WSG-999"), (418, "")]
)
def test_a_code_that_is_not_in_the_table_is_retried(status, code):
    assert is_retryable(error_from_response(status, body(code)))


@pytest.mark.parametrize(("status", "code"), [(401, "XYZ-1"), (401, ""), (400, "OAU-999")])
def test_an_unknown_code_about_credentials_is_about_credentials(status, code):
    assert type(error_from_response(status, body(code))) is CredentialsRefused
