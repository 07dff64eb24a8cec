"""What may grow, and by how much? The bounds that a soak is held to, each with its reason."""

from __future__ import annotations

from verdict import Bound

# What the journal may hold: about a minute and a half of the soak's events, so that its size is steady soon.
JOURNAL_MIB = 96

BOUNDS = (
    Bound(
        "RSS",
        "MiB",
        per_h=4.0,
        peak=160.0,
        why="2.3 bytes an event at 500/s: less than the smallest object that Python can leave behind at each;"
        " the peak holds a frame of 5 MB and a backlog's reads beside the 60 to 70 MiB at work",
    ),
    Bound(
        "descriptors",
        "",
        per_h=2.0,
        peak=96.0,
        why="a round of faults makes twenty connections and more, and there are ten rounds an hour: a fault that leaves"
        " a socket open each time is ten an hour; 50 are at work, and as many more are borne in a fault",
    ),
    Bound("threads", "", per_h=1.0, peak=24.0, why="there is a fixed number of kinds, and calls share a few"),
    Bound(
        "WAL",
        "MiB",
        per_h=2.0,
        peak=16.0,
        why="SQLite begins it anew after 1000 pages (4 MiB), the largest transaction and a reader's look beyond that;"
        " its file is cut to 4 MiB when it does",
    ),
    Bound(
        "journal",
        "MiB",
        per_h=JOURNAL_MIB / 4,
        peak=JOURNAL_MIB * 1.25,
        why=f"max_bytes is {JOURNAL_MIB} MiB; the file keeps free pages, a segment what is left of it, and a backlog"
        " comes and goes with each round: its unrest is about 10 MiB. A segment of 6 MiB left behind in each round"
        " would be 60 MiB an hour",
    ),
)
