"""What does a program see of its surroundings? Little: a few variables, and which event it is called for.

Pure; knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rc_push.envelope import Envelope
from rc_push.handlers.hand_over import HandOver
from rc_push.terminal import unobeyed

# Where the daemon's own environment does not say.
DEFAULTS = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def environment_from(
    daemon: Mapping[str, str], *, home: str, named: Sequence[str] = (), given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return what every run of a program gets: PATH, LANG, HOME, what is *named* of the *daemon*'s, what is *given*."""
    inherited = {name: daemon[name] for name in (*DEFAULTS, *named) if daemon.get(name)}
    return DEFAULTS | {"HOME": home} | inherited | dict(given or {})


def variables_of_run(hand_over: HandOver) -> dict[str, str]:
    """Return the variables that say which call it is."""
    return {"RC_PUSH_HANDLER": hand_over.handler, "RC_PUSH_ATTEMPT": str(hand_over.attempt)}


def variables_of(envelope: Envelope) -> dict[str, str]:
    """Return the variables that say which event it is. A uuid is hostile input: one with a NUL would start nothing."""
    return {
        "RC_PUSH_EVENT_ID": unobeyed(envelope.uuid).encode(errors="backslashreplace").decode(),
        "RC_PUSH_TYPE": envelope.type,
        "RC_PUSH_ORIGIN": envelope.origin,
    }
