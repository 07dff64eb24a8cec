"""What has to begin anew when the file has changed?"""

from __future__ import annotations

import hashlib

import pytest

from rc_push.config import Changes, changes_between, everything_in, load
from rc_push.errors import ConfigError

FILE = """
[accounts.main]
client_id = "id"
client_secret = { env = "SECRET" }
jwt = { env = "JWT" }
[accounts.bot]
access_token = { env = "TOKEN" }
[subscriptions.team]
account = "main"
event_filters = ["/team-messaging/v1/posts"]
[subscriptions.mentions]
account = "bot"
event_filters = ["/team-messaging/v1/posts"]
[handlers.events]
use = "file"
path = "/tmp/events.jsonl"
[handlers.crm]
use = "log"
[journal]
path = "/tmp/journal.db"
"""
ENVIRON = {"SECRET": "s", "JWT": "j", "TOKEN": "t"}


@pytest.fixture
def read(tmp_path):
    def read(text=FILE, environ=ENVIRON):
        path = tmp_path / "rc-push.toml"
        path.write_text(text)
        return load(path, environ)[0]

    return read


def test_what_has_not_changed_need_not_begin_anew(read):
    assert changes_between(read(), read(FILE + "# a remark\n")) == Changes()


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ('use = "log"', 'use = "stdout"', ["handlers.crm"]),
        ("[handlers.crm]", "[handlers.other]", ["handlers.crm", "handlers.other"]),
        ('"/tmp/events.jsonl"', '"/tmp/other.jsonl"', ["handlers.events"]),
        ('use = "log"', 'use = "log"\nretry = { max_attempts = 3 }', ["handlers.crm"]),
        (
            '"main"\nevent_filters = ["/team-messaging/v1/posts"]',
            '"main"\nevent_filters = ["/x"]',
            ["subscriptions.team"],
        ),
        ("[subscriptions.mentions]", "[subscriptions.more]", ["subscriptions.mentions", "subscriptions.more"]),
        ('client_id = "id"', 'client_id = "other"', ["accounts.main", "subscriptions.team"]),
        ("[journal]", "[journal]\nretention_days = 3", ["journal"]),
        ("[journal]", '[log]\nlevel = "debug"\n[journal]', ["log"]),
        ("[journal]", "[service]\nshutdown_grace_s = 3\n[journal]", ["service"]),
    ],
)
def test_what_has_changed_is_named_with_what_depends_on_it(read, old, new, keys):
    assert old in FILE
    assert changes_between(read(), read(FILE.replace(old, new))).keys() == keys


def test_a_new_secret_is_a_change_of_its_account(read):
    changes = changes_between(read(), read(environ=ENVIRON | {"TOKEN": "another"}))
    assert changes.keys() == ["accounts.bot", "subscriptions.mentions"]


def test_another_way_to_ringcentral_concerns_every_connection_and_no_handler(read):
    changes = changes_between(read(), read(FILE + "[network]\nread_timeout_s = 5\n"))
    assert changes.keys() == [
        "accounts.bot",
        "accounts.main",
        "subscriptions.mentions",
        "subscriptions.team",
        "network",
    ]


def test_a_subscription_that_moves_to_another_account_begins_anew(read):
    changes = changes_between(read(), read(FILE.replace('account = "bot"', 'account = "main"')))
    assert changes.keys() == ["subscriptions.mentions"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"/tmp/journal.db"', '"/tmp/other.db"', "journal.path"),
        ("[journal]", '[service]\ncontrol = "/tmp/control"\n[journal]', "service.control"),
    ],
)
def test_what_cannot_change_while_it_runs_is_a_mistake_that_names_the_remedy(read, old, new, key):
    with pytest.raises(ConfigError) as raised:
        changes_between(read(), read(FILE.replace(old, new)))
    [problem] = raised.value.problems
    assert problem.key == key
    assert "restart" in problem.remedy


def test_where_nothing_runs_everything_has_to_begin(read):
    assert everything_in(read()).keys() == [
        "accounts.bot",
        "accounts.main",
        "subscriptions.mentions",
        "subscriptions.team",
        "handlers.crm",
        "handlers.events",
    ]


def test_the_fingerprint_is_what_sha256sum_shows_of_the_file(read):
    assert read().fingerprint == hashlib.sha256(FILE.encode()).hexdigest()[:12]
    assert read(FILE + "#").fingerprint != read().fingerprint
