"""How far is a stream of events finished, though they finish in any order? Positions, and counts that go with them.

State only. A position that is noted must cover exactly the events whose counts are noted with it: after a crash all
that is behind it comes again, and is counted again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Step:
    """One event, or several that are passed over, at *position* (the last of them), of *track*."""

    position: int
    track: Track
    is_finished: bool = field(default=False, init=False)
    delivered: int = field(default=0, init=False)
    filtered: int = field(default=0, init=False)


class Track:
    """One stream of events: the live one, or one replay.

    *read_to* is how far it has been read, *position* how far it is finished. *delivered* and *filtered* count what the
    position has passed.
    """

    def __init__(self, position: int) -> None:
        self.read_to = position
        self.position = position
        self.delivered = 0
        self.filtered = 0
        self._open: deque[Step] = deque()

    def add(self, step: Step) -> None:
        """Take the next event, which has to be finished, or was while it was not read yet."""
        self.read_to = step.position
        self._open.append(step)
        if step.is_finished:
            self._move()

    def pass_over(self, position: int, filtered: int = 0) -> None:
        """Take all up to *position* as finished: *filtered* events that the handler does not want, or none at all."""
        self.read_to = position
        if not self._open:
            self.position = position
            self.filtered += filtered
            return
        last = self._open[-1]
        if type(last) is not Step:  # the first behind one that is not finished
            last = Step(position, self)
            last.is_finished = True
            self._open.append(last)
        last.position = position
        last.filtered += filtered

    def finish(self, step: Step, *, delivered: int) -> None:
        """Take *step* as finished; where it counts as *delivered*, once the position has passed it.

        One that was finished before (it is noted elsewhere that it waits) can only be counted more.
        """
        if step.position <= self.position:
            self.delivered += delivered
            return
        step.delivered += delivered
        step.is_finished = True
        self._move()

    def replace(self, step: Step) -> None:
        """Let *step* stand for the one at its position that is finished and not passed, so that it is counted there."""
        for index, known in enumerate(self._open):
            if known.position == step.position:
                step.is_finished = known.is_finished
                self._open[index] = step
                return

    def take_counts(self) -> tuple[int, int]:
        """Return how many the position has passed since the last call: delivered, and filtered."""
        counts = self.delivered, self.filtered
        self.delivered = self.filtered = 0
        return counts

    def _move(self) -> None:
        while self._open and self._open[0].is_finished:
            first = self._open.popleft()
            self.position = first.position
            self.delivered += first.delivered
            self.filtered += first.filtered
        if not self._open:
            self.position = self.read_to
