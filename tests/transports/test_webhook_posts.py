"""Does every post get its answer in time, whatever becomes of storing it?"""

from __future__ import annotations

import asyncio

import pytest

from rc_push.transports import webhook_posts
from rc_push.transports.webhook_posts import BAD, BUSY, OK, Posts

WALL = 1_795_000_000.5


def sent_at_ms(body: bytes) -> int | None:
    return int(body[5:]) if body.startswith(b"sent ") else None


@pytest.fixture
async def posts():
    one = Posts(lambda: None, lambda: WALL, sent_at_ms)
    yield one
    one.abandon()


async def deliver(posts: Posts, *bodies: bytes) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(posts.deliver(body, "203.0.113.7")) for body in bodies]
    await asyncio.sleep(0)
    return tasks


async def test_posts_are_taken_in_their_order_and_answered_one_by_one(posts):
    tasks = await deliver(posts, b"1", b"2", b"3")
    taken = posts.take(2)
    assert [(post.body, post.remote, post.at_ms) for post in taken] == [
        (b"1", "203.0.113.7", 1_795_000_000_500),
        (b"2", "203.0.113.7", 1_795_000_000_500),
    ]
    assert bool(posts)
    posts.settle(zip(taken, [OK, BAD], strict=True))
    assert await asyncio.gather(*tasks[:2]) == [OK, BAD]
    assert not tasks[2].done()
    assert [post.body for post in posts.take(10)] == [b"3"]
    assert not posts


async def test_who_has_waited_too_long_is_told_so_taken_or_not(posts, monkeypatch):
    monkeypatch.setattr(webhook_posts, "ANSWER_WITHIN_S", 0.05)
    early = await deliver(posts, b"taken", b"waits")
    taken = posts.take(1)
    await asyncio.sleep(0.03)
    late = await deliver(posts, b"later")
    assert await asyncio.gather(*early) == [BUSY, BUSY]
    assert not late[0].done()
    taken += posts.take(10)
    assert [post.body for post in taken] == [b"taken", b"later"]  # what was told to come again is not stored
    posts.settle((post, OK) for post in taken)  # the first one for nobody
    assert await late[0] == OK


async def test_what_is_refused_is_known_by_when_it_was_sent(posts, monkeypatch):
    monkeypatch.setattr(webhook_posts, "ANSWER_WITHIN_S", 0.01)
    await asyncio.gather(*await deliver(posts, b"sent 700", b"sent 300", b"sent 500"))
    assert posts.refused == (300, 700)
    posts.refused = None
    monkeypatch.setattr(webhook_posts, "WAITING_MAX", 0)
    assert await posts.deliver(b"when that was, nobody knows", "") == BUSY
    assert posts.refused == (1_795_000_000_500, 1_795_000_000_500)
    posts.refused = None
    assert await posts.deliver(b"sent 253402300799999", "") == BUSY
    assert posts.refused == (1_795_000_000_500, 1_795_000_000_500)


async def test_what_was_not_heard_was_sent_not_long_ago(posts, monkeypatch):
    posts.miss(5.0)
    assert posts.refused == (1_794_999_993_500, 1_794_999_995_500)
    posts.refused = None
    posts.close()
    posts.miss(5.0)
    assert posts.refused is None  # what RingCentral sends to nobody lies in the gap of the time without us


async def test_what_is_being_stored_when_its_time_is_over_is_not_refused(posts, monkeypatch):
    monkeypatch.setattr(webhook_posts, "ANSWER_WITHIN_S", 0.01)
    tasks = await deliver(posts, b"sent 700")
    posts.take(1)
    assert await asyncio.gather(*tasks) == [BUSY]
    posts.close()
    assert await posts.deliver(b"sent 800", "") == BUSY
    assert posts.refused is None


async def test_as_long_as_nobody_waits_there_is_no_timer(posts, monkeypatch):
    monkeypatch.setattr(webhook_posts, "ANSWER_WITHIN_S", 0.01)
    (task,) = await deliver(posts, b"1")
    assert await task == BUSY
    assert posts._timer is None
    (task,) = await deliver(posts, b"2")
    assert await task == BUSY


@pytest.mark.parametrize(("name", "limit"), [("WAITING_MAX", 2), ("WAITING_MAX_BYTES", 20)])
async def test_more_than_may_wait_is_refused_at_once_and_room_comes_back(posts, monkeypatch, name, limit):
    monkeypatch.setattr(webhook_posts, name, limit)
    waiting = await deliver(posts, b"0123456789", b"0123456789")
    assert await posts.deliver(b"0123456789", "") == BUSY
    taken = posts.take(10)
    assert await posts.deliver(b"0123456789", "") == BUSY  # what is being stored counts, too
    posts.settle((post, OK) for post in taken)
    assert await asyncio.gather(*waiting) == [OK, OK]
    more = await deliver(posts, b"0123456789")
    assert len(posts.take(10)) == len(more)


async def test_each_post_is_told_of():
    told = []
    posts = Posts(lambda: told.append("post"), lambda: WALL, sent_at_ms)
    await deliver(posts, b"1", b"2")
    posts.abandon()
    assert told == ["post", "post"]


async def test_once_closed_nothing_is_taken_in_but_what_is_there_can_be_stored(posts):
    tasks = await deliver(posts, b"1")
    posts.close()
    assert await posts.deliver(b"2", "") == BUSY
    posts.settle((post, OK) for post in posts.take(10))
    assert await tasks[0] == OK


async def test_abandoned_posts_are_told_to_come_again(posts):
    tasks = await deliver(posts, b"1", b"2")
    posts.take(1)
    posts.abandon()
    assert await asyncio.gather(*tasks) == [BUSY, BUSY]
    assert not posts


async def test_a_sender_that_has_gone_harms_nobody(posts):
    gone, stays = await deliver(posts, b"1", b"2")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    posts.settle((post, OK) for post in posts.take(10))
    assert await stays == OK
