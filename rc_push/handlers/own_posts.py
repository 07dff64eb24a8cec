"""Is this event a post of ours? What keeps `team_post` from answering itself, and two of its kind each other.

There are two signs, since RingCentral does not document what becomes of a text on its way: a mark that each text ends
with, which every rc-push knows, after a restart too; and, where a text has lost it, the memory of what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator

from rc_push.envelope import Envelope

# Four signs of no width that no keyboard has: invisible separator, times, separator, plus. Nobody trims them away as
# white space, and at the end they disturb no Markdown.
MARK = "\u2063\u2062\u2063\u2064"
REMEMBERED_MAX = 256


class OwnPosts:
    """Knows the posts of one handler, and by the mark those of all others."""

    def __init__(self) -> None:
        self._sent: dict[int, None] = {}

    def remember(self, text: str, cause: Envelope) -> None:
        """Remember that *text* is sent because of *cause*.

        Not where it only repeats what *cause* says: a person may say that again, and means it.
        """
        plain = _plain(text)
        if plain in map(_plain, _texts(cause)):
            return
        self._sent.pop(hash(plain), None)
        self._sent[hash(plain)] = None
        if len(self._sent) > REMEMBERED_MAX:
            del self._sent[next(iter(self._sent))]

    def include(self, envelope: Envelope) -> bool:
        """Say whether *envelope* tells of a post of ours.

        The mark has to be the end of a text: an answer that quotes ours goes on behind it.
        """
        return any(text.rstrip().endswith(MARK) or hash(_plain(text)) in self._sent for text in _texts(envelope))


def _texts(envelope: Envelope) -> Iterator[str]:
    """Yield what a post says: its text, and those of its attachments. Events can have anything in these places."""
    body = envelope.body
    if not isinstance(body, dict):
        return
    attachments = body.get("attachments")
    for said in (body, *(attachments if isinstance(attachments, list) else ())):
        if isinstance(said, dict) and isinstance(text := said.get("text"), str) and text:
            yield text


def _plain(text: str) -> str:
    """Return *text* without what may change on its way."""
    return " ".join(text.replace(MARK, "").split())
