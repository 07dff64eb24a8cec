"""What does the running daemon show to commands? Over a real journal."""

from __future__ import annotations

import asyncio

import known
import msgspec
import pytest

from rc_push.envelope import Batch, Envelope, Source, envelope_from_dict
from rc_push.errors import ConfigError, JournalError
from rc_push.journal import Journal
from rc_push.views import READ_AT_ONCE, Views


def event(number, type_="post.added", subscription="team", **body):
    payload = msgspec.json.encode({"uuid": f"u{number}", "event": f"/x/{type_}", "body": body})
    return Envelope(f"u{number}", type_, payload, Source("main", subscription, "websocket"), 1000)


@pytest.fixture
async def journal(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        yield journal


@pytest.fixture
def views(journal):
    return Views(known.everything, journal)


async def collect(views, count, **fields):
    """Return the first *count* answers of a tail."""
    answers = []
    stream = await views.table()["tail"](fields)
    async with asyncio.timeout(10):
        async for answer in stream:
            answers.append(answer)
            if len(answers) == count:
                break
    await stream.aclose()
    return answers


def positions(answers):
    return [envelope_from_dict(answer["event"]).position for answer in answers]


async def test_the_status_is_that_of_the_daemon_and_of_its_journal(journal, views):
    await journal.append(Batch("team", [event(1)]))
    document = await views.table()["status"]({})
    assert document["subscriptions"][0]["subscription"] == "team"
    assert document["events"]["oldestAt"] == "1970-01-01T00:00:01.000Z"


async def test_a_journal_that_cannot_be_read_is_told(journal, views, monkeypatch):
    async def look(_query):
        raise JournalError("disk I/O error")

    monkeypatch.setattr(journal, "look", look)
    document = await views.table()["status"]({})
    assert document["reasons"] == ["the journal cannot be read: disk I/O error"]


async def test_many_who_ask_at_once_cost_one_read_and_one_who_goes_takes_it_from_nobody(journal, monkeypatch):
    reads = []
    look = journal.look

    async def counted(query):
        reads.append(query)
        return await look(query)

    monkeypatch.setattr(journal, "look", counted)
    views = Views(known.everything, journal)
    asking = [asyncio.ensure_future(views.facts()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.gather(*asking[1:])
    assert len(reads) == 1
    await views.facts()
    assert len(reads) == 2


async def test_a_read_that_failed_is_tried_again(journal, monkeypatch):
    look = journal.look

    async def broken(_query):
        raise JournalError("disk I/O error")

    views = Views(known.everything, journal)
    monkeypatch.setattr(journal, "look", broken)
    with pytest.raises(JournalError):
        await views.facts()
    monkeypatch.setattr(journal, "look", look)
    assert (await views.facts()).head == 0


async def test_a_tail_gives_what_is_there_and_what_comes(journal, views):
    await journal.append(Batch("team", [event(n) for n in range(1, 4)]))
    collecting = asyncio.ensure_future(collect(views, 3, after=1))
    await asyncio.sleep(0.05)
    await journal.append(Batch("team", [event(4)]))
    assert positions(await collecting) == [2, 3, 4]


async def test_without_a_position_it_begins_now(journal, views):
    await journal.append(Batch("team", [event(1)]))
    collecting = asyncio.ensure_future(collect(views, 1))
    await asyncio.sleep(0.05)
    await journal.append(Batch("team", [event(2)]))
    assert positions(await collecting) == [2]


async def test_an_event_comes_as_it_is_stored(journal, views):
    payload = b'{"uuid":"u","event":"/x","body":{"text":"\\ud800 \xc2\x9b","big":123456789012345678901234567890}}'
    stored = Envelope("u", "other", payload, Source("main", "team", "websocket", "recovered"), 5)
    await journal.append(Batch("team", [stored]))
    (answer,) = await collect(views, 1, after=0)
    carried = msgspec.json.decode(msgspec.json.encode(answer))
    assert envelope_from_dict(carried["event"]) == msgspec.structs.replace(stored, position=1)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"types": ["sms.*"]}, [2]),
        ({"events": ["*/post.*"]}, [1, 3]),
        ({"subscriptions": ["calls"]}, [3]),
        ({"where": "body.n == `2`"}, [2]),
        ({"types": ["post.*"], "subscriptions": ["team"]}, [1]),
    ],
)
async def test_it_chooses_as_a_handlers_rules_do(journal, views, rules, expected):
    await journal.append(Batch("team", [event(1, n=1), event(2, "sms.received", n=2)]))
    await journal.append(Batch("calls", [event(3, subscription="calls", n=3)]))
    assert positions(await collect(views, len(expected), after=0, **rules)) == expected


async def test_what_the_rules_cannot_be_applied_to_is_told(journal, views):
    await journal.append(Batch("team", [event(1, text="a"), event(2, text="b")]))
    answers = await collect(views, 2, after=0, where="body.text > `1`")
    assert [answer["position"] for answer in answers] == [1, 2]
    assert "compare values of the same type" in answers[0]["why"]


async def test_it_passes_what_was_removed_and_more_than_one_read(journal, views):
    count = READ_AT_ONCE + 10
    await journal.append(Batch("team", [event(n) for n in range(count)]))
    assert positions(await collect(views, count, after=0)) == list(range(1, count + 1))
    while await journal.prune(10_000):
        pass
    collecting = asyncio.ensure_future(collect(views, 1, after=0))
    await asyncio.sleep(0.05)
    await journal.append(Batch("team", [event(count)]))
    assert positions(await collecting) == [count + 1]


@pytest.mark.parametrize("fields", [{"after": "x"}, {"types": "post.*"}, {"type": ["post.*"]}])
async def test_a_request_that_is_not_as_it_has_to_be_is_refused(views, fields):
    with pytest.raises(msgspec.ValidationError):
        await views.table()["tail"](fields)


async def test_a_where_that_does_not_compile_is_refused(views):
    with pytest.raises(ConfigError):
        await views.table()["tail"]({"where": "body.("})
