"""Templates and expressions: JMESPath over the event as users see it, with mistakes found before any event comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.envelope import Envelope, Source
from rc_push.payload import envelope_from_payload
from rc_push.templates import Expression, PathTemplate, Template, TemplateError, event_from, text_from

AT_MS = 1_795_428_000_190  # 2026-11-23T10:00:00.190Z
BODY = {"text": "Hello", "groupId": "990", "mentions": None, "parties": [{"id": "a"}, {"id": "b"}], "n": 7, "on": True}


def envelope(body: object = None, **fields: object) -> Envelope:
    payload = json.dumps({"uuid": "u-1", "event": "/posts", "body": BODY if body is None else body} | fields).encode()
    return Envelope("u-1", "post.added", payload, Source("main", "team", "websocket"), AT_MS, 42)


def rendered(text: str, body: object = None, **fields: object) -> str:
    return Template(text).render(envelope(body, **fields))


def mistake(text: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        Template(text)
    return caught.value


def test_the_event_is_what_users_see_it_as():
    assert event_from(envelope()) == json.loads(envelope().to_json())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{body.text}!", "Hello!"),
        ("{uuid} {event}", "u-1 /posts"),
        ("{ body.text }", "Hello"),
        ("{rcPush.position}/{rcPush.receivedAt}", "42/2026-11-23T10:00:00.190Z"),
        ("{body.n} {body.on}", "7 true"),
        ("{body.parties[].id}", '["a","b"]'),
        ("{body.parties[0]}", '{"id":"a"}'),
        ("{ {who: body.groupId} }", '{"who":"990"}'),
        ("{body.parties[?id=='b'].id | [0]}", "b"),
        ("{join(', ', body.parties[].id)}", "a, b"),
        ("{body.mentions || 'nobody'}", "nobody"),
        ("{{{body.text}}}", "{Hello}"),
        ("{{body.text}}", "{body.text}"),
        ("{'}{'}", "}{"),
        (r"{'it\'s }'}", "it's }"),
        ('{`{"a": "}"}`}', '{"a":"}"}'),
        ("{body.\"text\"}'{'x'}", "Hello'x"),
    ],
)
def test_a_template_becomes_the_text_with_what_its_expressions_find(text, expected):
    assert rendered(text) == expected


def test_short_names_say_what_paths_need():
    assert rendered("{type}/{date}/{hour}/{account}/{subscription}") == "post.added/2026-11-23/10/main/team"


def test_no_event_can_change_what_a_short_name_says():
    assert rendered("{type} {date}", type="../..", date="/etc") == "post.added 2026-11-23"


@pytest.mark.parametrize("text", ["{body.missing}", "{body.mentions}", "{body.text.deeper}", "{nothing[3].at.all}"])
def test_what_is_missing_is_empty(text):
    assert rendered(f"<{text}>") == "<>"


@pytest.mark.parametrize("text", ["{body.parties[::0]}", "{floor(body.huge)}", "{body.parties[5]}"])
def test_what_cannot_be_reckoned_is_empty(text):
    assert rendered(f"<{text}>", BODY | {"huge": 1e308 * 10}) == "<>"


@pytest.mark.parametrize("text", ["{sum(body)}", "{[sum(body)]}", "{to_string(sum(body))}"])
def test_a_number_that_is_too_long_to_be_written_is_empty(text):
    assert rendered("<{sum(body)}>", [1, 2]) == "<3>"
    assert rendered(f"<{text}>", [10**4299 * 9, 10**4299 * 9]) == "<>"


@pytest.mark.parametrize("deep", [" || ".join(["body.none"] * 900), ".".join(["body"] * 900)])
def test_what_is_nested_too_deeply_to_be_reckoned_is_empty(deep):
    assert rendered(f"<{{{deep}}}>") == "<>"
    assert Expression(deep).search(event_from(envelope())) is None


def test_what_is_nested_too_deeply_to_be_written_is_empty():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert text_from(deep) == ""


@pytest.mark.parametrize("body", [{}, "text", [1], 5])
def test_what_a_function_cannot_take_is_empty(body):
    assert rendered("<{length(body.text)}>", body) == "<>"


def test_half_an_emoji_is_no_half_any_more():
    assert rendered("{body}", "a\ud83d").encode() == b"a?"
    assert rendered("{body}", {"a": "\ud83d"}).encode() == b'{"a":"?"}'
    assert rendered("{body}", "\U0001f600") == "\U0001f600"


def test_each_value_and_nothing_else_goes_through_the_escape():
    assert Template("/a/{type}/{body.text}").render(envelope(), escape=str.upper) == "/a/POST.ADDED/HELLO"


@pytest.mark.parametrize(
    ("text", "at", "found"),
    [
        ("a } b", 3, "closes nothing; write }}"),
        ("a { b", 3, "never closed; write {{"),
        ("ab {'c}", 4, "never closed"),
        ("{}", 2, "there is no expression"),
        ("{(}", 3, "ends too early"),
        ("{body[" + "9" * 5000 + "]}", 2, "is no JMESPath expression"),
        ("{ }", 2, "there is no expression"),
        ("ab {body.[x}", 12, "ends too early"),
        ("{body.}", 7, "something is missing"),
        ("{body.#}", 7, '"#" makes no sense here'),
        ("{a b}", 4, '"b" makes no sense here'),
        ("{{ {lenght(body)}", 5, 'there is no function "lenght"; there are: abs, '),
        ("{body[?lenght(@)]}", 2, 'there is no function "lenght"'),
        ("{length(a, b)}", 2, "length() takes 1 argument, not 2"),
        ("{join(',')}", 2, "join() takes 2 arguments, not 1"),
        ("{merge()}", 2, "merge() takes at least 1 argument, not 0"),
        ("{" + "(" * 5000 + "}", 2, "nested too deeply"),
        ("{&type}", 2, "& belongs before what sort_by"),
        ("{not_null(&type)}", 2, "& belongs before"),
        ("{[&type, sort_by(body.x, &id)]}", 2, "& belongs before"),
    ],
)
def test_a_mistake_is_told_with_its_place(text, at, found):
    assert mistake(text).at == at
    assert found in mistake(text).found
    assert str(mistake(text)).startswith(f"at character {at}: ")
    assert "\n" not in str(mistake(text))


@given(st.text(alphabet="{}'\"`\\ab.[]()?@|&,:*-1", max_size=30))
def test_any_text_is_a_template_or_told_to_be_none(text):
    try:
        template = Template(text)
    except TemplateError as exc:
        assert 1 <= exc.at <= len(text) + 1  # noqa: PT017 - both are right, and nothing else is
        return
    template.render(envelope()).encode()


@given(st.text())
def test_braces_twice_are_braces(text):
    assert Template(text.replace("{", "{{").replace("}", "}}")).render(envelope()) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(JSON)
def test_any_body_can_be_rendered(body):
    payload = json.dumps({"uuid": "1", "event": "/x", "body": body}).encode()
    made = envelope_from_payload(payload, Source("main", "team", "websocket"), AT_MS)
    assert isinstance(made, Envelope)
    text = Template("{body}").render(made)
    text.encode()
    if not isinstance(body, str | None):
        assert json.loads(text) == body


def test_a_template_tells_its_beginning_and_whether_it_depends_on_the_event():
    assert Template("/var/log/{type}.jsonl").beginning == "/var/log/"
    assert Template("{{x").beginning == "{x"
    assert (Template("{type}-x").ending, Template("{type}").ending, Template("").ending) == ("-x", "", "")
    assert (Template("{type}").beginning, Template("").beginning) == ("", "")
    assert Template("a{{b").is_constant
    assert not Template("a{date}").is_constant


def test_templates_are_equal_by_their_texts():
    assert Template("{type}") == Template("{type}") != Template("{date}")
    assert len({Template("{type}"), Template("{type}")}) == 1
    assert (str(Template("{type}")), repr(Template("{type}"))) == ("{type}", "Template('{type}')")


def test_an_expression_finds_values_as_they_are():
    event = event_from(envelope())
    assert Expression("body.parties[].id").search(event) == ["a", "b"]
    assert Expression("rcPush.type == 'post.added'").search(event) is True
    assert Expression("starts_with(body.missing, 'x')").search(event) is None
    assert repr(Expression("body.text")) == "Expression('body.text')"


def test_jmespath_is_imported_only_where_a_template_needs_it():
    code = (
        "import sys; from rc_push.templates import Template; Template('/a/{type}/{date}{{');"
        "print('jmespath' in sys.modules); Template('{body.text}'); print('jmespath' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# --------------------------------------------------------------------------------------------------------------- paths

HOSTILE = st.text() | st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "../../etc",
        "/etc/passwd",
        "a/../b",
        "\0",
        "a\0b",
        "..\n",
        "\x1b[2J",
        "é" * 300,
        "\u202e",
        " ",
    ]
)


@given(first=HOSTILE, second=HOSTILE)
def test_no_event_leads_a_path_out_of_its_folders(first, second):
    event = envelope({"a": first, "b": second})
    text = PathTemplate("/var/log/{body.a}/x{body.b}{body.a}.jsonl").render(event)
    path = Path(text)
    assert os.path.normpath(text) == text == str(path)
    assert path.parts[:3] == ("/", "var", "log")
    assert len(path.parts) == 5
    assert path.name.startswith("x")
    assert all(part.isprintable() and len(part.encode()) <= 255 for part in path.parts)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("post.added", "post.added"),
        ("Übung 7", "Übung 7"),
        ("", "_"),
        (None, "_"),
        ("..", "_."),
        (".hidden", "_hidden"),
        ("a/b", "a_b"),
        ("a\nb\0", "a_b_"),
        ("x" * 500, "x" * 80),
        ({"a": "/"}, '{"a":"_"}'),
    ],
)
def test_a_value_in_a_path_is_one_name(value, name):
    assert PathTemplate("/logs/{body.a}").render(envelope({"a": value})) == f"/logs/{name}"


@given(st.lists(st.text(alphabet="aé😀.", min_size=40), min_size=4, max_size=4))
def test_no_event_makes_a_name_too_long_for_a_file_and_what_belongs_to_it(texts):
    event = envelope(dict(zip("abcd", texts, strict=True)))
    path = PathTemplate("/logs/{body.a}{body.b}{body.c}{body.d}/{body.a}{body.b}{body.c}{body.d}-{type}.jsonl")
    folder, name = Path(path.render(event)).parts[2:]
    assert len(folder.encode()) <= 255
    assert len(f".{name}_.batch".encode()) <= 255
    assert len(f"{name}_-20261123T100000Z-999.gz.part".encode()) <= 255
    assert name.endswith(".jsonl")


def test_a_name_that_is_too_long_is_cut_before_what_the_template_ends_with():
    event = envelope({"a": "x" * 80, "b": "é" * 80})
    values = "{body.a}{body.a}{body.b}"
    assert PathTemplate(f"/logs/{values}-1.jsonl").render(event) == "/logs/" + "x" * 160 + "é" * 26 + "-1.jsonl"
    assert PathTemplate(f"/logs/{values}{{body.a}}").render(event) == "/logs/" + "x" * 160 + "é" * 30
    assert PathTemplate(f"/{values}{{body.a}}/b").render(event) == "/" + "x" * 160 + "é" * 40 + "x" * 15 + "/b"
    long = "/" + "y" * 250 + "/{body.a}"
    assert PathTemplate(long).render(event).startswith(str(PathTemplate(long).folder) + "/")


def test_a_path_tells_what_does_not_depend_on_the_event():
    path = PathTemplate("/var/log/rc/{type}/{date}.jsonl")
    assert (path.folder, path.constant) == (Path("/var/log/rc"), None)
    assert PathTemplate("/x{type}").folder == Path("/")
    assert PathTemplate("/var/{{a}}/b").constant == Path("/var/{a}/b")
    assert (str(path), repr(path)) == (path._template.text, "PathTemplate('/var/log/rc/{type}/{date}.jsonl')")


@pytest.mark.parametrize("text", ["events.jsonl", "", "/a\0b", "{type}", " /a"])
def test_a_path_has_to_be_absolute(text):
    with pytest.raises(ValueError, match="not an absolute path"):
        PathTemplate(text)
