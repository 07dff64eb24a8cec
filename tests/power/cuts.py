"""Cut the power at many moments of one recording, in many ways, and have each state that is left judged."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from power.disk import All, ByChance, ContentOnly, Disk, Fate, Image, InOrder, NamesOnly
from power.recording import Record

# Of each cut: torn at a moment, and by chance.
TORN, CHANCES = 2, 6
# In memory where that is possible: what is judged is what is read, not how it is flushed.
_MEMORY = Path("/dev/shm")


@dataclass(slots=True)
class Findings:
    """What became of many cuts: *states* are those that differ from others of the same cut."""

    cuts: int = 0
    states: int = 0
    same: int = 0
    by_fate: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def fates(disk: Disk, rng: random.Random) -> Iterator[tuple[str, Fate]]:
    """Yield what may become of what is on its way, each with its name."""
    yield "flushed only", Fate()
    yield "all", All()
    pending = disk.pending()
    if not pending:
        return
    yield "names only", NamesOnly()
    yield "content only", ContentOnly()
    for _ in range(TORN):
        yield "in order, torn", InOrder(rng.choice(pending), rng)
    for number in range(CHANCES):
        yield "by chance", ByChance(rng, pending, ordered_names=bool(number % 2))


def moments(records: Sequence[Record], count: int, rng: random.Random) -> list[int]:
    """Return *count* moments to cut at: half of them evenly over the recording, half by chance."""
    evenly = {round(len(records) * (number + 1) / (count // 2 + 1)) for number in range(count // 2)}
    chosen = evenly | set(rng.sample(range(len(records) + 1), min(count - len(evenly), len(records))))
    return sorted(chosen)


@dataclass(slots=True)
class Proof:
    """Cuts the power while *records* are done to a disk, and has *judge* look at each state that is left, by its fate.

    *take* is given each record before. A failure names *seed* and the cut, so that it can be seen again.
    """

    records: Sequence[Record]
    seed: int
    judge: Callable[[Path, str], None]
    take: Callable[[Record], object] = lambda _: None
    failures_max: int = 5
    found: Findings = field(default_factory=Findings)

    def cut(self, disk: Disk, at: Iterable[int]) -> Findings:
        """Cut after those numbers of records that *at* names, on *disk* as it was before; return what became of it."""
        wanted = set(at)
        for number, record in enumerate((*self.records, None)):
            if number in wanted:
                self.found.cuts += 1
                self._look_at_all(disk, number)
                if len(self.found.failures) >= self.failures_max:
                    break
            if record is not None:
                disk.do(record)
                self.take(record)
        return self.found

    def _look_at_all(self, disk: Disk, number: int) -> None:
        known: set[bytes] = set()
        for count, (name, fate) in enumerate(fates(disk, random.Random(f"{self.seed} {number}"))):
            image = disk.after(fate)
            digest = image.digest()
            if digest in known:
                self.found.same += 1
                continue
            known.add(digest)
            self.found.states += 1
            self.found.by_fate[name] += 1
            why = judged(image, self.judge, name)
            if why:
                where = f"seed {self.seed}, cut {number}, state {count} ({name})"
                self.found.failures.append(f"{where}: {why}")


def judged(image: Image, judge: Callable[[Path, str], None], name: str) -> str:
    """Return why *judge* did not accept *image*; empty where it did."""
    folder = Path(tempfile.mkdtemp(prefix="power-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        image.write(folder)
        judge(folder, name)
    except Exception as exc:  # noqa: BLE001 - told with the cut it belongs to
        return f"{type(exc).__name__}: {exc}"[:2000]
    finally:
        shutil.rmtree(folder)
    return ""
