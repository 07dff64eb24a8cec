"""Play scenarios, many at a time: `make chaos SEEDS=1000`, or one again: `make chaos SEED=1234`.

Prints a line of progress, each failure with its scenario and how to play it again, and at the end how often each fault
was played. What a failed run has left stays in a folder that is named. Exits with 1 where any has failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from oracle import count_machine_gaps, judge
from outcome import Outcome
from play import SPEED, play
from scenario import KINDS, scenario_from

# A seed is at most so large, so that people can type it.
SEED_MAX = 10**9
# Of one run, so much of what is wrong is said at once.
SAID_MAX = 12
# Where nobody watches a terminal, a line of progress comes after so many seeds.
SAY_EVERY = 25


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one seed. *kinds* are the faults that were played, *fresh_s* how soon all was well again."""

    seed: int
    scenario: str
    complaints: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    fresh_s: float = 0.0
    took_s: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    folder: str = ""

    def to_text(self) -> str:
        """Return what is to be known of a failure."""
        lines = [f"  ✗ {complaint}" for complaint in self.complaints[:SAID_MAX]]
        if more := self.complaints[SAID_MAX:]:
            lines.append(f"  ✗ … and {len(more)} more, see complaints.txt")
        what = "\n".join(lines)
        return f"{self.scenario}\n{what}\n  artefacts: {self.folder}\n  again: make chaos SEED={self.seed}"


def play_seed(seed: int, folder: Path, speed: float = SPEED) -> Result:
    """Play *seed* in a folder of its own below *folder*, which is kept only where something is wrong."""
    scenario, began_at = scenario_from(seed), time.monotonic()
    mine = Path(tempfile.mkdtemp(prefix=f"{seed}-", dir=folder))
    try:
        outcome = play(scenario, mine, speed)
        complaints = judge(outcome)
        outcome.figures["gaps of a busy machine"] = count_machine_gaps(outcome)
    except Exception as exc:  # noqa: BLE001 - whatever broke a run is a failure to be told, and the other seeds go on
        outcome, complaints = Outcome(), [f"run: {type(exc).__name__}: {exc}", traceback.format_exc()]
    if complaints:
        _keep(mine, outcome, [str(scenario), *complaints])
    else:
        shutil.rmtree(mine)
    return Result(
        seed=seed,
        scenario=str(scenario),
        complaints=tuple(complaints),
        kinds=tuple(trouble.kind for trouble in outcome.troubles),
        left_out=tuple(outcome.left_out),
        fresh_s=max((took_s or 0.0 for took_s in outcome.fresh_s.values()), default=0.0),
        took_s=time.monotonic() - began_at,
        figures=outcome.figures,
        folder=str(mine),
    )


def _keep(folder: Path, outcome: Outcome, lines: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "complaints.txt").write_text("\n".join(lines) + "\n", "utf-8")
    with (folder / "outcome.json").open("w", encoding="utf-8") as file:
        json.dump(_plain(outcome), file, default=sorted, ensure_ascii=False, indent=1)


def _plain(outcome: Outcome) -> dict[str, object]:
    """Return *outcome* as JSON can have it."""
    plain = asdict(outcome)
    for event in plain["emitted"]:
        event["payloads"] = {f"{subscription} {uuid}": text for (subscription, uuid), text in event["payloads"].items()}
    return plain


def play_seeds(seeds: Iterable[int], folder: Path, jobs: int, speed: float = SPEED) -> Iterator[Result]:
    """Play *seeds*, *jobs* at a time; yield what became of each, as it ends."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            for future in as_completed([pool.submit(play_seed, seed, folder, speed) for seed in seeds]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: none of the others begins


def table(results: list[Result]) -> str:
    """Return how often each fault was played, and in how many runs that failed."""
    runs = Counter(kind for result in results for kind in set(result.kinds))
    played = Counter(kind for result in results for kind in result.kinds)
    failed = Counter(kind for result in results if result.complaints for kind in set(result.kinds))
    left_out = Counter(kind for result in results for kind in result.left_out)
    rows = [
        f"| {kind} | {played[kind]} | {runs[kind]} | {failed[kind]} | {left_out[kind]} |"
        for kind in [*KINDS, "machine"]
    ]
    return "\n".join(["", "| fault | played | in runs | of them failed | left out |", "|---|---|---|---|---|", *rows])


def summary(results: list[Result]) -> str:
    """Return the whole in a few lines."""
    failures = [result for result in results if result.complaints]
    fresh = sorted(result.fresh_s for result in results) or [0.0]
    took = sorted(result.took_s for result in results) or [0.0]
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.figures)
    sums = ", ".join(f"{int(count)} {name}" for name, count in total.items())
    lines = [
        table(results),
        "",
        f"{len(results)} seeds, {len(failures)} failed; {sums}",
        f"well again after {fresh[len(fresh) // 2]:.1f} s (median), {fresh[-1]:.1f} s (longest) of the runs' own time",
        f"a run took {took[len(took) // 2]:.1f} s (median), {took[-1]:.1f} s (longest)",
    ]
    if failures:
        lines.append(f"failed: {' '.join(str(result.seed) for result in failures)}")
    return "\n".join(lines)


def say(text: str, end: str = "\n") -> None:
    """Tell who is watching."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def seeds_from(chosen: argparse.Namespace) -> list[int]:
    """Return the seeds to play."""
    if chosen.seed:
        return list(chosen.seed)
    first = chosen.first
    if first is None:
        first = random.SystemRandom().randrange(SEED_MAX)
    return list(range(first, first + chosen.seeds))


def main() -> int:
    """Be the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="*", help="these, and no others")
    parser.add_argument("--seeds", type=int, default=50, help="so many, one after the other")
    parser.add_argument("--first", type=int, help="the first of them; else a random one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many at a time")
    parser.add_argument("--speed", type=float, default=SPEED, help="how fast time passes in a run")
    chosen = parser.parse_args()
    seeds, folder = seeds_from(chosen), Path(tempfile.mkdtemp(prefix="rc-push-chaos-"))
    say(f"{len(seeds)} seeds from {seeds[0]} on, {chosen.jobs} at a time; failures are kept in {folder}")
    results: list[Result] = []
    began_at = time.monotonic()
    for result in play_seeds(seeds, folder, chosen.jobs, chosen.speed):
        results.append(result)
        if result.complaints:
            say(f"\n{result.to_text()}\n")
        failed = sum(bool(one.complaints) for one in results)
        progress = f"{len(results)}/{len(seeds)} played, {failed} failed, {time.monotonic() - began_at:.0f} s"
        if sys.stdout.isatty():
            say(f"\r{progress} ", end="")
        elif len(results) % SAY_EVERY == 0:
            say(progress)
    say(summary(results))
    if any(result.complaints for result in results):
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
