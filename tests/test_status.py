"""How does everything stand? The document that commands and programs get."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import known
import pytest

from rc_push.status import status_from
from rc_push.transports import Expiries

DOCUMENT = {
    *("state", "reasons", "isReady", "at", "daemon", "config", "accounts"),
    *("subscriptions", "handlers", "events", "gaps", "journal"),
}


def test_all_that_is_known_is_told():
    document = status_from(known.everything(), known.facts())
    assert document.keys() == DOCUMENT
    assert (document["state"], document["reasons"], document["isReady"]) == ("ok", [], True)
    assert document["at"] == "2027-01-15T08:00:00.000Z"
    assert document["daemon"]["pid"] == os.getpid()
    assert (document["config"]["fingerprint"], document["config"]["generation"]) == ("f1a2", 1)
    (account,) = document["accounts"]
    assert account["tokenExpiresAt"] == "2027-01-15T09:00:00.000Z"
    assert account["budget"] == {"auth": {"limit": 5, "left": 3, "silenceS": 0.0}}
    (subscription,) = document["subscriptions"]
    assert subscription["since"] == "2027-01-15T07:59:00.000Z"
    assert (subscription["received"], subscription["stored"], subscription["duplicate"]) == (7, 5, 2)
    assert document["events"]["lastMinute"] == 2
    assert document["gaps"]["openOnes"][0]["until"] is None
    assert document["journal"]["removed"] == 3
    assert json.loads(json.dumps(document)) == document


def test_handlers_are_those_that_run_then_those_that_only_the_journal_knows():
    running, left = status_from(known.everything(), known.facts())["handlers"]
    assert (running["handler"], running["state"], running["delivered"], running["failures"]) == ("crm", "running", 4, 0)
    assert (left["handler"], left["state"], left["parked"], left["lagS"]) == ("old", "paused", 1, 71.5)


def test_without_the_journals_facts_all_else_is_told_and_why():
    document = status_from(known.everything(), None, "disk I/O error")
    assert document.keys() == DOCUMENT
    assert document["state"] == "degraded"
    assert document["reasons"] == ["the journal cannot be read: disk I/O error"]
    assert [one["handler"] for one in document["handlers"]] == ["crm"]
    assert document["journal"]["liveBytes"] == 90_112


@pytest.mark.parametrize("at", [1e12, -1e12, 1e300, math.inf, math.nan])
def test_a_time_that_no_calendar_has_is_not_told(at):
    receiver = known.receiver("team", "live")
    evidence = replace(receiver.evidence, expiries=Expiries(certificate_at=at, subscription_at=at))
    document = status_from(known.everything([replace(receiver, evidence=evidence)]), known.facts())
    (subscription,) = document["subscriptions"]
    assert subscription["expiresAt"] is None
    assert subscription["certificateExpiresAt"] is None


def test_a_reason_that_is_not_of_today_has_its_date():
    down = known.receiver("sms", "down", "no answer", since=known.NOW - 2 * 86400)
    (reason,) = status_from(known.everything([down]), known.facts())["reasons"]
    assert " since 2027-01-13 " in reason


def test_a_file_that_is_not_in_force_is_told():
    document = status_from(known.everything(config=known.config(mistake="line 3: no such key")), known.facts())
    assert (document["state"], document["isReady"]) == ("degraded", True)
    assert document["reasons"] == ["not reloaded: line 3: no such key"]
    assert document["config"]["mistake"] == "line 3: no such key"


def test_what_others_wrote_has_no_secret_and_no_second_line():
    why = "refused\x1b[2J\nAuthorization: Bearer abcdefghij0123456789"
    down = known.receiver("team", "down", why, next_try_at=known.NOW + 5)
    failing = known.dispatcher("crm", "failing", last_error="token=abcdefghij0123456789\r\n")
    text = json.dumps(status_from(known.everything([down], [failing]), known.facts()))
    assert "abcdefghij" not in text
    assert "\\u001b[2J" in text  # spelled out, in place of what a terminal would obey
    assert "\x1b" not in json.loads(text)["subscriptions"][0]["why"]
    assert "\n" not in json.loads(text)["handlers"][0]["lastError"]
