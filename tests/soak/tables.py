"""What is told of a course? Its tables, as Markdown, for the terminal and for docs/reliability.md alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from accounts import at_ms
from course import Sample, Told
from verdict import Finding

ROWS = 10


def quantile(values: Sequence[int], share: float) -> float:
    """Return the value that *share* of *values* are below; NaN where there is none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def by_time(samples: Sequence[Sample]) -> str:
    """Tell how it went, in ten parts."""
    head = ("minutes", "events/s", "p50 ms", "p99 ms", "RSS MiB", "descriptors", "threads", "WAL MiB", "journal MiB")
    rows = []
    for number in range(ROWS):
        part = samples[len(samples) * number // ROWS : len(samples) * (number + 1) // ROWS]
        if len(part) < 2:
            continue
        took_s = part[-1].at_s - part[0].at_s
        latencies = [latency for sample in part for latency in sample.latencies_ms]
        rows.append(
            (
                f"{part[0].at_s / 60:.1f} to {part[-1].at_s / 60:.1f}",
                f"{(part[-1].sent - part[0].sent) / took_s:.0f}",
                f"{quantile(latencies, 0.5):.0f}",
                f"{quantile(latencies, 0.99):.0f}",
                f"{mean(sample.usage.rss_mib for sample in part):.1f}",
                f"{mean(sample.usage.descriptors for sample in part):.1f}",
                f"{mean(sample.usage.threads for sample in part):.1f}",
                f"{mean(sample.usage.wal_mib for sample in part):.1f}",
                f"{mean(sample.usage.journal_mib for sample in part):.0f}",
                f"{100 * (part[-1].usage.cpu_s - part[0].usage.cpu_s) / took_s:.0f} %",
                max(sample.backlog for sample in part),
            )
        )
    return table((*head, "CPU", "backlog, most"), rows)


def by_trouble(told: Told) -> str:
    """Tell what each trouble has cost."""
    missing = sorted(at_ms(uuid) for account in told.accounts for uuid in account.missing)
    names = list(dict.fromkeys(name for name, *_ in told.times))
    rows = []
    for name in names:
        times = [(since, until) for known, since, until in told.times if known == name]
        samples = [sample for sample in told.samples if sample.trouble == name]
        latencies = [latency for sample in samples for latency in sample.latencies_ms]
        lost = sum(bisect_left(missing, until) - bisect_left(missing, since) for since, until in times)
        gaps = [span for _, span, _ in told.gaps if any(since <= span[0] < until for since, until in times)]
        backlog = max((sample.backlog for sample in samples), default=0)
        rows.append(
            (
                name,
                len(times),
                len(gaps),
                f"{max((until - since for since, until in gaps), default=0) / 1000:.1f}",
                lost,
                f"{quantile(latencies, 0.5):.0f}",
                f"{quantile(latencies, 0.99):.0f}",
                backlog,
            )
        )
    return table(("trouble", "times", "gaps", "longest s", "events in them", "p50 ms", "p99 ms", "backlog, most"), rows)


def slopes(findings: Sequence[Finding]) -> str:
    """Tell what was held against which bound."""
    rows = []
    for found in findings:
        bound, slope = found.bound, found.slope
        rows.append(
            (
                f"{bound.name}{', ' if bound.unit else ''}{bound.unit}",
                f"{found.first:.1f}",
                f"{found.last:.1f}",
                f"{slope.per_h:+.2f} ± {slope.error_per_h:.2f}" if slope else "",
                f"{bound.per_h:g}",
                f"{found.peak:.1f}",
                f"{bound.peak:g}",
                found.complaint or "flat",
            )
        )
    return table(("what", "first minute", "last", "slope an hour", "may be", "peak", "may be", "verdict"), rows)


def accounts(told: Told) -> str:
    """Tell how it adds up."""
    rows = [
        (
            account.subscription,
            account.emitted,
            account.stored,
            len(account.missing),
            len(account.lost),
            len(account.twice),
        )
        for account in told.accounts
    ]
    return table(("subscription", "emitted", "stored", "in gaps", "lost", "twice"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean(values: Iterable[float]) -> float:
    """Return the mean of *values*."""
    known = list(values)
    return sum(known) / len(known)
