"""`where`: what does not compile, what can never be true, and what is probably not meant, each with its remedy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.config.values import Mistake
from rc_push.config.where import DEPTH_MAX, EVENT_KEYS, RC_PUSH_KEYS, compile_where, look_at_where
from rc_push.envelope import Envelope, Source

EVENT = Envelope(
    "1",
    "post.added",
    b'{"uuid":"1","event":"/x","timestamp":"","subscriptionId":"s","ownerId":"o","body":{"text":"x","flag":true}}',
    Source("main", "team", "websocket"),
    0,
)


def told(where: str) -> list[tuple[bool, str, str]]:
    return [(is_doubt, mistake.found, mistake.remedy) for mistake, is_doubt in look_at_where(where)]


def test_the_keys_are_those_of_an_event_as_users_see_it():
    line = json.loads(EVENT.to_json())
    assert tuple(line) == EVENT_KEYS
    assert tuple(line["rcPush"]) == RC_PUSH_KEYS


@pytest.mark.parametrize(
    "where",
    [
        "body.groupId == '990011223344'",
        "`true`",
        "!(body.isPublic)",
        "contains(body.text || '', 'urgent')",
        "body.text && starts_with(body.text, 'urgent')",
        'body."a key" != `null`',
        "rcPush.type == 'post.added' || rcPush.origin != 'live'",
        "length(body.parties[?missedCall]) > `0`",
        "length(body.parties[?status.code == 'Answered' && foo]) > `0`",
        "body.parties[0].to | phoneNumber == '101'",
        "sort_by(body.list, &foo)[0].y == 'z'",
        'contains(`["1", "2"]`, body.groupId)',
        "body.text.contains(@, 'x')",
        "rcPush.type.contains(@, 'x')",
        "body.*.x | length(@) > `0`",
        "not_null(body.a, body.b) == 'x'",
        "body.parties[::2] | [0].x == 'y'",
        "body.x == `foo`",
        " || ".join(f"body.groupId == '{n}'" for n in range(DEPTH_MAX // 2)),
    ],
    ids=lambda where: where[:40],
)
def test_what_is_right_is_let_pass(where):
    assert told(where) == []
    compile_where(where)


@pytest.mark.parametrize(
    ("where", "found", "remedy"),
    [
        ("body.x = 'y'", "no JMESPath expression: \"Unknown token '='\" at character 8", "compare with =="),
        ("body.id == 5", '"unexpected 5" at character 12', "`backticks`"),
        ("body.x == 'a' OR body.y == 'b'", '"unexpected OR" at character 15', "'single quotes'"),
        ("body.", "it ends too early", "'single quotes'"),
        ("(", "it ends too early", "'single quotes'"),
        (" ", "it ends too early", "'single quotes'"),
        ("contains(", "it ends too early", "'single quotes'"),
        ("body.x == 'y", '"Unclosed \' delimiter" at character 11', "'single quotes'"),
        ('body.x == `"`', "at character 11", "'single quotes'"),
        ("#\x1b[2J", '"Unknown token #" at character 1', "'single quotes'"),
        ("`{}` `[]`", "unexpected", "'single quotes'"),
        ("9" * 5000, "no JMESPath expression", "'single quotes'"),
        ("(" * 5000, f"nested deeper than {DEPTH_MAX} levels", "contains("),
        ("!" * 5000 + "body.x", f"nested deeper than {DEPTH_MAX} levels", "contains("),
        ("a||" * 5000 + "a", f"nested deeper than {DEPTH_MAX} levels", "contains("),
        ("containz(body.text, 'x')", 'no function "containz"', 'mean "contains"'),
        ("body.parties[?containz(x, 'x')] == `[]`", 'no function "containz"', 'mean "contains"'),
        ("contains(body.text)", "contains() with 1 arguments", "give it 2"),
        ("not_null() == 'x'", "not_null() with 0 arguments", "at least 1"),
        ("!body.isPublic", "a ! belongs to the first name behind it alone", "!(body.isPublic)"),
        ("body.x == 'y' && !body.list[0]", "a ! belongs to the first name behind it alone", "!(body.isPublic)"),
        ("rcPush.tpye == 'post.added'", 'no "rcPush.tpye"', 'mean "type"'),
        ("`false`", "can never be true", "compare"),
        ("'x'", "can never be true", "compare"),
        ("body.parties[?missedCall]", "can never be true", "compare"),
        ("length(body.parties)", "can never be true", "compare"),
        ("rcPush.type", "can never be true", "compare"),
        ("[body.x]", "can never be true", "compare"),
        ("{x: body.x}", "can never be true", "compare"),
        ("body.x == 'y' && to_string(body.z)", "can never be true", "compare"),
        ("body.x == 'y' | 'z'", "can never be true", "compare"),
    ],
    ids=lambda text: text[:40],
)
def test_a_mistake_is_told_on_one_line_with_its_remedy(where, found, remedy):
    told_of = [(text, help_) for is_doubt, text, help_ in told(where) if not is_doubt]
    assert len(told_of) == 1
    assert found in told_of[0][0]
    assert remedy in told_of[0][1]
    assert len(told_of[0][0]) < 200
    assert told_of[0][0].isprintable()


@pytest.mark.parametrize(
    ("where", "found", "remedy"),
    [
        ('rcPush.type == "post.added"', 'no "post.added"', "single quotes: 'post.added'"),
        ("type == 'post.added'", 'no "type"', "rcPush.type?"),
        ("groupId == '1' || groupId == '2'", 'no "groupId"', "body.groupId?"),
        ("body.isPublic == true", 'no "true"', "write `true` in backticks"),
        ("body.text != null", 'no "null"', "write `null` in backticks"),
        ("contains(text, 'x')", 'no "text"', "body.text?"),
        ("parties[0].missedCall == `true`", 'no "parties"', "body.parties?"),
        ("body.isPublic", "only true is a yes", "body.isPublic == `true`"),
        ("body.text || body.x == 'y'", "only true is a yes", "body.attachments != `null`"),
        ("not_null(body.a, body.b)", "only true is a yes", "compare"),
        ("@", "only true is a yes", "compare"),
        ("body", "only true is a yes", "compare"),
    ],
)
def test_what_may_be_meant_but_hardly_is_a_doubt(where, found, remedy):
    ((is_doubt, text, help_),) = told(where)
    assert is_doubt
    assert found in text
    assert remedy in help_
    compile_where(where)


def test_what_does_not_compile_is_the_same_mistake_where_it_is_compiled():
    with pytest.raises(Mistake, match="no JMESPath expression") as caught:
        compile_where("body.x = 'y'")
    assert caught.value.remedy == "compare with =="


@given(st.text("ab.[]{}()'\"`*?&|!<=>@,:0-9 \\\n^~é", max_size=30))
def test_any_text_is_an_expression_or_a_mistake(where):
    findings = told(where)
    try:
        compile_where(where)
    except Mistake:
        assert [is_doubt for is_doubt, *_ in findings] == [False]


ATOMS = st.sampled_from(
    [
        *(
            "body.text",
            "body.flag",
            "body.list",
            "body.list[0]",
            "body.list[].flag",
            "body.missing",
            "uuid",
            "@",
            "body.*",
        ),
        *("rcPush.type", "`true`", "`false`", "`5`", "'x'", "`null`", "body.list[?flag]", "body.list[1:]"),
    ]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["==", "!=", "<", ">=", "&&", "||", "|"]), inner),
        st.builds("!({})".format, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{x: {}}}".format, inner),
        st.builds("({}).flag".format, inner),
        st.builds("{}({})".format, st.sampled_from(["length", "to_string", "keys", "to_array", "type"]), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["contains", "starts_with", "not_null"]), inner, inner),
    ),
    max_leaves=5,
)
VALUES = st.sampled_from(
    [None, True, False, 0, 5, "", "x", [], [True], {"flag": True}, [{"flag": True}, {"flag": "x"}]]
)


@given(EXPRESSIONS, st.fixed_dictionaries({}, optional={"text": VALUES, "flag": VALUES, "list": VALUES}))
def test_what_is_said_of_an_expression_is_so(where, body):
    findings = told(where)
    try:
        value = compile_where(where)(EVENT.to_dict() | {"body": body})
    except (ValueError, TypeError):
        return
    if any("never" in found for _, found, _ in findings):
        assert value is not True
    if not findings:
        assert value is True or not value, "nothing that looks like a yes and is none"


CODE = """
import sys
from pathlib import Path
from rc_push.config import load_routes
from rc_push.routing import Route
_, handlers, _ = load_routes(Path(sys.argv[1]))
routes = [Route(handler) for handler in handlers.values()]
print("jmespath" in sys.modules)
"""


@pytest.mark.parametrize(("where", "is_imported"), [("", "False"), ("where = \"body.x == 'y'\"", "True")])
def test_jmespath_is_loaded_where_an_expression_is_and_nowhere_else(tmp_path, where, is_imported):
    path = tmp_path / "rc-push.toml"
    path.write_text(f"[handlers.h]\nuse = 'log'\ntypes = ['post.*']\n{where}\n")
    done = subprocess.run([sys.executable, "-c", CODE, path], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == is_imported
