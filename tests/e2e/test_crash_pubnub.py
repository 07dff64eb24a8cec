"""Nothing is lost in silence over PubNub, however often the daemon is killed, its polls cut and its channel moved.

One truth is the simulator's: every uuid with its moment. The other is what the daemon leaves behind: the file, the
journal, and its gaps. Nothing is lost in flight here, so what is missing must be what PubNub or RingCentral dropped.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import pytest
from traces import covered_ms, ms_from, select, spans_of

EVENTS = 15_000
RATE_PER_S = 800.0
# How each round cuts, and how often. An "… again" cuts the next try, too; "expire" stays away until the subscription
# has ended, "revoke" ends it early and in silence.
CUTS = {"kill": 24, "kill again": 3, "drop": 28, "drop again": 1, "expire": 2, "revoke": 1}
ENDING = ("expire", "revoke")
ROTATED = ["channel", "encryptionKey", "subscriberKey", ["channel", "encryptionKey"], "encryptionKey"]
# In every fifth round far more events follow the cut than PubNub keeps, in the others fewer.
FEW, MANY = (0, 60), (200, 500)
KEPT = 100
# A life so short that renewals fall between all that goes wrong; and the longest time from one to the next.
LIFE_S, RENEWED_WITHIN_S = 8, 5
# A gap begins this much before the last message that was stored, and ends this much late on a busy machine.
SLACK_MS, LATE_MS = 1001, 2000
PROVE_EVERY_S = 0.25

KNOBS = {
    "rate_limits": "false",
    "pubnub_life_s": LIFE_S,
    "pubnub_hold_s": 1,
    "pubnub_paces": "false",
    "pubnub_session_end": "expires",
}


@dataclass(slots=True)
class Round:
    """A burst of events with a cut in it: what is planned, then when it happened."""

    cut: str
    before: int
    after: int
    began_ms: int = 0
    cut_ms: int = 0
    over_ms: int = 0


def plan(rng):
    """Return rounds that make all EVENTS."""
    cuts = [cut for cut, times in CUTS.items() for _ in range(times)]
    rng.shuffle(cuts)
    after = [rng.randint(*(FEW if number % 5 else MANY)) for number in range(len(cuts))]
    before = EVENTS - sum(after)
    shares = [rng.uniform(0.2, 1.0) for _ in cuts]
    befores = [int(before * share / sum(shares)) for share in shares]
    befores[0] += before - sum(befores)
    return [Round(*parts) for parts in zip(cuts, befores, after, strict=True)]


class Rotations:
    """Lets renewals change things, one at a time: what two lost answers in a row have told, nobody can know."""

    def __init__(self, simulator) -> None:
        self._simulator = simulator
        self._left = list(ROTATED)
        self.done = 0

    async def go_on(self):
        """Ask for the next one where the last has happened."""
        if any(fault["fault"] == "rotate" for fault in (await self._simulator.state())["faults"]):
            return
        self.done = len(ROTATED) - len(self._left)
        if self._left:
            await self._simulator.post("faults", {"fault": "rotate", "what": self._left.pop(0)})

    async def finish(self):
        """Wait until all have happened."""
        async with asyncio.timeout(60):
            while self.done < len(ROTATED):
                await self.go_on()
                await asyncio.sleep(0.2)


async def play(round_, simulator, daemon, rng):
    """Send the burst, cut, and go on until an event sent after it all is in the file."""
    round_.began_ms = now_ms()
    burst = {"count": round_.before + round_.after, "ratePerS": RATE_PER_S, "wait": True}
    sending = asyncio.create_task(simulator.post("events", burst))
    await asyncio.sleep(round_.before / RATE_PER_S)
    round_.cut_ms = now_ms()
    await cut(round_.cut, simulator, daemon, rng)
    await sending
    await prove_over(simulator, daemon)
    round_.over_ms = now_ms()


async def cut(how, simulator, daemon, rng):
    """Let go wrong what *how* says."""
    if how.startswith("drop"):
        await simulator.post("faults", {"fault": "pubnub-drop", "times": 2 if how == "drop again" else 1})
    elif how == "revoke":
        await simulator.post("faults", {"fault": "revoke-session"})
    else:
        daemon.kill()
        if how == "expire":
            await asyncio.sleep(LIFE_S + 0.5)
        daemon.start()
    if how == "kill again":
        await daemon.wait_line("subscription_state", state="recovering")
        await asyncio.sleep(rng.uniform(0.0, 0.2))
        daemon.kill()
        daemon.start()


async def prove_over(simulator, daemon):
    """Send events one by one until one is in the file."""
    sent = set()
    async with asyncio.timeout(30):
        while not sent & daemon.events.look():
            sent.update((await simulator.post("events", {"count": 1, "wait": True}))["uuids"])
            await asyncio.sleep(PROVE_EVERY_S)


@pytest.mark.e2e
@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_every_event_over_pubnub_is_in_the_file_or_in_a_gap_however_often_all_is_cut(
    simulate, make_daemon, rng, capsys
):
    options = [option for name, value in KNOBS.items() for option in ("--knob", f"{name}={value}")]
    simulator = simulate(*options, "--knob", f"pubnub_gone_code={rng.choice(('CMN-102', 'SUB-507'))}")
    daemon = make_daemon(simulator.ready)
    daemon.accounts += f'pubnub_origin = "{simulator.ready["pubnubOrigin"]}"\n'
    daemon.subscriptions += 'transport = "pubnub"\n'
    daemon.start()
    await daemon.wait_live()

    rotations, rounds = Rotations(simulator), plan(rng)
    for round_ in rounds:
        await rotations.go_on()
        await play(round_, simulator, daemon, rng)
    await rotations.finish()
    await prove_over(simulator, daemon)
    gaps = await daemon.listed("gaps")
    assert await daemon.stop() == 0

    story = Story(await simulator.state(events=True), daemon, gaps, rounds, rotations.done)
    with capsys.disabled():
        print(f"\n{json.dumps(story.figures())}")  # noqa: T201 - to judge how hard it was
    story.check_cuts()
    story.check_journal()
    story.check_file()
    story.check_gaps()
    story.check_what_was_kept()


def now_ms():
    return round(time.time() * 1000)


class Story:
    """What happened, from both sides. Instants are ms since 1970."""

    def __init__(self, state, daemon, gaps, rounds, rotations) -> None:
        self.state = state
        self.kills = daemon.starts - 1
        self.rotations = rotations
        self.rounds = rounds
        self.gaps = gaps
        self.journal = daemon.journal_path
        self.file = daemon.events
        self.at = {entry["uuid"]: ms_from(entry["at"]) for entries in state["events"].values() for entry in entries}
        self.nobodys = {entry["uuid"] for entry in state["events"].get("", [])}
        received = "SELECT position, uuid FROM events WHERE type != 'rc-push.gap' ORDER BY position"
        self.stored = dict(select(self.journal, received))
        self.spans = spans_of(gaps)
        self.missing = sorted(set(self.at) - self.file.look(), key=self.at.__getitem__)
        renewals = state["calls"]["POST /restapi/v1.0/subscription/{subscriptionId}/renew"]
        self.renewals = [call["status"] for call in renewals]

    def figures(self):
        reasons = [f"{gap['reason']}, {gap['certainty']}" for gap in self.gaps]
        return {
            "emitted": len(self.at),
            "stored": len(self.stored),
            "inGaps": len(self.missing),
            "forNobody": len(self.nobodys),
            "notKept": sum(channel["dropped"] for channel in self.state["channels"]),
            "writtenTwice": len(self.file.events) - len(self.file.uuids),
            "receivedTwice": select(self.journal, "SELECT sum(duplicate) FROM subscriptions")[0][0],
            "kills": self.kills,
            "drops": CUTS["drop"] + 2 * CUTS["drop again"],
            "rotations": self.rotations,
            "expiries": self.renewals.count(404),
            "renewals": self.renewals.count(200),
            "gaps": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "gapsS": round(covered_ms(self.spans) / 1000, 1),
            "outagesS": round(self._outages_ms() / 1000, 1),
            "tookS": round((self.rounds[-1].over_ms - self.rounds[0].began_ms) / 1000, 1),
        }

    def check_cuts(self):
        """See that it was hard enough, and that most events arrived yet."""
        figures = self.figures()
        assert figures["emitted"] >= EVENTS
        assert figures["kills"] >= 30
        assert figures["drops"] >= 30
        assert figures["rotations"] == 5
        assert figures["expiries"] >= 3
        assert figures["stored"] >= 0.6 * EVENTS

    def check_journal(self):
        """See that the journal is whole, holds no identity twice, and nothing that could not be read."""
        assert select(self.journal, "PRAGMA integrity_check") == [("ok",)]
        twice = "SELECT subscription, uuid FROM events GROUP BY subscription, uuid HAVING count(*) > 1"
        assert select(self.journal, twice) == []
        assert select(self.journal, "SELECT reason FROM unreadables") == []

    def check_file(self):
        """See that what is stored is in the file, and nothing else is, and no line torn."""
        assert set(self.stored.values()) == self.file.uuids
        raw = self.file.path.read_bytes()
        assert raw.endswith(b"\n")
        assert [json.loads(line)["uuid"] for line in raw.splitlines()] == [event["uuid"] for event in self.file.events]

    def check_gaps(self):
        """See that what is missing lies in a gap, and that the gaps cover little more than the cuts."""
        uncovered = [uuid for uuid in self.missing if not self._is_in_gap(self.at[uuid])]
        assert not uncovered, [self._circumstances(uuid) for uuid in uncovered[:5]]
        renewals_ms = (CUTS["expire"] + CUTS["revoke"] + self.rotations) * RENEWED_WITHIN_S * 1000
        assert covered_ms(self.spans) < self._outages_ms() + renewals_ms + (SLACK_MS + LATE_MS) * len(self.gaps)

    def check_what_was_kept(self):
        """See that of each round in which the subscription lived, nothing of what PubNub keeps is missing.

        On a machine that stands still it may have ended where it should not; then PubNub got nothing to keep.
        """
        missing = set(self.missing) - self.nobodys
        for round_ in self.rounds:
            within = [uuid for uuid, at in self.at.items() if round_.began_ms <= at < round_.over_ms]
            lost = missing.intersection(sorted(within, key=self.at.__getitem__)[-KEPT:])
            assert not lost or round_.cut in ENDING, [self._circumstances(uuid) for uuid in list(lost)[:5]]

    def _is_in_gap(self, at):
        return any(since <= at <= until for since, until in self.spans)

    def _outages_ms(self):
        return sum(round_.over_ms - round_.cut_ms for round_ in self.rounds)

    def _circumstances(self, uuid):
        """Return where a missing event lies between cuts and gaps, for people."""
        at = self.at[uuid]
        rounds = [round_ for round_ in self.rounds if round_.began_ms - 10_000 < at < round_.over_ms + 10_000]
        cuts = [(round_.cut, round_.cut_ms - at, round_.over_ms - at) for round_ in rounds]
        gaps = [(a - at, b - at) for a, b in self.spans if a - 10_000 < at < b + 10_000]
        return f"{uuid}{' (for nobody)' * (uuid in self.nobodys)}: cuts {cuts}, gaps {gaps}, in ms from its emission"
