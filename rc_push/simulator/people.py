"""Who lives in the simulated RingCentral? One app, and the users that log in with it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

# The first user's. Ids of the same shape as RingCentral's, so that samples can be made without asking the simulator.
ACCOUNT_ID = "4010001004"
EXTENSION_ID = "4010002004"
# Whom the posts of incoming webhooks are by. undocumented: no source shows such an event.
INTEGRATION_ID = "4010009004"


@dataclass(frozen=True, slots=True)
class App:
    """The application that asks for tokens."""

    client_id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """An extension of an account, with the JWT credential that it made."""

    account_id: str = ACCOUNT_ID
    extension_id: str = EXTENSION_ID
    extension_number: str = "101"
    jwt: str = field(default_factory=lambda: ".".join(secrets.token_urlsafe(n) for n in (24, 48, 32)), repr=False)
