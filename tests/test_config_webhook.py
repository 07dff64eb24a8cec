"""What can be wrong with a subscription's webhook: each mistake with its key and remedy."""

from __future__ import annotations

import pytest

from rc_push import config
from rc_push.config.webhook import Place, place_from
from rc_push.errors import ConfigError

GOOD = """\
accounts.main.access_token = "bot"
[subscriptions.team]
transport = "webhook"
event_filters = ["/team-messaging/v1/posts"]
address = "https://events.example.com/rc-push?a=1"
listen = "127.0.0.1:8443"
"""


@pytest.fixture
def problems(tmp_path):
    def problems(text: str) -> dict[str, str]:
        path = tmp_path / "rc-push.toml"
        path.write_text(text)
        try:
            config.load(path, {})
        except ConfigError as exc:
            return {
                each.key.removeprefix("subscriptions.team."): str(each) for each in exc.problems if not each.warning
            }
        return {}

    return problems


def test_a_webhook_needs_its_address_and_a_place_to_listen(problems):
    assert problems(GOOD) == {}
    found = problems(GOOD.replace("address", "#").replace("listen", "#"))
    assert found.keys() == {"address", "listen"}
    assert 'give it, such as listen = "127.0.0.1:8443"' in found["listen"]


def test_the_keys_may_stay_when_the_transport_changes(problems):
    assert problems(GOOD.replace('"webhook"', '"websocket"')) == {}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('address = "http://events.example.com/x"', "http is for loopback addresses only"),
        ('address = "https://user:secret@example.com/"', "an address with a password"),
        ('address = "events.example.com"', "write the https address"),
        ('address = "https:///x"', "write the https address"),
        ('listen = "8443"', 'write "127.0.0.1:8443"'),
        ('listen = "127.0.0.1"', "or "),
        ('listen = "127.0.0.1:99999"', "or "),
        ('listen = "unix:relative"', "or "),
        ('listen = "unix:/a/b/../very/long/' + "x" * 100 + '"', "or "),
    ],
)
def test_what_is_no_address_and_no_place_is_told(problems, line, told):
    key = line.partition(" ")[0]
    lines = [line if text.startswith(key) else text for text in GOOD.splitlines()]
    found = problems("\n".join(lines))
    assert found.keys() == {key}
    assert told in found[key]
    assert "secret" not in found[key]


def test_certificate_and_key_come_together_and_are_there(problems, tmp_path):
    pem = tmp_path / "some.pem"
    pem.touch()
    assert problems(f'{GOOD}certificate = "{pem}"\nkey = "{pem}"\n') == {}
    assert problems(f'{GOOD}certificate = "{pem}"\n').keys() == {"key"}
    assert problems(f'{GOOD}key = "{pem}"\n').keys() == {"certificate"}
    assert "there is no file" in problems(f'{GOOD}certificate = "/nowhere"\nkey = "{pem}"\n')["certificate"]


@pytest.mark.parametrize(
    ("proxy", "is_good"),
    [
        ("127.0.0.1", True),
        ("10.0.0.0/8", True),
        ("::1", True),
        ("unix", True),
        ("proxy.example.com", False),
        ("10.0.0.1/8", False),
    ],
)
def test_a_trusted_proxy_is_an_address_a_network_or_the_unix_socket(problems, proxy, is_good):
    assert (problems(f'{GOOD}trusted_proxies = ["{proxy}"]\n') == {}) is is_good


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8443", Place("127.0.0.1", 8443)),
        ("[::1]:8443", Place("::1", 8443)),
        ("localhost:0", Place("localhost", 0)),
        ("unix:/run/rc-push/webhook", Place(path="/run/rc-push/webhook")),
    ],
)
def test_a_place_is_read_and_told_as_the_file_says_it(text, place):
    assert place_from(text) == place
    assert str(place) == text


def test_a_bare_path_is_a_unix_socket_too():
    assert place_from("/run/rc-push/webhook") == Place(path="/run/rc-push/webhook")


@pytest.mark.parametrize("text", ["a@b:1", "b:1/path", "b:1?x", ":1", "", "b:x"])
def test_what_is_no_place_is_none(text):
    assert place_from(text) is None
