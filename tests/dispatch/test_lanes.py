"""Is the order of a key kept by `Lanes`, whatever several takers do with what they took? Against a plain model."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rc_push.dispatch.lanes import Entry, Lanes
from rc_push.dispatch.tracks import Track
from rc_push.envelope import Envelope, Source

SOURCE = Source("main", "team", "fake")


def entry(position, key="a"):
    return Entry(position, Track(0), Envelope(str(position), key, b"{}", SOURCE, 0, position))


def lanes(order="key", *, is_parallel=False):
    """Return lanes whose keys are the envelopes' types."""
    return Lanes(order, lambda envelope: envelope.type, is_parallel=is_parallel)


def positions(entries):
    return [one.position for one in entries]


# ----------------------------------------------------------------------------------------------------- one at a time


def test_what_was_put_back_behind_one_that_failed_is_not_taken_before_it():
    ours = lanes(is_parallel=True)
    a1, a2, b3 = entry(1), entry(2), entry(3, "b")
    for one in (a1, a2, b3):
        ours.add(one)
    assert ours.take(3, 0.0) == [a1, a2, b3]
    ours.retry(a1, 10.0)
    ours.put_back([a2, b3])
    assert ours.take(3, 0.0) == [b3]
    assert (ours.take_held_back(), ours.waiting, ours.held) == ([a2], 2, 1)
    ours.finish(b3)
    assert ours.take(3, 10.0) == [a1]
    ours.finish(a1)
    assert ours.take(3, 10.0) == [a2]


def test_what_was_put_back_is_not_shared_among_takers_where_it_has_one_key():
    ours = lanes(is_parallel=True)
    a1, a2 = entry(1), entry(2)
    ours.add(a1)
    ours.add(a2)
    ours.put_back(ours.take(2, 0.0))
    assert ours.take(1, 0.0) == [a1]
    assert ours.take(1, 0.0) == []
    ours.finish(a1)
    assert ours.take(1, 0.0) == [a2]


def test_with_the_order_strict_what_blocks_comes_before_what_was_put_back():
    ours = lanes("strict")
    for position in (3, 4):
        ours.add(entry(position))
    taken = ours.take(2, 0.0)
    old = [entry(1), entry(2)]
    for one in old:  # parked once, asked for again while others were in hand
        ours.restore(one, 0.0)
    ours.put_back(taken)
    order = []
    while some := ours.take(2, 0.0):
        order += positions(some)
        for one in some:
            ours.finish(one)
    assert order == [1, 2, 3, 4]


def test_with_the_order_strict_what_was_put_back_comes_behind_what_was_let_go_meanwhile():
    ours = lanes("strict")
    for position in (3, 4, 5):
        ours.add(entry(position))
    taken = ours.take(3, 0.0)
    parked, old = entry(6), entry(1)
    ours.give_up(parked)  # it could not be routed
    ours.restore(old, 0.0)  # parked once, asked for again
    ours.noted(parked)
    ours.finish(taken[0])
    ours.put_back(taken[1:])
    order = []
    while some := ours.take(3, 0.0):
        order += positions(some)
        for one in some:
            ours.finish(one)
    assert order == [1, 4, 5]


def test_one_that_fails_while_another_of_its_key_waits_already_waits_behind_it():
    ours = lanes()
    a1, a2 = entry(1), entry(2)
    a1.key = "a"
    ours.add(a2)
    assert ours.take(1, 0.0) == [a2]
    ours.restore(a1, 5.0)  # parked once, asked for again
    ours.retry(a2, 1.0)
    assert ours.take(1, 4.0) == []
    assert ours.take(1, 5.0) == [a1]
    ours.finish(a1)
    assert ours.take(1, 5.0) == [a2]
    ours.finish(a2)
    assert (ours.waiting, ours.take(1, math.inf)) == (0, [])


@pytest.mark.parametrize(("order", "passes"), [("key", [3]), ("strict", []), ("none", [2, 3])])
@pytest.mark.parametrize("is_parallel", [False, True])
def test_what_follows_one_that_is_given_up_waits_until_that_is_noted(order, passes, is_parallel):
    ours = lanes(order, is_parallel=is_parallel and order != "strict")
    for one in (entry(1), entry(2), entry(3, "b")):
        ours.add(one)
    (a1,) = ours.take(1, 0.0)
    ours.give_up(a1)
    assert positions(ours.take(9, 0.0)) == passes
    ours.noted(a1)
    assert positions(ours.take(9, 0.0)) == [at for at in (2, 3) if at not in passes]


@pytest.mark.parametrize("is_parallel", [False, True])
def test_what_was_taken_together_with_one_that_is_given_up_is_held_until_that_is_noted(is_parallel):
    ours = lanes(is_parallel=is_parallel)
    for one in (entry(1), entry(2), entry(3, "b")):
        ours.add(one)
    a1, a2, b3 = ours.take(3, 0.0)
    ours.give_up(a1)
    assert (ours.holds(a2), ours.holds(b3)) == (True, False)
    ours.hold(a2)
    assert ours.take_held_back() == [], "it is no failing one's"
    ours.noted(a1)
    assert ours.take(9, 0.0) == [a2]


@pytest.mark.parametrize("is_parked", [True, False])
def test_what_was_taken_together_with_one_that_broke_their_row_waits_though_that_is_settled_since(is_parked):
    ours = lanes(is_parallel=True)
    a1, a2, b3, a4 = (entry(1), entry(2), entry(3, "b"), entry(4))
    for one in (a1, a2, b3, a4):
        ours.add(one)
    assert ours.take(4, 0.0) == [a1, a2, b3, a4]
    if is_parked:
        ours.give_up(a1)
    else:
        ours.retry(a1, 1.0)
    ours.hold(a2)
    if is_parked:
        ours.noted(a1)
    else:
        assert ours.take(1, 1.0) == [a1], "in another taker's hands"
    assert ours.holds(a4)
    ours.hold(a4)
    if not is_parked:
        ours.finish(a1)
    assert ours.take(1, 1.0) == [a2]
    assert ours.take(1, 1.0) == []
    ours.finish(a2)
    assert ours.take(1, 1.0) == [a4]


@pytest.mark.parametrize("fresh_first", [False, True])
def test_a_retry_that_is_due_comes_alone_and_a_trial_prefers_what_has_not_failed(fresh_first):
    ours = lanes()
    ours.add(entry(1))
    (a1,) = ours.take(9, 0.0)
    ours.retry(a1, 1.0)
    ours.add(entry(2, "b"))
    ours.add(entry(3, "c"))
    assert positions(ours.take(9, 1.0, fresh_first=fresh_first)) == ([2, 3] if fresh_first else [1])


def test_the_key_is_asked_for_only_where_order_could_be_lost():
    asked = []
    ours = Lanes("key", lambda envelope: asked.append(envelope) or "a")
    for position in (1, 2):
        ours.add(entry(position))
    for one in ours.take(2, 0.0):
        ours.finish(one)
    assert asked == []


# ---------------------------------------------------------------------------------------------------------- the model


class Hand:
    """What one taker has taken: those of *called* are being handed over, *todo* comes after them."""

    def __init__(self) -> None:
        self.todo: list[Entry] = []
        self.called: list[Entry] = []


class LanesMachine(RuleBasedStateMachine):
    """Takers as `taking.py` has them, on `Lanes`; the model knows of each event whether it is done, and its order."""

    @initialize(
        order=st.sampled_from(["key", "key", "strict", "none"]),
        takers=st.integers(1, 3),
        restored=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=4),
    )
    def begin(self, order, takers, restored):
        self.order = order
        self.now = 0.0
        self.hands = [Hand() for _ in range(1 if order == "strict" else takers)]
        self.lanes = lanes(order, is_parallel=len(self.hands) > 1)
        self.all: dict[int, Entry] = {}
        self.done: set[int] = set()
        self.due: dict[int, float] = {}
        self.given_up: list[Entry] = []
        self.not_noted: list[Entry] = []
        self.asked_again: set[int] = set()
        self.told: set[int] = set()
        for key, due_at in restored:
            one = self._new(key)
            self._restore(one, due_at)

    def _new(self, key):
        one = entry(len(self.all) + 1, key)
        self.all[one.position] = one
        return one

    def _restore(self, one, due_at):
        one.key, one.envelope = one.envelope.type, None
        self.lanes.restore(one, due_at)
        self._note_due(one, due_at)

    def _note_due(self, one, due_at):
        """Expect *one* not before *due_at*, unless it waits behind another."""
        if any(due is one for _, _, due in self.lanes._due):
            self.due[one.position] = due_at

    # ------------------------------------------------------------------------------------------------ what can happen

    @rule(keys=st.text("aab", min_size=1, max_size=3))
    def add(self, keys):
        for key in keys:
            self.lanes.add(self._new(key))

    @rule(passes_s=st.integers(1, 4))
    def wait(self, passes_s):
        self.now += passes_s

    @precondition(lambda self: self._idle())
    @rule(limit=st.integers(1, 4), fresh_first=st.booleans(), batch=st.booleans())
    def take(self, limit, fresh_first, batch):
        hand = self._idle()[0]
        hand.todo = self.lanes.take(limit, self.now, fresh_first=fresh_first)
        assert len(hand.todo) <= limit
        taken = [one.position for other in self.hands for one in other.todo + other.called]
        assert len(set(taken)) == len(taken), "nothing is in two hands"
        assert not self.done.intersection(taken), "nothing is done twice"
        for one in hand.todo:
            assert self.due.pop(one.position, 0.0) <= self.now, "nothing comes before it is due"
        if batch:
            hand.called, hand.todo = hand.todo, []
            for one in hand.called:
                self._check_order(one)
        else:
            self._call_next(hand)

    @precondition(lambda self: self._busy())
    @rule(number=st.integers(0, 2), is_put_back=st.booleans())
    def finish(self, number, is_put_back):
        hand = self._hand(number)
        for one in hand.called:
            self.lanes.finish(one)
            self.done.add(one.position)
        hand.called = []
        self._go_on(hand, is_put_back)

    @precondition(lambda self: self._busy())
    @rule(number=st.integers(0, 2), delay_s=st.integers(0, 6), is_put_back=st.booleans())
    def fail(self, number, delay_s, is_put_back):
        hand = self._hand(number)
        if len(hand.called) > 1:  # a batch: singly from now on
            hand.todo, hand.called = hand.called, []
        else:
            (one,) = hand.called
            hand.called = []
            self.lanes.retry(one, self.now + delay_s)
            self._note_due(one, self.now + delay_s)
            one.key, one.envelope = self._key(one), None
        self._go_on(hand, is_put_back)

    @precondition(lambda self: any(len(hand.called) > 1 for hand in self.hands))
    @rule()
    def put_batch_back(self):
        """Put a batch back as a whole, as where it asks for later."""
        hand = next(hand for hand in self.hands if len(hand.called) > 1)
        self.lanes.put_back(hand.called)
        hand.called = []

    @precondition(lambda self: self._busy())
    @rule(number=st.integers(0, 2), is_put_back=st.booleans())
    def give_up(self, number, is_put_back):
        """Park what is in hand: the next of its key may come when that is noted, and not before."""
        hand = self._hand(number)
        if len(hand.called) == 1:
            (one,) = hand.called
            self.lanes.give_up(one)
            one.key, one.envelope = self._key(one), None
            self.not_noted.append(one)
            hand.called = []
            self._go_on(hand, is_put_back)

    @precondition(lambda self: self.not_noted)
    @rule()
    def note(self):
        """Note what has been parked, with the changes of a while at once."""
        for one in self.not_noted:
            self.lanes.noted(one)
            self.done.add(one.position)
        self.given_up += self.not_noted
        self.not_noted = []

    @precondition(lambda self: self.given_up)
    @rule(delay_s=st.integers(0, 2))
    def ask_for_it_again(self, delay_s):
        """Restore what was parked, while others of its key may be anywhere."""
        old = self.given_up.pop()
        self.done.discard(old.position)
        self.asked_again.add(old.position)
        self.all[old.position] = entry(old.position, self._key(old))
        self._restore(self.all[old.position], self.now + delay_s)

    def _idle(self):
        return [hand for hand in self.hands if not hand.called]

    def _busy(self):
        return [hand for hand in self.hands if hand.called]

    def _hand(self, number):
        return self._busy()[number % len(self._busy())]

    def _key(self, one):
        return one.envelope.type if one.envelope else one.key

    def _go_on(self, hand, is_put_back):
        """Go on with what was taken, or put it back: the handler is paused, or the breaker open."""
        if is_put_back:
            self.lanes.put_back(hand.todo)
            hand.todo = []
        self._call_next(hand)

    def _call_next(self, hand):
        """Go on with what was taken: as `Taker._hand_over` does."""
        while hand.todo and not hand.called:
            if self.lanes.is_blocked and hand.todo[0].lane is None:
                self.lanes.put_back(hand.todo)
                hand.todo = []
                return
            one = hand.todo.pop(0)
            if self.lanes.holds(one):
                self.lanes.hold(one)
            else:
                hand.called = [one]
                self._check_order(one)

    def _check_order(self, one):
        for position, other in self.all.items():
            if other is one or position in self.done or self.order == "none" or not self._are_tied(one, other):
                continue
            together = any(one in hand.called and other in hand.called for hand in self.hands)
            in_hand = any(other in hand.called for hand in self.hands)
            assert together or not in_hand, "two of one key in hand"
            if not self.asked_again.intersection((position, one.position)):
                assert together or position > one.position, "an earlier one of its key is not done"

    def _are_tied(self, one, other):
        return self.order == "strict" or self._key(one) == self._key(other)

    # ------------------------------------------------------------------------------------------------ what always holds

    @invariant()
    def all_are_somewhere_once(self):
        if not hasattr(self, "lanes"):
            return
        taken = sum(len(hand.todo) + len(hand.called) for hand in self.hands)
        there = self.lanes.fresh + len(self.lanes._ready) + self.lanes.waiting
        assert there + taken + len(self.not_noted) == len(self.all) - len(self.done)
        assert self.lanes.held == sum(len(lane.waiting) for lane in self.lanes._lanes.values())

    @invariant()
    def where_it_is_empty_there_is_nothing_to_take_at_any_time(self):
        if hasattr(self, "lanes") and self.lanes.is_empty:
            assert self.lanes.take(100, math.inf) == []
            assert self.lanes.next_due_at() is None

    @invariant()
    def what_waits_behind_a_failing_one_is_told(self):
        if not hasattr(self, "lanes"):
            return
        self.told.update(positions(self.lanes.take_held_back()))
        for lane in self.lanes._lanes.values():
            if lane.failing is not None:
                assert self.told.issuperset(position for position, _, _ in lane.waiting)

    @invariant()
    def the_next_retry_is_the_earliest(self):
        if hasattr(self, "lanes") and self.order == "none":
            assert self.lanes.next_due_at() == min(self.due.values(), default=None)

    def teardown(self):
        """Let all of it succeed: then nothing may be left."""
        if not hasattr(self, "lanes"):
            return
        self.note()
        while self._busy():
            self.finish(0, is_put_back=False)
        while taken := self.lanes.take(2, math.inf):
            for number, one in enumerate(taken):
                assert one.position not in self.done
                if self.lanes.is_blocked and one.lane is None:
                    self.lanes.put_back(taken[number:])
                    break
                if self.lanes.holds(one):
                    self.lanes.hold(one)
                    continue
                self._check_order(one)
                self.lanes.finish(one)
                self.done.add(one.position)
        assert self.done == set(self.all), "nothing is lost"
        assert (self.lanes.waiting, self.lanes.held, self.lanes.fresh) == (0, 0, 0)
        assert self.lanes._lanes == {}


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(deadline=None, max_examples=250, stateful_step_count=40)
