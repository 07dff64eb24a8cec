"""What can be asked for? The settings, each spelled once: name, type, default, bounds and help.

Checking, messages and `rc-push init` read them from here. Knows nothing of files or of what the settings do.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

TRANSPORTS = ("websocket", "pubnub", "webhook")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_SERVER = "https://platform.ringcentral.com"
EXAMPLE_LISTEN = "127.0.0.1:8443"
# The account `main` of a file without [accounts]; $RC_SERVER_URL is its server.
FROM_ENVIRONMENT = {
    "client_id": {"env": "RC_APP_CLIENT_ID"},
    "client_secret": {"env": "RC_APP_CLIENT_SECRET"},
    "jwt": {"env": "RC_USER_JWT"},
}


def _option(
    description: str, *, example: Any = None, active: bool = False, low: float | None = None, high: float | None = None
) -> msgspec.Meta:
    """Describe an option. *example* stands in the starter file where there is no default, *active* uncommented."""
    return msgspec.Meta(description=description, ge=low, le=high, extra={"example": example, "active": active})


class Secret:
    """A text that does not show itself; only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Keep it out of messages, logs and arguments of processes."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class AccountConfig(msgspec.Struct, frozen=True):
    """One RingCentral user and app: client_id, client_secret and jwt together, or access_token."""

    name: str
    server: Annotated[str, _option("RingCentral's address")] = DEFAULT_SERVER
    client_id: Annotated[
        str | None, _option("the app's client id", example=FROM_ENVIRONMENT["client_id"], active=True)
    ] = None
    client_secret: Annotated[
        Secret | None, _option("the app's client secret", example=FROM_ENVIRONMENT["client_secret"], active=True)
    ] = None
    jwt: Annotated[
        Secret | None, _option("the user's JWT credential", example=FROM_ENVIRONMENT["jwt"], active=True)
    ] = None
    access_token: Annotated[
        Secret | None, _option("a bot's access token, in place of the jwt", example={"file": "/etc/rc-push/bot-token"})
    ] = None
    pubnub_origin: Annotated[
        str, _option("PubNub's address for this account, host[:port]; TLS always, but for a loopback address")
    ] = "ps.pndsn.com"


class SubscriptionConfig(msgspec.Struct, frozen=True):
    """What to receive. Each subscription has its own connection."""

    name: str
    account: Annotated[str, _option("whose events; may be left out where there is one account", example="main")]
    transport: Annotated[str, _option(f"how they come: {' or '.join(TRANSPORTS)}")] = TRANSPORTS[0]
    event_filters: Annotated[
        tuple[str, ...],
        _option("which events: RingCentral's event filters", example=["/team-messaging/v1/posts"], active=True),
    ] = ()
    address: Annotated[
        str | None, _option("webhook: what RingCentral posts to", example="https://events.example.com/rc-push")
    ] = None
    listen: Annotated[
        str | None,
        _option("webhook: where the daemon takes the posts, host:port or unix:/path", example=EXAMPLE_LISTEN),
    ] = None
    certificate: Annotated[
        Path | None, _option("webhook without a TLS proxy: the chain, as PEM", example="/etc/rc-push/chain.pem")
    ] = None
    key: Annotated[
        Path | None, _option("webhook without a TLS proxy: the private key, as PEM", example="/etc/rc-push/key.pem")
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        _option("webhook: proxies whose X-Forwarded-For is believed", example=["127.0.0.1", "unix"]),
    ] = ()
    expires_in_days: Annotated[
        float, _option("webhook: what RingCentral is asked for at each renewal, in days", low=0.01, high=3650)
    ] = 7.0


class RetryConfig(msgspec.Struct, frozen=True):
    """What happens after a failure: again, each time later, and after the last attempt the event is parked."""

    first_delay_s: Annotated[float, _option("before the second attempt, in seconds", low=0.01, high=3600)] = 1.0
    max_delay_s: Annotated[float, _option("between any two attempts, in seconds", low=0.01, high=86400)] = 300.0
    max_attempts: Annotated[int, _option("attempts before the event is parked", low=1, high=10000)] = 10
    max_age_s: Annotated[
        float, _option("since the first attempt, in seconds, before the event is parked", low=1, high=864000)
    ] = 259200.0


class HandlerConfig(msgspec.Struct, frozen=True):
    """Who is handed which events. Keys that are not in this list are the handler's own settings."""

    name: str
    use: Annotated[str, _option('an entry point in the group "rc_push.handlers"', example="file", active=True)]
    types: Annotated[tuple[str, ...], _option("only these types, as globs", example=["post.*"])] = ()
    events: Annotated[tuple[str, ...], _option("only these event URIs, as globs", example=["*/posts"])] = ()
    subscriptions: Annotated[tuple[str, ...], _option("only from these subscriptions", example=["team"])] = ()
    where: Annotated[
        str | None, _option("only where this JMESPath expression is true", example="body.groupId == '990011223344'")
    ] = None
    enabled: Annotated[bool, _option("false: hand nothing over")] = True
    start: Annotated[str, _option("where a new handler begins: now, beginning, or so long ago (30m, 2h, 3d)")] = "now"
    order: Annotated[
        Literal["key", "strict", "none"], _option("what waits for what: an event for the one before it")
    ] = "key"
    concurrency: Annotated[int, _option("events in its hands at the same time", low=1, high=256)] = 1
    timeout_s: Annotated[float, _option("for one hand-over, in seconds", low=0.1, high=86400)] = 30.0
    retry: RetryConfig = RetryConfig()
    settings: dict[str, object] = msgspec.field(default_factory=dict)

    def start_ms(self, at: float) -> int | None:
        """Return *start* in ms since 1970, seen from the epoch second *at*; None for `now`."""
        if self.start in ("now", "beginning"):
            return None if self.start == "now" else 0
        return round((at - int(self.start[:-1]) * UNITS_S[self.start[-1]]) * 1000)


class JournalConfig(msgspec.Struct, frozen=True):
    """Where every event is stored before anything else happens."""

    path: Annotated[Path, _option("the database; its directory is created", active=True)] = Path(
        "/var/lib/rc-push/journal.db"
    )
    retention_days: Annotated[float, _option("how long finished events stay, in days", low=0.01, high=3650)] = 7.0
    max_bytes: Annotated[
        int | None, _option("the size near which finished events go before their time", example=10_000_000_000)
    ] = None


class NetworkConfig(msgspec.Struct, frozen=True):
    """The way to RingCentral."""

    proxy: Annotated[
        str | None,
        _option(
            "a proxy, http, https or socks5; else what the environment says", example="http://proxy.example.com:3128"
        ),
    ] = None
    proxy_user: Annotated[str | None, _option("who we are to the proxy", example="rc-push")] = None
    proxy_password: Annotated[
        Secret | None, _option("the proxy's password for that user", example={"credential": "rc-proxy-password"})
    ] = None
    no_proxy: Annotated[
        tuple[str, ...],
        _option(
            "hosts that are reached without a proxy; else what the environment says", example=["pubnub.example.com"]
        ),
    ] = ()
    ca_file: Annotated[
        Path | None, _option("authorities to trust, as PEM; else the system's", example="/etc/ssl/certs/company.pem")
    ] = None
    client_certificate: Annotated[
        Path | None, _option("our certificate, as PEM, where one is asked for", example="/etc/rc-push/client.pem")
    ] = None
    client_key: Annotated[
        Path | None,
        _option("its key, as PEM without a passphrase; else in the same file", example="/etc/rc-push/client-key.pem"),
    ] = None
    connect_timeout_s: Annotated[float, _option("until connected, in seconds", low=0.1, high=600)] = 10.0
    read_timeout_s: Annotated[float, _option("until an answer comes, in seconds", low=0.1, high=600)] = 30.0

    def __repr__(self) -> str:
        """Hide the proxy's password."""
        proxy = self.proxy and re.sub("//.*@", "//***@", self.proxy)
        shown = msgspec.structs.asdict(self) | {"proxy": proxy}
        return f"NetworkConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class WebConfig(msgspec.Struct, frozen=True):
    """Pages for programs that watch the daemon: /livez, /readyz, /metrics. Off unless there is an address."""

    listen: Annotated[
        str | None, _option("the address to listen at, with its port; off without it", example="127.0.0.1:9464")
    ] = None
    token: Annotated[
        Secret | None,
        _option(
            "what who asks must have; needed where others than this machine can ask",
            example={"file": "/etc/rc-push/web"},
        ),
    ] = None
    hosts: Annotated[
        tuple[str, ...],
        _option("names under which this machine is asked, beside its addresses", example=["rc-push.example.com"]),
    ] = ()

    @property
    def address(self) -> tuple[str, int] | None:
        """Return host and port to listen at; None where it is off."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class LogConfig(msgspec.Struct, frozen=True):
    """What the daemon says on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _option("what is too small to be told")] = "info"
    format: Annotated[Literal["auto", "text", "json"], _option("auto: text on a terminal, JSON otherwise")] = "auto"


class ServiceConfig(msgspec.Struct, frozen=True):
    """The daemon itself."""

    shutdown_grace_s: Annotated[float, _option("what a handler gets to finish, in seconds", low=0, high=3600)] = 10.0
    control: Annotated[
        Path | None,
        _option(
            "the socket over which commands ask the daemon; else beside the journal", example="/run/rc-push/control"
        ),
    ] = None


class Config(msgspec.Struct, frozen=True):
    """All that the file says. The first three are by name.

    *fingerprint* tells files apart: the first digits that `sha256sum` shows for it.
    """

    accounts: dict[str, AccountConfig]
    subscriptions: dict[str, SubscriptionConfig]
    handlers: dict[str, HandlerConfig]
    journal: JournalConfig
    network: NetworkConfig
    log: LogConfig
    service: ServiceConfig
    web: WebConfig = WebConfig()
    path: Path | None = None
    fingerprint: str = ""

    @property
    def control_path(self) -> Path:
        """Return where the daemon listens for commands."""
        return control_path(self.journal, self.service)


def control_path(journal: JournalConfig, service: ServiceConfig) -> Path:
    """Return where the daemon listens for commands: beside the journal, unless the file names a place."""
    return service.control or Path(f"{journal.path}.sock")


NAMED_TABLES: dict[str, type[msgspec.Struct]] = {
    "accounts": AccountConfig,
    "subscriptions": SubscriptionConfig,
    "handlers": HandlerConfig,
}
TABLES: dict[str, type[msgspec.Struct]] = {
    "journal": JournalConfig,
    "network": NetworkConfig,
    "log": LogConfig,
    "service": ServiceConfig,
    "web": WebConfig,
}


class Option(msgspec.Struct, frozen=True):
    """One key of a table, as its field spells it. *table* is set where the key is a table of options itself."""

    name: str
    type: Any
    default: Any
    description: str = ""
    example: Any = None
    active: bool = False
    low: float | None = None
    high: float | None = None
    table: type[msgspec.Struct] | None = None

    @property
    def expected(self) -> str:
        """What to write there, for people."""
        if self.low is not None:
            return f"{'a whole number' if self.type is int else 'a number'} from {self.low:g} to {self.high:g}"
        if typing.get_origin(self.type) is Literal:
            return "one of " + ", ".join(f'"{choice}"' for choice in typing.get_args(self.type))
        if self.table is not None:
            return "a table"
        return {
            bool: "true or false",
            int: "a whole number",
            tuple[str, ...]: "a list of strings",
            Path: "an absolute path",
        }.get(self.type, "a string")


def options(table: type[msgspec.Struct]) -> Iterator[Option]:
    """Yield the options of *table*, in their order."""
    for field in msgspec.structs.fields(table):
        default = None if field.default is msgspec.NODEFAULT else field.default
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield Option(field.name, field.type, default, table=field.type)
        elif typing.get_origin(field.type) is Annotated:
            type_, meta = typing.get_args(field.type)
            plain = next((arm for arm in typing.get_args(type_) if type(None) in typing.get_args(type_)), type_)
            yield Option(field.name, plain, default, meta.description, **meta.extra, low=meta.ge, high=meta.le)
