"""The user's rules: which events go to a handler."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.routing import Route


def envelope(type_="post.added", event="/team-messaging/v1/posts", subscription="team"):
    payload = json.dumps({"uuid": "1", "event": event, "body": {}}).encode()
    return Envelope("1", type_, payload, Source("main", subscription, "websocket"), 0)


def route(**rules):
    return Route(HandlerConfig("h", "log", **rules))


def test_without_rules_a_handler_gets_everything():
    assert route().matches(envelope())
    assert route().matches(envelope(type_="other", event="", subscription="x"))


@pytest.mark.parametrize(
    ("glob", "type_", "matches"),
    [
        ("post.added", "post.added", True),
        ("post.*", "post.removed", True),
        ("post.*", "group.joined", False),
        ("post", "post.added", False),
        ("ost.*", "post.added", False),
        ("*.changed", "message-store.changed", True),
        ("*", "other", True),
        ("post.?dded", "post.added", True),
        ("[pg]*.added", "group.added", True),
        ("[!p]*.added", "post.added", False),
        ("Post.*", "post.added", False),
        ("post+", "postt", False),
    ],
)
def test_type_globs_match_the_whole_type(glob, type_, matches):
    assert route(types=(glob,)).matches(envelope(type_=type_)) is matches


@pytest.mark.parametrize(
    ("glob", "event", "matches"),
    [
        ("/team-messaging/v1/posts", "/team-messaging/v1/posts", True),
        ("*/posts", "/team-messaging/v1/posts", True),
        ("*/posts", "/team-messaging/v1/posts/1", False),
        ("*/message-store*", "/restapi/v1.0/account/1/extension/2/message-store/instant?type=SMS", True),
        ("*/presence*", "/restapi/v1.0/account/1/extension/2/presence?detailedTelephonyState=true", True),
        ("*/presence*", "", False),
    ],
)
def test_event_globs_match_the_whole_event_uri(glob, event, matches):
    assert route(events=(glob,)).matches(envelope(event=event)) is matches


def test_several_globs_of_a_kind_are_alternatives():
    rules = route(types=("post.added", "group.*"))
    assert rules.matches(envelope(type_="post.added"))
    assert rules.matches(envelope(type_="group.left"))
    assert not rules.matches(envelope(type_="post.removed"))


def test_subscriptions_are_names_and_no_globs():
    assert route(subscriptions=("team", "calls")).matches(envelope(subscription="calls"))
    assert not route(subscriptions=("t*",)).matches(envelope(subscription="team"))


@pytest.mark.parametrize("missing", ["types", "events", "subscriptions"])
def test_every_kind_of_rule_that_is_given_has_to_match(missing):
    rules = {"types": ("post.*",), "events": ("*/posts",), "subscriptions": ("team",)}
    assert route(**rules).matches(envelope())
    assert not route(**rules | {missing: ("something else",)}).matches(envelope())


def test_a_rule_on_types_alone_never_parses_the_payload():
    unparsed = Envelope("1", "post.added", b"not JSON", Source("main", "team", "websocket"), 0)
    assert route(types=("post.*",), subscriptions=("team",)).matches(unparsed)


@given(st.text(), st.text())
def test_a_type_matches_a_glob_of_itself_and_any_glob_can_be_tried(glob, text):
    literal = "".join(f"[{char}]" if char in "*?[" else char for char in text)
    assert route(types=(literal,)).matches(envelope(type_=text))
    assert route(types=(glob,)).matches(envelope(type_=text)) in (True, False)
