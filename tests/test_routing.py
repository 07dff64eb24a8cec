"""The user's rules: which events go to a handler."""

from __future__ import annotations

import json
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, RoutingError
from rc_push.routing import Decision, Route


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


# --------------------------------------------------------------------------------------------------------------- where


def post(body, **source):
    payload = json.dumps({"uuid": "1", "event": "/team-messaging/v1/posts", "body": body}).encode()
    return Envelope("1", "post.added", payload, Source("main", "team", "websocket", **source), 1795428000190, 1042)


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("body.groupId == '99'", True),
        ("body.groupId == '98'", False),
        ("contains(body.text, 'lift') && body.mentions[0].id == `7`", True),
        ("body.isPublic", True),
        ("body.text", False),
        ("body.missing", False),
        ("body.one", False),
        ("body.mentions", False),
        ("uuid == '1' && event == '/team-messaging/v1/posts'", True),
        ("rcPush.subscription == 'team' && rcPush.account == 'main' && rcPush.transport == 'websocket'", True),
        ("rcPush.type == 'post.added' && rcPush.origin == 'recovered'", True),
        ("rcPush.position == `1042` && rcPush.receivedAt == '2026-11-23T10:00:00.190Z'", True),
    ],
)
def test_where_sees_the_whole_event_and_only_the_value_true_is_a_yes(where, matches):
    body = {"groupId": "99", "text": "the lift", "isPublic": True, "one": 1, "mentions": [{"id": 7}]}
    assert route(where=where).matches(post(body, origin="recovered")) is matches


def test_where_is_one_more_rule_beside_the_others_and_the_last_one_looked_at():
    rules = route(types=("post.*",), where="body.x == 'y'")
    assert rules.matches(post({"x": "y"}))
    assert not rules.matches(post({"x": "z"}))
    broken = Envelope("1", "sms.received", b"not JSON", Source("main", "team", "websocket"), 0)
    assert not rules.matches(broken), "the types have decided already"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("contains(body.missing, 'x')", "where: contains() takes array or string and got null; give it something"),
        ("starts_with(body.number, 'x')", "where: starts_with() takes string and got number"),
        ("contains(body.text, `5`)", "where: cannot be evaluated (TypeError); compare values of the same type"),
        ("body.text > `5`", "where: cannot be evaluated (TypeError)"),
        ("join(',', body.list) == 'x'", "where: join() takes array-string and got int"),
        ("sum(body.list) > `5`", "where: sum() takes array-number and got str"),
        ("sort_by(body.list, &x) == `[]`", "where: sort_by() takes string or number and got null"),
        ("ceil(to_number('1e999')) == `1`", "where: cannot be evaluated (OverflowError)"),
        ("body.list[::0] == `[]`", "where: cannot be evaluated (ValueError)"),
        ("no_such_function(@)", "where: cannot be evaluated (UnknownFunctionError)"),
    ],
)
def test_an_error_in_where_is_told_without_what_the_event_says(where, reason):
    event = post({"text": "PLANTED", "number": 5, "list": [5, "PLANTED"]})
    for ask in (route(where=where).matches, route(where=where).decide):
        with pytest.raises(RoutingError) as caught:
            ask(event)
        assert reason in str(caught.value)
        told = "".join(traceback.format_exception(caught.value))
        assert "PLANTED" not in told


@pytest.mark.parametrize("payload", [b"not JSON", b"[]", b'"PLANTED', b"[" * 100_000, b'{"event":', b"", b"\xff"])
@pytest.mark.parametrize("rules", [{"events": ("*",)}, {"where": "`true`"}])
def test_a_payload_that_cannot_be_read_is_told_and_decides_nothing(payload, rules):
    event = Envelope("1", "other", payload, Source("main", "team", "websocket"), 0)
    for ask in (route(**rules).matches, route(**rules).decide):
        with pytest.raises(RoutingError, match="its payload cannot be read") as caught:
            ask(event)
        assert "PLANTED" not in "".join(traceback.format_exception(caught.value))


def test_a_where_that_does_not_compile_is_a_mistake_in_the_file():
    with pytest.raises(ConfigError, match=r"handlers\.h\.where: .* is no JMESPath expression: .*; compare with =="):
        route(where="body.x = 'y'")


def test_an_event_of_five_megabytes_is_routed():
    event = post({"text": "x" * 5_000_000, "groupId": "99"})
    rules = route(where="contains(body.text, 'y') || body.groupId == '99'")
    assert rules.matches(event)
    assert len(rules.decide(event).why) < 200


# -------------------------------------------------------------------------------------------------------------- decide


@pytest.mark.parametrize(
    ("rules", "goes", "decided_by", "why"),
    [
        ({}, True, (), "it has no rules and gets everything"),
        ({"types": ("sms.*", "post.*")}, True, ("types",), 'types: post.added matches "post.*"'),
        ({"types": ("sms.*", "fax.*")}, False, ("types",), 'types: post.added matches none of "sms.*", "fax.*"'),
        (
            {"events": ("*/posts",)},
            True,
            ("events",),
            'events: /team-messaging/v1/posts matches "*/posts"',
        ),
        ({"subscriptions": ("team",)}, True, ("subscriptions",), 'subscriptions: it came over "team"'),
        (
            {"subscriptions": ("a", "b"), "types": ("sms.*",)},
            False,
            ("subscriptions",),
            'subscriptions: it came over "team", not over "a", "b"',
        ),
        (
            {"types": ("post.*",), "where": "body.x == 'y'"},
            True,
            ("types", "where"),
            'types: post.added matches "post.*"; where: gives true',
        ),
        ({"where": "body.x == 'z'"}, False, ("where",), "where: gives false"),
        ({"where": "body.z"}, False, ("where",), "where: gives null"),
        ({"where": "body.x"}, False, ("where",), "where: gives a text, and only the value true is a yes"),
        ({"where": "length(body.x)"}, False, ("where",), "where: gives a number, and only the value true is a yes"),
        ({"where": "[body.x]"}, False, ("where",), "where: gives a list, and only the value true is a yes"),
        ({"where": "body"}, False, ("where",), "where: gives an object, and only the value true is a yes"),
    ],
)
def test_a_decision_says_which_rules_decided_and_why(rules, goes, decided_by, why):
    assert route(**rules).decide(post({"x": "y"})) == Decision(goes, decided_by, why)


def test_an_endless_event_uri_is_cut_in_the_reason():
    why = route(events=("/x",)).decide(envelope(event="/" + "y" * 1_000_000)).why
    assert len(why) < 200
    assert route(events=("/x",)).decide(envelope(event="")).why == 'events: an empty text matches none of "/x"'


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.sampled_from(["a", "b", "eventType"]) | st.text(), inner)
    ),
    max_leaves=8,
)
WHERES = st.sampled_from(
    [
        *("body.a == body.b", "contains(body.a, body.b)", "body.a > body.b", "body", "sort(body.a) == body.b"),
        *("length(body.a) > `1`", "sort_by(body.a, &b)[0] == `1`", "max_by(body.a, &a).b == `1`", "body.*.a | [0]"),
        *("sum(body.a) > `1`", "to_number(body.a) == `1`", "merge(body.a, body.b).a", "floor(body.a) == `1`"),
        *("join(body.a, body.b) == 'x'", "body.a[::0] == `[]`", "keys(@) == body.a", "map(&a, body.a) == body.b"),
    ]
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "types": st.lists(st.sampled_from(["post.*", "*", "sms.received"]), max_size=2).map(tuple),
        "events": st.lists(st.sampled_from(["*/posts", "/x", "*"]), max_size=2).map(tuple),
        "subscriptions": st.lists(st.sampled_from(["team", "calls"]), max_size=2).map(tuple),
        "where": WHERES,
    },
)
PAYLOADS = st.one_of(
    st.binary(),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"event": st.sampled_from(["/x/posts", "/x"]), "body": JSON}).map(
        lambda value: json.dumps(value).encode()
    ),
)


@given(RULES, st.sampled_from(["post.added", "other"]), PAYLOADS)
def test_whatever_the_event_a_route_decides_as_it_matches_or_raises_its_own_error(rules, type_, payload):
    made = route(**rules)
    event = Envelope("1", type_, payload, Source("main", "team", "websocket"), 0)
    try:
        matches = made.matches(event)
    except RoutingError as exc:
        with pytest.raises(RoutingError, match=re.escape(str(exc))):
            made.decide(event)
        return
    decision = made.decide(event)
    assert decision.goes is matches
    assert set(decision.rules) <= {name for name, value in rules.items() if value}
    assert decision.why


# ------------------------------------------------------------------------------------------------ what the daemon tells


@pytest.mark.parametrize(
    ("types", "goes"),
    [((), False), (("*",), False), (("*.gap",), False), (("rc-push.gap",), True), (("post.*", "rc-push.*"), True)],
)
def test_gaps_go_only_where_types_name_them(types, goes):
    gap = envelope(type_="rc-push.gap", event="/rc-push/gap")
    assert route(types=types).matches(gap) is goes
    assert route(types=types).decide(gap).goes is goes


def test_the_other_rules_count_for_gaps_too():
    gap = envelope(type_="rc-push.gap", event="/rc-push/gap")
    assert not route(types=("rc-push.*",), subscriptions=("other",)).matches(gap)
    assert not route(types=("rc-push.*",), where="body.certainty == 'certain'").matches(gap)


def test_why_a_gap_does_not_go_there_is_said():
    assert route(types=("*",)).decide(envelope(type_="rc-push.gap")).why == (
        "types: rc-push.gap goes only where a glob of types begins with rc-push."
    )
