"""What do programs that watch the daemon see? Whether it is alive, whether it is ready, and its metrics.

Knows how everything stands; knows nothing of who may ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from rc_push.errors import JournalError
from rc_push.health import verdict_of
from rc_push.journal.facts import Facts
from rc_push.metrics import MEDIA_TYPE, exposition
from rc_push.status import AppStatistics, subscription_to_dict, told
from rc_push.web.site import Answer, Page, json_answer

OK, UNAVAILABLE = 200, 503
# Each proof of life is a commit: those who ask at once share one.
PROOF_GOOD_S = 1.0


class Pages:
    """The pages. *trouble* returns what does not go on, None where all does."""

    def __init__(
        self,
        statistics: Callable[[], AppStatistics],
        facts: Callable[[], Awaitable[Facts]],
        trouble: Callable[[], Awaitable[str | None]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._statistics = statistics
        self._facts = facts
        self._trouble = trouble
        self._now = now
        self._proof: asyncio.Future[str | None] | None = None
        self._proven_at = 0.0

    def table(self) -> Mapping[str, Page]:
        """Return the pages by their paths."""
        return {"/livez": self.livez, "/readyz": self.readyz, "/metrics": self.metrics}

    async def livez(self) -> Answer:
        """Say whether both loops turn and the journal commits."""
        if self._proof is None or (self._proof.done() and self._now() > self._proven_at + PROOF_GOOD_S):
            self._proven_at = self._now()
            self._proof = asyncio.ensure_future(self._trouble())
        trouble = await asyncio.shield(self._proof)
        reasons = [] if trouble is None else [told(trouble)]
        return json_answer(UNAVAILABLE if reasons else OK, {"alive": not reasons, "reasons": reasons})

    async def readyz(self) -> Answer:
        """Say whether all is received that can be; the reasons also tell what is wrong beside that."""
        known = self._statistics()
        verdict = verdict_of(known.receivers, known.dispatchers, known.journal, known.config.mistake, known.at)
        content = {
            "ready": verdict.is_ready,
            "state": verdict.state,
            "reasons": [told(reason) for reason in verdict.reasons],
            "subscriptions": [subscription_to_dict(receiver) for receiver in known.receivers],
        }
        return json_answer(OK if verdict.is_ready else UNAVAILABLE, content)

    async def metrics(self) -> Answer:
        """Return the metrics, in Prometheus's text format."""
        try:
            facts = await self._facts()
        except JournalError:  # a metric says so
            facts = None
        return Answer(OK, exposition(self._statistics(), facts), MEDIA_TYPE)
