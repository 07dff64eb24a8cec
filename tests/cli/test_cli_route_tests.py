"""`test`: routes are tested with fixtures; each difference is told, and nothing to test is no success."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rc_push.__main__ import main
from rc_push.cli.given import EVENT_MAX_BYTES

CONFIG = """
[accounts.main]
jwt = { env = "NOT_SET" }
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.crm]
use = "no-such-plug-in"
types = ["post.added", "sms.*"]
[handlers.urgent]
use = "log"
types = ["post.*"]
where = "contains(body.text, 'urgent')"
[handlers.old]
use = "log"
enabled = false
"""
CALLS = "[subscriptions.calls]\nevent_filters = ['/x']\n[handlers.calls]\nuse = 'log'\nsubscriptions = ['calls']\n"


def post(text: str = "Hello", **more: object) -> dict[str, object]:
    body = {"eventType": "PostAdded", "id": "7", "text": text}
    return {"uuid": "1", "event": "/team-messaging/v1/posts", "body": body, **more}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "rc-push.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    path = tmp_path / "fixtures"
    path.mkdir()
    return path


@pytest.fixture
def write(fixtures):
    def write(content: object, name: str = "a.json") -> Path:
        path = fixtures / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def run(config, fixtures, capfd):
    """Return a function that runs the command; it gives code, stdout and stderr."""

    def run(*options: str, directory: Path = fixtures) -> tuple[int, str, str]:
        code = main(["-c", str(config), "test", str(directory), *options])
        out, err = capfd.readouterr()
        assert (out + err).replace("\n", "").isprintable()
        return code, out, err

    return run


def test_what_is_as_expected_is_counted_and_needs_no_secret(run, write):
    write({"event": post(), "handlers": ["crm"]}, "hello.json")
    write({"handlers": ["urgent", "crm"], "event": post("urgent!")}, "deep/er/urgent.json")
    assert run() == (0, "2 fixtures: 2 as expected\n", "")


def test_each_difference_is_told_with_its_reason(run, write):
    path = write({"event": post(), "handlers": ["urgent", "old"]})
    code, out, err = run()
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{path}: different",
        '  + crm gets it, which is not expected: types: post.added matches "post.added"',
        "  - urgent is expected, but does not get it: where: gives false",
        "  - old is expected, but does not get it: it is not enabled; else: yes, it has no rules and gets everything",
        "1 fixture: 1 different",
    ]


@pytest.mark.parametrize("expected", [[], ["urgent"]])
def test_an_event_that_a_handler_would_park_is_a_difference_whatever_is_expected(run, write, expected):
    event = post() | {"body": {"eventType": "PostRemoved", "id": "7"}}
    write({"event": event, "handlers": expected})
    code, out, _ = run()
    assert code == 1
    assert "  ! urgent would park it: cannot be routed: where: contains() takes array or string and got null" in out


def test_json_is_one_object_per_fixture_with_stable_keys(run, write):
    good = write({"event": post(), "handlers": ["crm"]}, "a.json")
    different = write({"event": post(), "handlers": []}, "b.json")
    unusable = write(b"{", "c.json")
    code, out, _ = run("--json")
    assert code == 78
    why = 'types: post.added matches "post.added"'
    assert [json.loads(line) for line in out.splitlines()[:2]] == [
        {"fixture": str(good), "result": "as expected", "differences": [], "reason": ""},
        {
            "fixture": str(different),
            "result": "different",
            "differences": [{"handler": "crm", "goes": True, "why": why}],
            "reason": "",
        },
    ]
    told = json.loads(out.splitlines()[2])
    assert (told["fixture"], told["result"], told["differences"]) == (str(unusable), "unusable", [])


def test_a_fixture_can_say_over_which_subscription_its_event_came(run, write, config):
    config.write_text(CONFIG + CALLS)
    ours = {"account": "main", "subscription": "calls", "transport": "websocket"}
    write({"event": post(), "handlers": ["crm"], "subscription": "team"}, "named.json")
    write({"event": post(), "handlers": ["crm", "calls"], "subscription": "calls"}, "other.json")
    write({"event": post(rcPush=ours), "handlers": ["crm", "calls"]}, "ours.json")
    write({"event": post(rcPush=ours), "handlers": ["crm"], "subscription": "team"}, "both.json")
    assert run() == (0, "4 fixtures: 4 as expected\n", "")


def test_files_that_are_no_fixtures_by_their_name_are_left_alone(run, write):
    write({"event": post(), "handlers": ["crm"]})
    for name in ("notes.txt", ".hidden.json", ".git/x.json", "x.json~"):
        write(b"{", name)
    assert run()[:2] == (0, "1 fixture: 1 as expected\n")


# ------------------------------------------------------------------------------------------------------ nothing to test


def test_an_empty_directory_is_no_success(run, fixtures, write):
    write(b"", "notes.txt")
    code, out, err = run()
    assert (code, out) == (2, "")
    assert f"there is no fixture NAME.json in {fixtures}" in err


def test_a_directory_that_is_not_there_is_no_success(run, fixtures, write):
    assert run(directory=fixtures / "no-such")[0] == 2
    assert run(directory=write({"event": post(), "handlers": []}))[0] == 2


def test_a_mistake_in_the_configuration_is_told_before_anything_is_tested(run, write, config):
    write({"event": post(), "handlers": ["crm"]})
    config.write_text("[handlers.crm]\nuse = 'log'\nwhere = 'body.'\n")
    code, out, err = run()
    assert (code, out) == (78, "")
    assert "line 3: handlers.crm.where: " in err


# ------------------------------------------------------------------------------------------------- unusable and hostile


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", 'Expected `object`, got `array`; write {"event": {…}, "handlers": […]}'),
        (post(), "unknown field `uuid`; write"),
        ({"event": post()}, "missing required field `handlers`; write"),
        ({"event": post(), "handlers": "crm"}, "Expected `array`, got `str`"),
        ({"event": post(), "handlers": [5]}, "Expected `str`, got `int`"),
        ({"event": post(), "handlers": ["crm"], "\x1b[2J": 1}, "unknown field"),
        ({"event": post(), "handlers": ["cmr"]}, 'there is no handler "cmr"; did you mean "crm"?'),
        ({"event": post(), "handlers": ["\x1b[2J"]}, "there is no handler"),
        ({"event": post(), "handlers": ["crm"], "subscription": "tem"}, 'no subscription "tem"; did you mean "team"?'),
        ({"event": 5, "handlers": []}, "not a JSON object"),
        ({"event": {"event": "/x"}, "handlers": []}, "no usable uuid"),
        ({"event": {"uuid": "1"}, "handlers": []}, "no event URI"),
        (b'{"handlers":[],"event":{"uuid":"1","event":"/\xff"}}', "not"),
        (b'{"handlers":[],"event":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[" * 100_000, "Expected `object`"),
        (b" " * (EVENT_MAX_BYTES + 1), "longer than 16 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fixture_that_cannot_be_used_is_named_with_the_reason(run, write, content, reason):
    write({"event": post(), "handlers": []}, "b.json")
    path = write(content)
    code, out, _ = run()
    assert code == 78
    assert out.startswith(f"{path}: unusable: ")
    assert reason in out.splitlines()[0]
    assert len(out.splitlines()[0]) < 400
    assert out.splitlines()[-1] == "2 fixtures: 1 different, 1 unusable"


def test_with_several_subscriptions_a_fixture_has_to_say_which(run, write, config):
    config.write_text(CONFIG + CALLS)
    write({"event": post(), "handlers": ["crm"]})
    code, out, _ = run()
    assert code == 78
    assert '(there are: team, calls); add "subscription": "NAME"' in out


def test_a_fixture_that_cannot_be_opened_is_unusable(run, write, monkeypatch):
    path = write({"event": post(), "handlers": ["crm"]})
    real = Path.open

    def refuse(self, *arguments):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    code, out, _ = run()
    assert code == 78
    assert "unusable: cannot be read: permission denied" in out


def test_an_event_of_five_megabytes_can_be_tested(run, write):
    write({"event": post("x" * 5_000_000), "handlers": ["crm"]})
    assert run()[0] == 0
