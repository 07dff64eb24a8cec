"""The OAuth rules, without HTTP."""

from __future__ import annotations

import pytest

from rc_push.simulator.answers import Refused
from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.people import User
from rc_push.simulator.tokens import Lifetimes, Tokens


class World:
    """Tokens with a hand on the clock."""

    def __init__(self, speed=1.0, **knobs):
        self.now = 1000.0
        self.ended = []
        self.user = User()
        self.tokens = Tokens(Clock(speed, lambda: self.now), Knobs(**knobs), self.ended.append)

    def login(self, **lifetimes):
        return self.tokens.login(self.user, "", Lifetimes(**lifetimes))

    def code(self, function, *arguments):
        """Return the errorCode that *function* meets; empty where it succeeds."""
        try:
            function(*arguments)
        except Refused as refused:
            return refused.answer.body["errors"][0]["errorCode"]
        return ""

    def use(self, grant):
        return self.code(self.tokens.authorize, f"Bearer {grant.access.value}")


def test_an_access_token_works_until_it_expires():
    world = World()
    grant = world.login()
    assert world.use(grant) == ""
    world.now += 3599.9
    assert world.use(grant) == ""
    world.now += 0.1
    assert world.use(grant) == "OAU-128"


def test_lifetimes_are_what_was_asked_for_divided_by_the_speed():
    world = World(speed=60)
    grant = world.login(access_s=600.0, refresh_s=1200.0)
    assert (grant.access.lifetime_s, grant.refresh.lifetime_s) == (10, 20)
    world.now += 10
    assert world.use(grant) == "OAU-128"


@pytest.mark.parametrize(
    ("header", "code"),
    [("", "AGW-401"), ("Basic abc", "OAU-123"), ("Bearer ", "OAU-123"), ("Bearer nobody's", "OAU-149")],
)
def test_a_wrong_authorization_is_refused_with_its_code(header, code):
    world = World()
    assert world.code(world.tokens.authorize, header) == code


def test_a_refresh_gives_new_tokens_and_kills_the_old_access_token():
    world = World()
    first = world.login()
    second = world.tokens.refresh(first.refresh.value)
    assert world.use(first) == "OAU-213"
    assert world.use(second) == ""
    assert second.access.session is first.access.session
    assert second.refresh.value != first.refresh.value


def test_a_spent_refresh_token_gives_the_same_answer_for_an_hour_while_its_grant_is_unused():
    world = World()
    first = world.login()
    second = world.tokens.refresh(first.refresh.value)
    world.now += 3599
    assert world.tokens.refresh(first.refresh.value) is second
    world.now += 1
    assert world.code(world.tokens.refresh, first.refresh.value) == "OAU-210"


def test_a_spent_refresh_token_dies_ten_seconds_after_the_first_use_of_its_grant():
    world = World()
    first = world.login()
    second = world.tokens.refresh(first.refresh.value)
    world.now += 100
    world.use(second)
    world.now += 9.9
    world.use(second)
    assert world.tokens.refresh(first.refresh.value) is second
    world.now += 0.1
    assert world.code(world.tokens.refresh, first.refresh.value) == "OAU-210"


def test_a_refresh_token_of_two_refreshes_ago_is_dead():
    world = World()
    first = world.login()
    second = world.tokens.refresh(first.refresh.value)
    world.tokens.refresh(second.refresh.value)
    assert world.code(world.tokens.refresh, first.refresh.value) == "OAU-210"


def test_an_expired_or_unknown_refresh_token_is_refused():
    world = World()
    grant = world.login(refresh_s=3600.0)
    assert world.code(world.tokens.refresh, "nobody's") == "OAU-210"
    world.now += 3600
    assert world.code(world.tokens.refresh, grant.refresh.value) == "OAU-210"


def test_an_app_without_refresh_tokens_gets_none():
    assert World(refresh_tokens=False).login().refresh is None


def test_the_sixth_session_revokes_the_oldest():
    world = World()
    grants = [world.login() for _ in range(6)]
    assert [world.use(grant) for grant in grants] == ["OAU-213", "", "", "", "", ""]
    assert world.ended == [grants[0].access.session]
    assert world.code(world.tokens.refresh, grants[0].refresh.value) == "OAU-210"


def test_the_sixth_session_can_be_the_one_that_stays_out():
    world = World(sixth_session="refuse")
    grants = [world.login() for _ in range(5)]
    assert world.code(world.login) == "CMN-301"
    assert [world.use(grant) for grant in grants] == [""] * 5


def test_sessions_that_have_run_out_do_not_count():
    world = World(refresh_tokens=False)
    for _ in range(5):
        world.login()
    world.now += 3600
    world.login()
    assert world.ended == []


def test_sessions_count_by_user():
    world = World()
    grants = [world.login() for _ in range(5)]
    world.tokens.login(User(extension_id="1"), "")
    assert [world.use(grant) for grant in grants] == [""] * 5


@pytest.mark.parametrize("which", ["access", "refresh"])
def test_revoking_either_token_ends_the_whole_session(which):
    world = World()
    grant = world.login()
    world.tokens.revoke(getattr(grant, which).value)
    world.tokens.revoke("nobody's")
    assert world.use(grant) == "OAU-213"
    assert world.ended == [grant.access.session]


def test_a_session_ends_once():
    world = World()
    grant = world.login()
    world.tokens.end(grant.access.session)
    world.tokens.end(grant.access.session)
    assert len(world.ended) == 1


def test_all_sessions_can_end_and_all_access_tokens_expire_at_once():
    world = World()
    grants = [world.login() for _ in range(3)]
    assert world.tokens.expire_all() == 3
    assert {world.use(grant) for grant in grants} == {"OAU-128"}
    assert world.tokens.refresh(grants[0].refresh.value)
    assert world.tokens.end_all() == 3
    assert {world.use(grant) for grant in grants} == {"OAU-213"}
    assert world.tokens.end_all() == 0


def test_a_bot_token_does_not_expire_and_takes_nobodys_place():
    world = World()
    value = world.tokens.bot_token(world.user)
    for _ in range(5):
        world.login()
    world.now += 1e9
    assert world.tokens.authorize(f"bearer {value}").user == world.user
    assert world.ended == []


def test_a_ws_token_works_once_and_for_thirty_seconds():
    world = World()
    session = world.login().access.session
    value, lifetime_s = world.tokens.ws_token(session)
    assert lifetime_s == 30
    assert world.tokens.redeem_ws_token(value) is session
    assert world.tokens.redeem_ws_token(value) is None
    late, _ = world.tokens.ws_token(session)
    world.now += 30
    assert world.tokens.redeem_ws_token(late) is None


def test_a_ws_token_of_an_ended_session_is_worth_nothing():
    world = World()
    session = world.login().access.session
    value, _ = world.tokens.ws_token(session)
    world.tokens.end(session)
    assert world.tokens.redeem_ws_token(value) is None


def test_a_ws_token_can_be_taken_twice_where_the_knob_says_so():
    world = World(used_ws_token="accept")
    session = world.login().access.session
    value, _ = world.tokens.ws_token(session)
    assert world.tokens.redeem_ws_token(value) is world.tokens.redeem_ws_token(value) is session


def test_no_token_shows_itself():
    world = World()
    grant = world.login()
    shown = f"{grant} {grant.access} {grant.refresh} {world.user}"
    for secret in (grant.access.value, grant.refresh.value, world.user.jwt):
        assert secret not in shown
