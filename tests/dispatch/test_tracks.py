"""Do a track's position and its counts say the same, in whatever order events finish, and after a crash anywhere?"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rc_push.dispatch.lanes import Entry
from rc_push.dispatch.tracks import Track

# What becomes of each event of a stream: the handler does not want it, it is done, or it is noted as unfinished.
FATES = st.lists(st.sampled_from(["unwanted", "done", "done", "noted"]), max_size=30)


def test_the_position_stands_before_the_first_that_is_not_finished():
    track = Track(10)
    steps = [Entry(position, track) for position in (11, 12, 15)]
    for step in steps:
        track.add(step)
    assert (track.position, track.read_to) == (10, 15)
    track.finish(steps[1], delivered=1)
    assert (track.position, track.delivered) == (10, 0)
    track.finish(steps[0], delivered=1)
    assert (track.position, track.delivered) == (12, 2)
    track.finish(steps[2], delivered=1)
    assert (track.position, track.take_counts(), track.take_counts()) == (15, (3, 0), (0, 0))


def test_what_is_passed_over_behind_an_open_event_counts_when_the_position_passes_it():
    track = Track(0)
    first = Entry(1, track)
    track.add(first)
    track.pass_over(2, filtered=1)
    track.pass_over(5, filtered=1)
    assert (track.position, track.filtered, track.read_to) == (0, 0, 5)
    track.finish(first, delivered=1)
    assert (track.position, track.take_counts()) == (5, (1, 2))


def test_what_is_passed_over_with_nothing_open_counts_at_once():
    track = Track(0)
    track.pass_over(3, filtered=1)
    track.pass_over(9)
    assert (track.position, track.take_counts()) == (9, (0, 1))


def test_one_that_was_noted_before_it_was_read_is_passed_when_it_comes():
    track = Track(0)
    step = Entry(1, track)
    step.is_finished = True
    track.add(step)
    assert (track.position, track.delivered) == (1, 0)
    track.finish(step, delivered=1)
    assert track.take_counts() == (1, 0)


def test_one_that_is_done_after_all_before_the_position_has_passed_it_is_counted_there():
    track = Track(0)
    first, parked = Entry(1, track), Entry(2, track)
    for step in (first, parked):
        track.add(step)
    track.finish(parked, delivered=0)
    again = Entry(2, track)
    track.replace(again)
    track.finish(again, delivered=1)
    assert (track.position, track.delivered) == (0, 0)
    track.finish(first, delivered=1)
    assert (track.position, track.take_counts()) == (2, (2, 0))


def test_many_events_that_nobody_wants_take_no_room():
    track = Track(0)
    track.add(Entry(1, track))
    for position in range(2, 10_000):
        track.pass_over(position, filtered=1)
    assert len(track._open) == 2


class Events:
    """A stream of events with the *fates*, read in steps of any size and finished in any *order*, by one track."""

    def __init__(self, fates, noted) -> None:
        self.fates = fates
        self.track = Track(noted)
        self.next = noted
        self.open: list[Entry] = []
        self.recorded: dict[int, Entry] = {}

    def read(self, count):
        for fate in self.fates[self.next : self.next + count]:
            self.next += 1
            if fate == "unwanted":
                self.track.pass_over(self.next, filtered=1)
            else:
                self.open.append(Entry(self.next, self.track))
                self.track.add(self.open[-1])

    def finish(self, choice):
        """Finish one of those that are open: done, or noted as unfinished; later that one is done as well."""
        if self.open:
            step = self.open.pop(choice % len(self.open))
            is_done = self.fates[step.position - 1] == "done"
            self.track.finish(step, delivered=int(is_done))
            if not is_done:
                self.recorded[step.position] = step

    def finish_recorded(self):
        for position in list(self.recorded):
            self.track.finish(self.recorded.pop(position), delivered=1)

    def check(self):
        """Position and counts are those of a model that looks at each event alone."""
        first_open = min((step.position for step in self.open), default=self.next + 1)
        assert self.track.position == first_open - 1
        assert self.track.read_to == self.next


@settings(deadline=None)
@given(fates=FATES, acts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), max_size=60))
def test_in_whatever_order_events_finish_position_and_counts_are_those_of_the_model(fates, acts):
    events = Events(fates, 0)
    delivered = filtered = 0
    for count, choice in acts:
        if count:
            events.read(count)
        else:
            events.finish(choice)
        more = events.track.take_counts()
        delivered, filtered = delivered + more[0], filtered + more[1]
        events.check()
        passed = fates[: events.track.position]
        assert (delivered, filtered) == (passed.count("done"), passed.count("unwanted"))


@settings(deadline=None)
@given(
    fates=FATES,
    lives=st.lists(
        st.lists(st.tuples(st.sampled_from(["read", "finish", "finish", "redo", "note"]), st.integers(0, 99))),
        max_size=5,
    ),
)
def test_whatever_was_noted_before_a_crash_each_event_is_counted_once_in_the_end(fates, lives):
    """Notes are whole: position, counts and what is recorded as unfinished go together, as in `Ledger.save`."""
    position = delivered = filtered = 0
    recorded: set[int] = set()
    for acts in [*lives, [("read", 99), *[("finish", 0)] * 30, ("redo", 0), ("note", 0)]]:
        events = Events(fates, position)
        for old in recorded:  # read again by itself, as it stands in `unfinished`
            events.recorded[old] = Entry(old, events.track)
            events.recorded[old].is_finished = True
        ahead = {old for old in recorded if old > position}
        for act, number in acts:
            if act == "read":
                _read_past(events, number % 5 if number < 99 else 99, ahead)
            elif act == "finish":
                events.finish(number)
            elif act == "redo":
                _redo(events)
            else:
                counts = events.track.take_counts()
                position = events.track.position
                delivered, filtered = delivered + counts[0], filtered + counts[1]
                recorded = set(events.recorded)
    assert position == len(fates)
    assert (delivered, filtered) == (len(fates) - fates.count("unwanted"), fates.count("unwanted"))
    assert recorded == set()


def _read_past(events, count, ahead):
    """Read; what is recorded already is added as finished, as the feeder does with what is ahead."""
    for _ in range(min(count, len(events.fates) - events.next)):
        if events.next + 1 in ahead:
            events.next += 1
            step = events.recorded.get(events.next) or events.redone[events.next]
            events.track.add(step)
        else:
            events.read(1)


def _redo(events):
    events.redone = getattr(events, "redone", {}) | events.recorded
    events.finish_recorded()
