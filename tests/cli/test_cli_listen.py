"""What `rc-push listen` makes of its arguments and the environment; how it listens is tested in tests/e2e."""

from __future__ import annotations

import sys

import pytest

from rc_push.__main__ import main

ENVIRONMENT = {
    "RC_SERVER_URL": "http://127.0.0.1:1",
    "RC_APP_CLIENT_ID": "a",
    "RC_APP_CLIENT_SECRET": "b",
    "RC_USER_JWT": "c",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def listened(monkeypatch):
    """Return what it would listen with."""
    configurations = []

    async def note(config, *_, **__):
        configurations.append(config)

    monkeypatch.setattr("rc_push.cli.listen._listen", note)
    return configurations


def test_arguments_may_have_any_characters(listened):
    assert main(["listen", "/x?🎉", "--types", "é\x7f", "--exec", f"{sys.executable} '🎉 \"'"]) == 0
    (config,) = listened
    assert config.subscriptions["listen"].event_filters == ("/x?🎉",)
    assert config.handlers["command"].settings["program"][1:] == ['🎉 "']
    assert config.handlers["command"].types == ("é\x7f",)


@pytest.mark.parametrize(
    ("forward_to", "url"), [("3000", "http://127.0.0.1:3000/"), ("https://example.com/x", "https://example.com/x")]
)
def test_a_bare_port_means_this_machine(listened, forward_to, url):
    assert main(["listen", "/x", "--forward-to", forward_to]) == 0
    assert listened[0].handlers["forward"].settings["url"] == url


@pytest.mark.parametrize("forward_to", ["99999", "0", "9" * 5000, "example.com", "http://[::1"])
def test_where_nothing_can_be_posted_to_it_is_the_argument_that_is_wrong(listened, capfd, forward_to):
    assert main(["listen", "/x", "--forward-to", forward_to]) == 2
    err = capfd.readouterr().err
    assert "Invalid value for --forward-to: the URL" in err
    assert "listening" not in err
    assert listened == []


def test_arguments_that_are_no_text_are_refused(listened, capfd):
    assert main(["listen", "/x\udcff"]) == 2
    assert "not UTF-8" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "server", "says"),
    [
        (["x"], "http://127.0.0.1:1", 'rc-push: FILTER: "x"; begin it with /, such as /team-messaging/v1/posts\n'),
        (["/x"], "ftp://x", 'rc-push: RC_SERVER_URL: "ftp://x"; write an address'),
        (["x"], "ftp://x", "rc-push: the configuration: 2 mistakes\n  RC_SERVER_URL: "),
    ],
)
def test_a_mistake_is_told_by_the_name_of_what_the_user_has_given(monkeypatch, capfd, words, server, says):
    monkeypatch.setenv("RC_SERVER_URL", server)
    assert main(["listen", *words]) == 78
    err = capfd.readouterr().err
    assert err.startswith(says)
    assert "rc-push-listen-" not in err
    assert "line" not in err


def test_so_is_what_is_missing_in_the_environment(monkeypatch, capfd):
    monkeypatch.delenv("RC_USER_JWT")
    assert main(["listen", "/x"]) == 78
    says = "rc-push: the environment: the environment variable RC_USER_JWT is not set; "
    assert capfd.readouterr().err.startswith(says)


def test_so_is_what_a_handler_finds(capfd):
    assert main(["listen", "/x", "--forward-to", "http://169.254.169.254/"]) == 78
    assert "rc-push: --forward-to: url names a link-local or metadata address" in capfd.readouterr().err
