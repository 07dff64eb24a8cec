"""What did the user ask for? The settings, the TOML file they come from, and everything that is wrong with it.

An option is spelled once, as a field with its type, default, bounds and help: checking, messages and `rc-push init`
read it from there. Knows the file and the environment; knows nothing of what the settings do.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import shlex
import stat
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from rc_push.errors import ConfigError, Problem

TRANSPORTS = ("websocket",)
DEFAULT_SERVER = "https://platform.ringcentral.com"
# Where the file is looked for when nobody names it.
SEARCHED = (Path("rc-push.toml"), Path("/etc/rc-push/config.toml"))
# The account `main` of a file without [accounts]; $RC_SERVER_URL is its server.
FROM_ENVIRONMENT = {
    "client_id": {"env": "RC_APP_CLIENT_ID"},
    "client_secret": {"env": "RC_APP_CLIENT_SECRET"},
    "jwt": {"env": "RC_USER_JWT"},
}
SOURCES_REMEDY = '{ env = "NAME" }, { file = "/path" } or { credential = "name" }'
FILE_MAX_BYTES = 1 << 20
SECRET_MAX_BYTES = 64 << 10
SHOWN_MAX_LENGTH = 60

Key = tuple[str, ...]


def _option(
    description: str, *, example: Any = None, active: bool = False, low: float | None = None, high: float | None = None
) -> msgspec.Meta:
    """Describe an option. *example* stands in the starter file where there is no default, *active* uncommented."""
    return msgspec.Meta(description=description, ge=low, le=high, extra={"example": example, "active": active})


# ------------------------------------------------------------------------------------------------------------- settings


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


class SubscriptionConfig(msgspec.Struct, frozen=True):
    """What to receive. Each subscription has its own connection."""

    name: str
    account: Annotated[str, _option("whose events; may be left out where there is one account", example="main")]
    transport: Annotated[str, _option(f"how they come: {' or '.join(TRANSPORTS)}")] = TRANSPORTS[0]
    event_filters: Annotated[
        tuple[str, ...],
        _option("which events: RingCentral's event filters", example=["/team-messaging/v1/posts"], active=True),
    ] = ()


class RetryConfig(msgspec.Struct, frozen=True):
    """What happens after a failure: again, each time later, and after the last attempt the event is parked."""

    first_delay_s: Annotated[float, _option("before the second attempt, in seconds", low=0.01, high=3600)] = 1.0
    max_delay_s: Annotated[float, _option("between any two attempts, in seconds", low=0.01, high=86400)] = 300.0
    max_attempts: Annotated[int, _option("attempts before the event is parked", low=1, high=10000)] = 10


class HandlerConfig(msgspec.Struct, frozen=True):
    """Who is handed which events. Keys that are not in this list are the handler's own settings."""

    name: str
    use: Annotated[str, _option('an entry point in the group "rc_push.handlers"', example="file", active=True)]
    types: Annotated[tuple[str, ...], _option("only these types, as globs", example=["post.*"])] = ()
    events: Annotated[tuple[str, ...], _option("only these event URIs, as globs", example=["*/posts"])] = ()
    subscriptions: Annotated[tuple[str, ...], _option("only from these subscriptions", example=["team"])] = ()
    enabled: Annotated[bool, _option("false: hand nothing over")] = True
    timeout_s: Annotated[float, _option("for one hand-over, in seconds", low=0.1, high=86400)] = 30.0
    retry: RetryConfig = RetryConfig()
    settings: dict[str, object] = msgspec.field(default_factory=dict)


class JournalConfig(msgspec.Struct, frozen=True):
    """Where every event is stored before anything else happens."""

    path: Annotated[Path, _option("the database; its directory is created", active=True)] = Path(
        "/var/lib/rc-push/journal.db"
    )
    retention_days: Annotated[float, _option("how long finished events stay, in days", low=0.01, high=3650)] = 7.0


class NetworkConfig(msgspec.Struct, frozen=True):
    """The way to RingCentral."""

    proxy: Annotated[
        str | None, _option("an HTTP proxy; else what the environment says", example="http://proxy.example.com:3128")
    ] = None
    ca_file: Annotated[
        Path | None, _option("authorities to trust, as PEM; else the system's", example="/etc/ssl/certs/company.pem")
    ] = None
    connect_timeout_s: Annotated[float, _option("until connected, in seconds", low=0.1, high=600)] = 10.0
    read_timeout_s: Annotated[float, _option("until an answer comes, in seconds", low=0.1, high=600)] = 30.0

    def __repr__(self) -> str:
        """Hide the proxy's password."""
        proxy = self.proxy and re.sub("//.*@", "//***@", self.proxy)
        shown = msgspec.structs.asdict(self) | {"proxy": proxy}
        return f"NetworkConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class LogConfig(msgspec.Struct, frozen=True):
    """What the daemon says on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _option("what is too small to be told")] = "info"
    format: Annotated[Literal["auto", "text", "json"], _option("auto: text on a terminal, JSON otherwise")] = "auto"


class ServiceConfig(msgspec.Struct, frozen=True):
    """The daemon itself."""

    shutdown_grace_s: Annotated[float, _option("what a handler gets to finish, in seconds", low=0, high=3600)] = 10.0


class Config(msgspec.Struct, frozen=True):
    """All that the file says. The first three are by name."""

    accounts: dict[str, AccountConfig]
    subscriptions: dict[str, SubscriptionConfig]
    handlers: dict[str, HandlerConfig]
    journal: JournalConfig
    network: NetworkConfig
    log: LogConfig
    service: ServiceConfig
    path: Path | None = None


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
        return {bool: "true or false", tuple[str, ...]: "a list of strings", Path: "an absolute path"}.get(
            self.type, "a string"
        )


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


# ------------------------------------------------------------------------------------------------------------- the file


def find_config(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: *option* (-c), else $RC_PUSH_CONFIG, else the first of `SEARCHED` that exists."""
    named = option or (Path(environ["RC_PUSH_CONFIG"]) if environ.get("RC_PUSH_CONFIG") else None)
    return named or next((path for path in SEARCHED if _exists(path)), None)


def load(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, list[Problem]]:
    """Return what the file at *path* says, with secrets resolved, and the warnings.

    Raises ConfigError with every mistake at once, warnings included. A mistake in the syntax hides all others.
    """
    if path is None:
        searched = ", ".join(str(path) for path in SEARCHED)
        remedy = "name it with -c or $RC_PUSH_CONFIG, or begin one: rc-push init > rc-push.toml"
        raise ConfigError([Problem("configuration", f"there is no file (searched: {searched})", remedy)])
    reading = _Reading(path, environ)
    config = reading.config()
    problems = sorted(reading.problems, key=lambda problem: problem.line or 0)
    if not all(problem.warning for problem in problems):
        raise ConfigError(problems, path=str(path))
    return config, problems


def load_journal(path: Path | None) -> JournalConfig:
    """Return [journal] alone: who only reads the journal needs no secrets. Raises ConfigError."""
    if path is None:
        return JournalConfig()
    reading = _Reading(path, {})
    journal = JournalConfig(**reading.table(("journal",), JournalConfig))
    if reading.problems:
        raise ConfigError(reading.problems, path=str(path))
    return journal


def with_lines(problems: Iterable[Problem], path: Path) -> list[Problem]:
    """Return *problems* with the lines of their keys in the file at *path*, where they have none yet."""
    reading = _Reading(path, {})
    return [
        problem if problem.line else replace(problem, line=reading.line_of(tuple(problem.key.split("."))))
        for problem in problems
    ]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it may be there: reading it then says what is wrong
        return True
    return True


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no path"
        raise _unusable(path, f"cannot be read: {reason}", "name a file that this user can read") from None
    if len(content) > FILE_MAX_BYTES:
        raise _unusable(path, "larger than 1 MiB", "name a configuration file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _unusable(path, "not UTF-8", "save it as UTF-8", content.count(b"\n", 0, exc.start) + 1) from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        what, _, where = str(exc).rpartition(" (at ")
        number = re.match(r"line (\d+)", where)
        line = int(number[1]) if number else max(1, len(text.splitlines()))
        remedy = "correct the TOML: key = value, strings in quotes, tables in [brackets]"
        raise _unusable(path, what[:SHOWN_MAX_LENGTH], remedy, line) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets a thousand deep
        raise _unusable(path, "nested or long beyond reason", "name a configuration file") from None


def _unusable(path: Path, found: str, remedy: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(str(path), found, remedy, line)], path=str(path))


class _Reading:
    """One pass over a file: makes settings of it, and notes every mistake in *problems*."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        text = _read(path)
        self.problems: list[Problem] = []
        self._path = path
        self._document = _parse(text, path)
        self._lines = _lines_by_key(text)
        self._environ = environ

    def config(self) -> Config:
        """Return the configuration. What is wrong in it is a problem, and here its default."""
        self._refuse_unknown((), self._document, [*NAMED_TABLES, *TABLES])
        if self._document.get("accounts", {}) == {}:
            server = self._environ.get("RC_SERVER_URL") or DEFAULT_SERVER
            self._document["accounts"] = {"main": {"server": server, **FROM_ENVIRONMENT}}
        accounts = {name: self._account(name, raw) for name, raw in self._named("accounts")}
        subscriptions = {name: self._subscription(name, raw) for name, raw in self._named("subscriptions")}
        handlers = {name: self._handler(name, raw) for name, raw in self._named("handlers")}
        if self._document.get("subscriptions", {}) == {}:
            self._complain(("subscriptions",), "there is none", "say what to receive under [subscriptions.NAME]")
        return Config(
            accounts,
            subscriptions,
            handlers,
            JournalConfig(**self.table(("journal",), JournalConfig)),
            self._network(),
            LogConfig(**self.table(("log",), LogConfig)),
            ServiceConfig(**self.table(("service",), ServiceConfig)),
            self._path,
        )

    def line_of(self, key: Key) -> int | None:
        """Return the line of *key*, else of the nearest table around it; None where there is none."""
        return next((self._lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._lines), None)

    def table(self, key: Key, kind: type[msgspec.Struct], *, open_: bool = False) -> dict[str, Any]:
        """Return what is right in the table at *key*, by option. Unknown keys are mistakes, unless it is *open_*."""
        raw: Any = self._document
        for part in key:
            raw = raw.get(part, {})
        if not isinstance(raw, dict):
            self._complain(key, _kind(raw), f"write a table: [{_dotted(key)}]")
            return {}
        known = {option.name: option for option in options(kind)}
        if not open_:
            self._refuse_unknown(key, raw, known)
        values = {name: self._value((*key, name), known[name], raw[name]) for name in raw if name in known}
        return {name: value for name, value in values.items() if value is not None}

    # -------------------------------------------------------------------------------------------- tables with own rules

    def _named(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        raw = self._document.get(kind, {})
        if not isinstance(raw, dict):
            self._complain((kind,), _kind(raw), f"write tables: [{kind}.NAME]")
            return
        for name, table in raw.items():
            if not isinstance(table, dict):
                self._complain((kind, name), _kind(table), f"write it into a table: [{kind}.NAME]")
            elif not re.fullmatch("[A-Za-z0-9_-]+", name):
                self._complain((kind, name), "no usable name", "use letters, digits, _ and - only")
            else:
                yield name, table

    def _account(self, name: str, raw: dict[str, Any]) -> AccountConfig:
        key = ("accounts", name)
        account = AccountConfig(name, **self.table(key, AccountConfig))
        if "access_token" not in raw:
            for part in FROM_ENVIRONMENT.keys() - raw.keys():
                source = f'{{ env = "{FROM_ENVIRONMENT[part]["env"]}" }}'
                remedy = f"give it, such as {source}; a bot needs access_token alone"
                self._complain((*key, part), "missing", remedy)
        elif "jwt" in raw:
            self._complain((*key, "jwt"), "given beside access_token", "leave one of the two out")
        if not _is_server(account.server):
            remedy = f'write an address such as "{DEFAULT_SERVER}"; http is for loopback addresses only'
            self._complain((*key, "server"), _found_url(account.server), remedy)
        return msgspec.structs.replace(account, server=account.server.rstrip("/"))

    def _subscription(self, name: str, raw: dict[str, Any]) -> SubscriptionConfig:
        key = ("subscriptions", name)
        values = self.table(key, SubscriptionConfig)
        accounts = self._names("accounts")
        if "account" not in raw and len(accounts) == 1:
            values["account"] = accounts[0]
        elif "account" not in raw:
            self._complain(
                (*key, "account"), "missing, and there is not exactly one", f"name one of {_listed(accounts)}"
            )
        subscription = SubscriptionConfig(name, **{"account": ""} | values)
        self._refuse_strangers((*key, "account"), [subscription.account] if "account" in values else [], accounts)
        self._refuse_strangers((*key, "transport"), [subscription.transport], TRANSPORTS)
        example = "such as /team-messaging/v1/posts"
        if raw.get("event_filters", []) == []:
            self._complain((*key, "event_filters"), "there is none", f"list at least one, {example}")
        for event_filter in subscription.event_filters:
            if not re.fullmatch(r"/\S+", event_filter):
                self._complain((*key, "event_filters"), _short(event_filter), f"begin it with /, {example}")
        return subscription

    def _handler(self, name: str, raw: dict[str, Any]) -> HandlerConfig:
        key = ("handlers", name)
        values = self.table(key, HandlerConfig, open_=True)
        if "use" not in raw:
            self._complain((*key, "use"), "missing", 'name the handler, such as use = "file"')
        self._refuse_strangers((*key, "subscriptions"), values.get("subscriptions", ()), self._names("subscriptions"))
        known = {option.name for option in options(HandlerConfig)}
        settings = {part: value for part, value in raw.items() if part not in known}
        return HandlerConfig(name, **{"use": ""} | values, settings=settings)

    def _network(self) -> NetworkConfig:
        key = ("network",)
        network = NetworkConfig(**self.table(key, NetworkConfig))
        if network.proxy is not None:
            parts = _split_url(network.proxy)
            if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
                remedy = 'write an address such as "http://proxy.example.com:3128"'
                self._complain((*key, "proxy"), _found_url(network.proxy), remedy)
            elif parts.password:
                remedy = "better: leave it out and set HTTPS_PROXY"
                self._complain((*key, "proxy"), "a password in the file", remedy, warning=True)
        if network.ca_file is not None and not network.ca_file.is_file():
            self._complain(
                (*key, "ca_file"), f"there is no file {network.ca_file}", "name a file of certificates (PEM)"
            )
        return network

    # -------------------------------------------------------------------------------------------------------- one value

    def _value(self, key: Key, option: Option, raw: Any) -> Any:
        """Return the setting in *raw*; None where it is wrong, which is then a problem."""
        if option.table is RetryConfig:
            return self._retry(key)
        try:
            if option.type is Secret:
                return self._secret(key, raw)
            if option.name == "client_id" and isinstance(raw, dict):
                return _text_from_source(raw, self._environ)
            return _plain_value(option, raw)
        except _Mistake as mistake:
            self._complain(key, mistake.found, mistake.remedy)
            return None

    def _secret(self, key: Key, raw: Any) -> Secret:
        if not isinstance(raw, str):
            return Secret(_text_from_source(raw, self._environ))
        secret = Secret(_one_line(raw))
        self._complain(key, "a secret in the file itself", f"better: {SOURCES_REMEDY}", warning=True)
        return secret

    def _retry(self, key: Key) -> RetryConfig:
        retry = RetryConfig(**self.table(key, RetryConfig))
        if retry.max_delay_s < retry.first_delay_s:
            found = f"{retry.max_delay_s:g} is below first_delay_s = {retry.first_delay_s:g}"
            self._complain((*key, "max_delay_s"), found, "raise this one or lower the other")
        return retry

    # --------------------------------------------------------------------------------------------------------- problems

    def _names(self, kind: str) -> list[str]:
        """Return the names that the file gives, right or wrong."""
        raw = self._document.get(kind, {})
        return list(raw) if isinstance(raw, dict) else []

    def _refuse_unknown(self, key: Key, raw: Iterable[str], known: Iterable[str]) -> None:
        known = list(known)
        for name in raw:
            if name not in known:
                self._complain((*key, name), "there is no such key", _nearest(name, known))

    def _refuse_strangers(self, key: Key, names: Iterable[str], known: Iterable[str]) -> None:
        known = list(known)
        for name in names:
            if name not in known:
                self._complain(key, f"there is no {_short(name)}", _nearest(name, known))

    def _complain(self, key: Key, found: str, remedy: str, *, warning: bool = False) -> None:
        self.problems.append(Problem(_dotted(key), found, remedy, self.line_of(key), warning))


# --------------------------------------------------------------------------------------------------------------- values


class _Mistake(Exception):
    """Raised when a value is wrong: what was found, and the remedy."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found = found
        self.remedy = remedy


def _plain_value(option: Option, raw: Any) -> Any:
    wrong = _Mistake(_found(raw), f"write {option.expected}")
    try:
        value = msgspec.convert(raw, option.type, dec_hook=_path_from)
    except msgspec.ValidationError:
        raise wrong from None
    in_bounds = option.low is None or option.high is None or option.low <= value <= option.high
    if not in_bounds or raw == "" or (isinstance(raw, list) and "" in raw):
        raise wrong
    return value


def _path_from(_: type, raw: Any) -> Path:
    if not isinstance(raw, str) or not raw.startswith("/") or not raw.isprintable():
        raise ValueError("no absolute path: a daemon's working directory is nobody's choice")
    return Path(raw)


def _text_from_source(raw: Any, environ: Mapping[str, str]) -> str:
    """Return the text that *raw*, `{env=}`, `{file=}` or `{credential=}`, names. Raises _Mistake without the text."""
    source, name = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else ("", None)
    if not isinstance(name, str) or source not in ("env", "file", "credential"):
        raise _Mistake(_kind(raw), f"write {SOURCES_REMEDY}")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if source == "env":
        if name not in environ:
            raise _Mistake(f"the environment variable {_name_shown(name)} is not set", "set it, or name another source")
        return _one_line(environ[name])
    if source == "file" and name.startswith("/"):
        return _one_line(_text_from_file(Path(name), _name_shown(name), directory))
    if source == "file":
        raise _Mistake("no absolute path", "name the file with its directories, beginning with /")
    if not directory:
        raise _Mistake(
            "$CREDENTIALS_DIRECTORY is not set", "run it under systemd with LoadCredential=, or use { file = … }"
        )
    if name in ("", ".", "..") or "/" in name:
        raise _Mistake("no name of a credential", "name one of systemd's LoadCredential=, without a directory")
    return _one_line(_text_from_file(Path(directory, name), _name_shown(name), directory))


def _text_from_file(path: Path, shown: str, credentials: str | None) -> str:
    try:
        # Without O_NONBLOCK, a named pipe would stop us for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(SECRET_MAX_BYTES) if stat.S_ISREG(mode) else b""
        private = not mode & 0o077 or (credentials and path.resolve().is_relative_to(Path(credentials).resolve()))
    except (OSError, ValueError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "no path"
        raise _Mistake(
            f"{shown} cannot be read: {reason}", "put the secret there, readable by this user only"
        ) from None
    if not stat.S_ISREG(mode):
        raise _Mistake(f"{shown} is no file", "name a file that holds the secret alone")
    if not private:
        raise _Mistake(f"{shown} can be read by others (mode {mode & 0o777:04o})", f"chmod 600 {shlex.quote(shown)}")
    return content.decode("utf-8", "replace")


def _one_line(text: str) -> str:
    """Return the secret in *text*, without the newline that editors add. Raises _Mistake where it is no secret."""
    text = text.rstrip("\r\n")
    if not text:
        raise _Mistake("it is empty", "put the secret there")
    if not (text.isascii() and text.isprintable() and len(text) < SECRET_MAX_BYTES):
        raise _Mistake("it is not one line of plain text", "put the secret there, and nothing else")
    return text


def _name_shown(name: str) -> str:
    """Return *name*, unless it may be the secret itself, put in place of its name."""
    is_name = re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}|[a-z][a-z0-9._-]{0,31}|/[\w ./@-]{0,255}", name)
    return name if is_name else "(named there)"


def _split_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts if url.isascii() and url.isprintable() else None


def _is_server(url: str) -> bool:
    parts = _split_url(url)
    if parts is None or not parts.hostname or parts.username is not None or parts.path.strip("/") or parts.query:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------------ words of people


def _found(raw: Any) -> str:
    """Return *raw* for people: the value where it is short, else its kind."""
    if isinstance(raw, str):
        return _short(raw)
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) or (isinstance(raw, int) and raw.bit_length() < 64):  # noqa: PLR2004 - an int of TOML
        return str(raw)
    if isinstance(raw, list) and (strangers := [item for item in raw if not isinstance(item, str) or not item]):
        return f"a list with {_kind(strangers[0]) if strangers[0] != '' else 'an empty string'} in it"
    return _kind(raw)


def _kind(raw: Any) -> str:
    kinds = {
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(raw), "a date or time")


def _found_url(url: str) -> str:
    return "an address with a password" if "@" in url else _short(url)


def _short(text: str) -> str:
    """Return *text* in quotes, on one line, cut where it is long."""
    text = text if len(text) <= SHOWN_MAX_LENGTH else text[: SHOWN_MAX_LENGTH - 1] + "…"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name[:SHOWN_MAX_LENGTH], known, 1)
    return f'did you mean "{nearest[0]}"?' if nearest else f"known are {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_part(name) for name in names) or "none"


def _dotted(key: Key) -> str:
    return ".".join(_part(part) for part in key)


def _part(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]{1,60}", name) else _short(name)


# ---------------------------------------------------------------------------------------------------------------- lines

_TOKEN = re.compile(
    r'(?P<name>"{3}(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'|[^][{}=,.\s\#"\']+)'
    r"|(?P<comment>\#[^\n]*)|(?P<mark>[][{}=,\n])",
    re.DOTALL,
)
# Keys of ours are no deeper; what is below has the line of what is above.
_DEPTH = 5


def _lines_by_key(text: str) -> dict[Key, int]:
    """Return the line where each key and each table of *text* first stands. *text* is valid TOML.

    tomllib does not tell; this reads headers, dotted keys and inline tables, and steps over everything else.
    """
    lines: dict[Key, int] = {}
    line = 1
    table: Key = ()
    key: Key = ()
    parts: list[str] = []  # of the key that is being read
    brackets: list[Key | None] = []  # those open in a value: an inline table's key, None for a list
    in_key, in_header = True, False
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if match.lastgroup == "name":
            parts += [_unquoted(piece)] if in_key else []
        elif piece == "\n" and not brackets:
            parts, in_key, in_header = [], True, False
        elif piece == "[" and in_key and not brackets:
            in_header = True
        elif piece == "]" and in_header:
            table = _note(tuple(parts), line, lines) if parts else table
            parts = []
        elif piece == "=":
            key = _note((brackets[-1] or () if brackets else table) + tuple(parts), line, lines)
            parts, in_key = [], False
        elif piece in ("[", "{"):
            brackets.append(key if piece == "{" else None)
            in_key = piece == "{"
        elif piece in ("]", "}") and brackets:
            brackets.pop()
            in_key = False
        elif piece == ",":
            in_key = bool(brackets) and brackets[-1] is not None
        line += piece.count("\n")
    return lines


def _note(key: Key, line: int, lines: dict[Key, int]) -> Key:
    key = key[:_DEPTH]
    for depth in range(1, len(key) + 1):
        lines.setdefault(key[:depth], line)
    return key


def _unquoted(token: str) -> str:
    return str(tomllib.loads(f"key = {token}")["key"]) if token[0] in "\"'" else token
