"""Can handlers be exchanged while others go on, without a loss and without a leak? With a journal, and no network."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from rc_push import crew as crews
from rc_push.config import (
    AccountConfig,
    Changes,
    Config,
    HandlerConfig,
    JournalConfig,
    LogConfig,
    NetworkConfig,
    ServiceConfig,
    SubscriptionConfig,
    changes_between,
    everything_in,
)
from rc_push.crew import Crew
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import HandlerError, JournalError
from rc_push.handlers import adapt
from rc_push.journal import Journal
from rc_push.journal.progress import ProgressRows
from rc_push.transports import Evidence

SOURCE = Source("main", "team", "fake")


class Handler:
    """Writes down what happens to it."""

    def __init__(self, world, config):
        self.world, self.label = world, f"{config.name}/{config.use}"

    async def __aenter__(self):
        if "broken" in self.label:
            raise HandlerError("it cannot be opened")
        if "locking" in self.label:
            if self.world.lock:
                raise HandlerError("the file is written by another handler")
            self.world.lock = True
        self.world.open.append(self.label)

    async def __aexit__(self, *_):
        self.world.open.remove(self.label)
        self.world.lock = self.world.lock and "locking" not in self.label
        self.world.closed.append(self.label)

    async def reopen(self):
        self.world.reopened.append(self.label)

    async def handle(self, envelope):
        self.world.handled.append((self.label, envelope.uuid))
        if self.label in self.world.slow:
            await asyncio.Event().wait()


class World:
    """A crew at work on a journal, and what its handlers have seen."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.lock = False
        self.open, self.closed, self.reopened, self.handled, self.slow = [], [], [], [], set()
        monkeypatch.setattr(crews.handlers, "load", lambda config: adapt(config.name, Handler(self, config)))

    def config(self, grace_s=5.0, rules=None, **handlers):
        more = rules or {}
        named = {name: HandlerConfig(name, use, enabled=use != "off", **more) for name, use in handlers.items()}
        service = ServiceConfig(shutdown_grace_s=grace_s)
        return Config({}, {}, named, JournalConfig(self.path), NetworkConfig(), LogConfig(), service)

    async def emit(self, journal, *uuids):
        events = [Envelope(uuid, "post.added", b"{}", SOURCE, 1000) for uuid in uuids]
        await journal.append(Batch("team", events))

    async def wait(self, *handled):
        async with asyncio.timeout(5):
            while not set(handled) <= set(self.handled):  # noqa: ASYNC110 - a list of the handlers' own
                await asyncio.sleep(0.01)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path / "journal.db", monkeypatch)


async def exchange(crew, old, new):
    changes = changes_between(old, new)
    async with await crew.recruit(new, changes) as recruits:
        await crew.exchange(new, changes, recruits)


class AtWork:
    """`async with AtWork(world, config) as crew:` it works until the end of the block."""

    def __init__(self, world, config):
        self.journal, self.config = Journal(world.path), config

    async def __aenter__(self):
        await self.journal.__aenter__()
        self.crew = Crew(self.journal)
        everything = everything_in(self.config)
        async with await self.crew.recruit(self.config, everything) as recruits:
            await self.crew.exchange(self.config, everything, recruits)
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        self.crew.begin(self.group)
        return self.crew

    async def __aexit__(self, *_):
        for member in self.crew._handlers.values():
            member.task.cancel()
        try:
            await self.group.__aexit__(None, None, None)
        finally:
            await self.crew.__aexit__()
            await self.journal.__aexit__()


async def test_one_is_exchanged_and_goes_on_where_the_one_before_stood(world):
    old = world.config(events="one", crm="one")
    at_work = AtWork(world, old)
    async with at_work as crew:
        await world.emit(at_work.journal, "1")
        await world.wait(("events/one", "1"), ("crm/one", "1"))
        await exchange(crew, old, world.config(events="one", crm="two"))
        assert sorted(world.open) == ["crm/two", "events/one"]
        assert world.closed == ["crm/one"]
        await world.emit(at_work.journal, "2")
        await world.wait(("events/one", "2"), ("crm/two", "2"))
    assert len(world.handled) == 4
    assert world.open == []


async def test_one_with_other_rules_stays_open(world):
    old = world.config(crm="locking")
    at_work = AtWork(world, old)
    async with at_work as crew:
        other = world.config(crm="locking", rules={"types": ("group.*",)})
        await exchange(crew, old, other)
        await world.emit(at_work.journal, "1")
        async with asyncio.timeout(5):
            while crew.dispatchers[0].statistics().filtered == 0:  # noqa: ASYNC110 - a count of its own
                await asyncio.sleep(0.01)
        await exchange(crew, other, old)
        await world.emit(at_work.journal, "2")
        await world.wait(("crm/locking", "2"))
        assert world.closed == []
        assert world.handled == [("crm/locking", "2")]
    assert world.open == []


@pytest.mark.parametrize("new", [{"crm": "locking-two"}, {"sales": "locking"}], ids=["other settings", "another name"])
async def test_one_that_needs_what_the_one_before_holds_is_opened_after_it(world, new):
    old = world.config(events="one", crm="locking")
    at_work = AtWork(world, old)
    async with at_work as crew:
        await exchange(crew, old, world.config(events="one", **new))
        [(name, use)] = new.items()
        assert world.open == ["events/one", f"{name}/{use}"]
        await world.emit(at_work.journal, "1")
        await world.wait((f"{name}/{use}", "1"), ("events/one", "1"))
    assert world.open == []


async def test_one_that_has_made_way_in_vain_works_again(world):
    old = world.config(events="one", crm="locking")
    at_work = AtWork(world, old)
    async with at_work as crew:
        with pytest.raises(HandlerError, match="cannot be opened"):
            await exchange(crew, old, world.config(events="one", crm="locking-two", bad="broken"))
        assert world.open == ["events/one", "crm/locking"]
        await world.emit(at_work.journal, "1")
        await world.wait(("crm/locking", "1"), ("events/one", "1"))
    assert world.open == []


async def test_the_order_of_the_file_is_kept(world):
    old = world.config(a="one", c="one")
    async with AtWork(world, old) as crew:
        await exchange(crew, old, world.config(c="two", b="one", a="one"))
        assert [dispatcher.name for dispatcher in crew.dispatchers] == ["c", "b", "a"]


async def test_what_a_handler_does_not_finish_in_its_grace_is_handed_over_to_the_next(world):
    old = world.config(grace_s=0.05, crm="one")
    at_work = AtWork(world, old)
    world.slow.add("crm/one")
    async with at_work as crew:
        await world.emit(at_work.journal, "1")
        await world.wait(("crm/one", "1"))
        await exchange(crew, old, world.config(grace_s=0.05, crm="two"))
        await world.wait(("crm/two", "1"))


async def test_where_one_cannot_be_opened_nothing_changes_and_nothing_stays_open(world):
    old = world.config(events="one")
    async with AtWork(world, old) as crew:
        with pytest.raises(HandlerError, match="cannot be opened"):
            await exchange(crew, old, world.config(events="two", crm="one", bad="broken"))
        assert world.open == ["events/one"]
        assert [dispatcher.name for dispatcher in crew.dispatchers] == ["events"]


async def test_one_that_is_taken_out_or_disabled_ends_and_is_closed(world):
    old = world.config(events="one", crm="one", log="one")
    async with AtWork(world, old) as crew:
        await exchange(crew, old, world.config(events="one", crm="off"))
        assert world.open == ["events/one"]
        assert sorted(world.closed) == ["crm/one", "log/one"]


async def test_those_that_were_opened_and_not_taken_are_closed(world):
    config = world.config(events="one", crm="one")
    async with Journal(world.path) as journal, await Crew(journal).recruit(config, everything_in(config)):
        assert len(world.open) == 2
    assert world.open == []


async def test_where_the_journal_takes_no_new_handler_nothing_changes_not_even_for_those_that_made_way(
    world, monkeypatch
):
    old = world.config(crm="locking")
    at_work = AtWork(world, old)
    async with at_work as crew:
        make_known = ProgressRows.make_known

        def fail(rows, name, *rest):
            if name == "other":
                raise JournalError("the disk is full")
            make_known(rows, name, *rest)

        monkeypatch.setattr(ProgressRows, "make_known", fail)
        with pytest.raises(JournalError, match="full"):
            await exchange(crew, old, world.config(crm="locking-two", new="one", other="one"))
        assert await at_work.journal.change_progress(lambda rows: rows.names()) == ["crm"]
        assert world.open == ["crm/locking"]
        await world.emit(at_work.journal, "1")
        await world.wait(("crm/locking", "1"))
    assert world.open == []


async def test_a_journal_that_cannot_be_written_ends_the_exchange_and_all_are_closed_in_the_end(world, monkeypatch):
    async def fail(*_):
        raise JournalError("the disk is broken")

    config = world.config(events="one")
    async with Journal(world.path) as journal, Crew(journal) as crew:
        async with await crew.recruit(config, everything_in(config)) as recruits:
            monkeypatch.setattr(journal, "register_handler", fail)
            with pytest.raises(JournalError, match="the disk"):
                await crew.exchange(config, everything_in(config), recruits)
        assert world.open == ["events/one"]
    assert world.open == []


async def test_all_open_their_files_anew(world):
    async with AtWork(world, world.config(a="one", b="one")) as crew:
        await crew.reopen()
    assert sorted(world.reopened) == ["a/one", "b/one"]


async def test_with_nothing_to_change_nothing_changes(world):
    async with Journal(world.path) as journal, await Crew(journal).recruit(world.config(a="one"), Changes()) as none:
        assert not none.handlers
        assert not none.accounts


# ------------------------------------------------------------------------------------------------------- subscriptions


class Link:
    """Is live from the beginning, brings nothing, and ends when the *line* lets it."""

    evidence = Evidence("live", "subscription confirmed")

    def __init__(self, line, name):
        self.line, self.name, self.has_told = line, name, False

    async def read(self):
        if self.has_told:
            await asyncio.Event().wait()
        self.has_told = True
        return Batch(self.name)

    async def close(self):
        if self.name in self.line.held:
            await self.line.held[self.name]
        self.line.did.append(f"{self.name} ended")
        return Batch(self.name)

    leave = close


class Transport:
    name, recovery_window_s = "fake", 1000.0

    def __init__(self, line, subscription):
        self.line, self.subscription = line, subscription

    @asynccontextmanager
    async def connect(self, _cursor):
        self.line.did.append(f"{self.subscription} begins")
        yield Link(self.line, self.subscription)


class Line:
    """In the place of RingCentral: *held* are those whose end takes long, *did* is what has happened, in order."""

    def __init__(self, path, monkeypatch):
        self.path, self.held, self.did, self.opened = path, {}, [], 0
        line = self

        class Ways:
            def __init__(self, *_):
                pass

            async def transport_for(self, _config, subscription, _account):
                return Transport(line, subscription.name)

        class Account:
            def __init__(self, config, *_, **__):
                line.opened += 1
                self.config, self.label = config, f"{config.name}-{line.opened}"

            async def __aenter__(self):
                return self

            async def __aexit__(self, *_):
                line.did.append(f"{self.label} closes")

            async def take_over(self):
                line.did.append(f"{self.label} takes over")

        monkeypatch.setattr(crews, "Ways", Ways)
        monkeypatch.setattr(crews, "Account", Account)

    def hold(self, name):
        self.held[name] = asyncio.get_running_loop().create_future()
        return self.held[name]

    def config(self, *, origin="one", **filters):
        """*filters* by the names of subscriptions; what begins with an x is of the account x."""
        subscriptions = {
            name: SubscriptionConfig(name, name[0] if name[0] == "x" else "main", "pubnub", (each,))
            for name, each in filters.items()
        }
        accounts = {"main": AccountConfig("main"), "x": AccountConfig("x", pubnub_origin=origin)}
        return Config(
            accounts, subscriptions, {}, JournalConfig(self.path), NetworkConfig(), LogConfig(), ServiceConfig()
        )


@pytest.fixture
def line(tmp_path, monkeypatch):
    return Line(tmp_path / "journal.db", monkeypatch)


def states(crew):
    return {receiver.subscription: receiver.statistics().evidence.state for receiver in crew.receivers}


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - states of the crew's own
            await asyncio.sleep(0.01)


class Receiving(AtWork):
    """A crew of subscriptions, all live; what still receives is ended with the block."""

    async def __aenter__(self):
        crew = await super().__aenter__()
        await until(lambda: set(states(crew).values()) == {"live"})
        return crew

    async def __aexit__(self, *_):
        for member in self.crew._receivers.values():
            member.task.cancel()
        await super().__aexit__()


async def test_a_subscription_begins_anew_however_long_another_takes_to_end(line):
    old = line.config(team="/posts", old="/chats")
    async with Receiving(line, old) as crew:
        held = line.hold("old")
        exchanging = asyncio.create_task(exchange(crew, old, line.config(team="/others")))
        await until(lambda: line.did.count("team begins") == 2 and states(crew) == {"team": "live"})
        assert [one.event_filters for one in crew.subscriptions] == [("/others",)]
        assert not exchanging.done()
        held.set_result(None)
        await exchanging
    assert line.did.index("old ended") > line.did.index("team ended")


async def test_while_one_ends_nobody_is_told_what_it_knew(line):
    old = line.config(team="/posts")
    async with Receiving(line, old) as crew:
        held = line.hold("team")
        exchanging = asyncio.create_task(exchange(crew, old, line.config(team="/others")))
        await until(lambda: states(crew) == {"team": "connecting"})
        assert crew.subscriptions == []
        held.set_result(None)
        await exchanging
        await until(lambda: states(crew) == {"team": "live"})


async def test_an_account_is_exchanged_when_all_that_use_it_have_ended_and_others_do_not_wait_for_it(line):
    old = line.config(team="/posts", x1="/posts", x2="/posts")
    async with Receiving(line, old) as crew:
        line.did.clear()
        held = line.hold("x1")
        new = line.config(team="/others", x1="/posts", x2="/posts", origin="two")
        exchanging = asyncio.create_task(exchange(crew, old, new))
        await until(lambda: "x2 ended" in line.did and states(crew)["team"] == "live")
        await asyncio.sleep(0.05)
        assert line.did.count("x2 begins") == 0
        assert states(crew)["x2"] == "connecting"
        held.set_result(None)
        await exchanging
        await until(lambda: set(states(crew).values()) == {"live"})
        its = [what for what in line.did if what[0] == "x"]
        assert its[:2] == ["x2 ended", "x1 ended"]
        (closes, takes_over) = its[2:4]
        assert closes.endswith(" closes")
        assert takes_over.endswith("-3 takes over")
        assert set(its[4:]) == {"x1 begins", "x2 begins"}


async def test_a_journal_that_cannot_be_read_ends_the_exchange_with_its_own_error(line):
    async def fail(*_):
        raise JournalError("the disk is broken")

    old = line.config(team="/posts")
    async with Receiving(line, old) as crew:
        crew._ways.transport_for = fail
        with pytest.raises(JournalError, match="the disk"):
            await exchange(crew, old, line.config(team="/others"))
