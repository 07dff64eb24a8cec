"""How does an event look as one line? The formats of the handlers that write lines.

Knows envelopes and templates; knows nothing of where a line goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from rc_push.envelope import Envelope
from rc_push.templates import Template

Format = Literal["ringcentral", "cloudevents", "text"]

# What would end a line, or steer the terminal that shows it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def line_maker(format_: Format, template: Template | None) -> Callable[[Envelope], bytes]:
    """Return what makes one line, newline included, of an event. Raises ValueError where settings contradict.

    `ringcentral` is the line of docs/events.md, `cloudevents` a CloudEvent in its JSON form, `text` the *template*, in
    which control characters stand as escapes.
    """
    if format_ == "text" and template is None:
        raise ValueError(
            'line is missing; format = "text" needs a template, such as line = "{date} {type} {body.text}"'
        )
    if format_ != "text" and template is not None:
        raise ValueError('line is for format = "text"; set that, or leave line out')
    if template is not None:
        return _Text(template)
    return _cloudevent if format_ == "cloudevents" else _event


def _event(envelope: Envelope) -> bytes:
    return envelope.to_json() + b"\n"


def _cloudevent(envelope: Envelope) -> bytes:
    from rc_push.handlers.cloudevent import structured  # noqa: PLC0415 - who does not use it does not pay for it

    return structured(envelope, meta=True) + b"\n"


class _Text:
    def __init__(self, template: Template) -> None:
        self._template = template

    def __call__(self, envelope: Envelope) -> bytes:
        text = self._template.render(envelope)
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text).encode() + b"\n"
