"""What did the user ask for? The TOML file, and everything that is wrong with it, at once.

Knows the file and the environment; knows nothing of what the settings do.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from rc_push.config.document import SEARCHED, look_at_mode, parsed, text_of
from rc_push.config.lines import lines_by_key
from rc_push.config.settings import (
    DEFAULT_SERVER,
    FROM_ENVIRONMENT,
    NAMED_TABLES,
    TABLES,
    TRANSPORTS,
    AccountConfig,
    Config,
    HandlerConfig,
    JournalConfig,
    LogConfig,
    NetworkConfig,
    Option,
    RetryConfig,
    Secret,
    ServiceConfig,
    SubscriptionConfig,
    WebConfig,
    control_path,
    options,
)
from rc_push.config.values import (
    FOUND_IN_FILE,
    SOURCES_REMEDY,
    Mistake,
    is_for_all,
    is_loopback,
    is_origin,
    is_server,
    plain_value,
    secret_from,
    split_address,
    split_url,
    text_from_source,
)
from rc_push.config.webhook import look_at_webhook
from rc_push.config.where import look_at_where
from rc_push.config.words import Key, dotted, found_url, kind_of, listed, nearest, short
from rc_push.errors import ConfigError, Problem

# An empty journal takes a tenth of it.
JOURNAL_MIN_BYTES = 1_000_000
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# What the files under [network] hold, for people.
_KINDS = {"ca_file": "certificates", "client_certificate": "a certificate", "client_key": "a private key"}


def load(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, list[Problem]]:
    """Return what the file at *path* says, with secrets resolved, and the warnings.

    Raises ConfigError with every mistake at once, warnings included. A mistake in the syntax hides all others.
    """
    reading = _Reading(required(path), environ)
    config = reading.config()
    return config, reading.warnings()


def load_routes(
    path: Path | None,
) -> tuple[dict[str, SubscriptionConfig], dict[str, HandlerConfig], list[Problem]]:
    """Return [subscriptions] and [handlers] alone, and the warnings: who only asks where events go needs no secrets.

    Raises ConfigError with every mistake in them.
    """
    reading = _Reading(required(path), {})
    subscriptions, handlers = reading.routes()
    return subscriptions, handlers, reading.warnings()


def load_what_works(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, list[Problem]]:
    """Return what can be used of the file at *path*, with defaults in the place of mistakes, and all its problems.

    Without a file, everything is its default. Raises ConfigError only where the file cannot be read at all.
    """
    reading = _Reading(path or SEARCHED[0], environ, "" if path is None else None)
    config = reading.config()
    return msgspec.structs.replace(config, path=path), reading.in_order()


def load_journal(path: Path | None) -> JournalConfig:
    """Return [journal] alone: who only reads the journal needs no secrets. Raises ConfigError."""
    if path is None:
        return JournalConfig()
    reading = _Reading(path, {})
    journal = reading.journal()
    if reading.problems:
        raise ConfigError(reading.problems, path=str(path))
    return journal


def load_control(path: Path | None) -> Path:
    """Return where the daemon listens for commands; needs no secrets either. Raises ConfigError."""
    return control_path(load_journal(path), ServiceConfig(**_table_alone(path, "service", ServiceConfig)))


def with_lines(problems: Iterable[Problem], path: Path) -> list[Problem]:
    """Return *problems* with the lines of their keys in the file at *path*, where they have none yet."""
    reading = _Reading(path, {})
    return [
        problem if problem.line else replace(problem, line=reading.line_of(tuple(problem.key.split("."))))
        for problem in problems
    ]


def _table_alone(path: Path | None, name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return what the table *name* says, whatever is wrong elsewhere in the file. Raises ConfigError."""
    if path is None:
        return {}
    reading = _Reading(path, {})
    values = reading.table((name,), kind)
    if reading.problems:
        raise ConfigError(reading.problems, path=str(path))
    return values


def required(path: Path | None) -> Path:
    """Return *path*. Raises ConfigError where there is none."""
    if path is None:
        searched = ", ".join(str(path) for path in SEARCHED)
        remedy = "name it with -c or $RC_PUSH_CONFIG, or begin one: rc-push init > rc-push.toml"
        raise ConfigError([Problem("configuration", f"there is no file (searched: {searched})", remedy)])
    return path


class _Reading:
    """One pass over a file: makes settings of it, and notes every mistake in *problems*."""

    def __init__(self, path: Path, environ: Mapping[str, str], text: str | None = None) -> None:
        text, self._fingerprint = text_of(path) if text is None else (text, "")
        self.problems: list[Problem] = []
        self._path = path
        self._document = parsed(text, path)
        self._lines = lines_by_key(text)
        self._environ = environ
        if self._document.get("accounts", {}) == {}:
            server = environ.get("RC_SERVER_URL") or DEFAULT_SERVER
            self._document["accounts"] = {"main": {"server": server, **FROM_ENVIRONMENT}}

    def config(self) -> Config:
        """Return the configuration. What is wrong in it is a problem, and here its default."""
        self.problems += look_at_mode(self._path)
        self._refuse_unknown((), self._document, [*NAMED_TABLES, *TABLES])
        accounts = {name: self._account(name, raw) for name, raw in self._named("accounts")}
        subscriptions, handlers = self.routes()
        if self._document.get("subscriptions", {}) == {}:
            self._complain(("subscriptions",), "there is none", "say what to receive under [subscriptions.NAME]")
        return Config(
            accounts,
            subscriptions,
            handlers,
            self.journal(),
            self._network(),
            LogConfig(**self.table(("log",), LogConfig)),
            ServiceConfig(**self.table(("service",), ServiceConfig)),
            self._web(),
            self._path,
            self._fingerprint,
        )

    def routes(self) -> tuple[dict[str, SubscriptionConfig], dict[str, HandlerConfig]]:
        """Return [subscriptions] and [handlers]."""
        subscriptions = {name: self._subscription(name, raw) for name, raw in self._named("subscriptions")}
        return subscriptions, {name: self._handler(name, raw) for name, raw in self._named("handlers")}

    def in_order(self) -> list[Problem]:
        """Return the problems, in the order of the file."""
        return sorted(self.problems, key=lambda problem: problem.line or 0)

    def warnings(self) -> list[Problem]:
        """Return the problems, in the order of the file. Raises ConfigError where they are not warnings alone."""
        problems = self.in_order()
        if not all(problem.warning for problem in problems):
            raise ConfigError(problems, path=str(self._path))
        return problems

    def journal(self) -> JournalConfig:
        """Return [journal]."""
        journal = JournalConfig(**self.table(("journal",), JournalConfig))
        if journal.max_bytes is not None and journal.max_bytes < JOURNAL_MIN_BYTES:
            remedy = f"write at least {JOURNAL_MIN_BYTES}, or leave it out: then the disk is the limit"
            self._complain(("journal", "max_bytes"), str(journal.max_bytes), remedy)
        return journal

    def line_of(self, key: Key) -> int | None:
        """Return the line of *key*, else of the nearest table around it; None where there is none."""
        return next((self._lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._lines), None)

    def table(self, key: Key, kind: type[msgspec.Struct], *, open_: bool = False) -> dict[str, Any]:
        """Return what is right in the table at *key*, by option. Unknown keys are mistakes, unless it is *open_*."""
        raw: Any = self._document
        for part in key:
            raw = raw.get(part, {})
        if not isinstance(raw, dict):
            self._complain(key, kind_of(raw), f"write a table: [{dotted(key)}]")
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
            self._complain((kind,), kind_of(raw), f"write tables: [{kind}.NAME]")
            return
        for name, table in raw.items():
            if not isinstance(table, dict):
                self._complain((kind, name), kind_of(table), f"write it into a table: [{kind}.NAME]")
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
        if not is_server(account.server):
            remedy = f'write an address such as "{DEFAULT_SERVER}"; http is for loopback addresses only'
            self._complain((*key, "server"), found_url(account.server), remedy)
        if not is_origin(account.pubnub_origin):
            remedy = 'write a host, with a port if need be, such as "ps.pndsn.com"'
            self._complain((*key, "pubnub_origin"), found_url(account.pubnub_origin), remedy)
        return msgspec.structs.replace(account, server=account.server.rstrip("/"))

    def _subscription(self, name: str, raw: dict[str, Any]) -> SubscriptionConfig:
        key = ("subscriptions", name)
        values = self.table(key, SubscriptionConfig)
        accounts = self._names("accounts")
        if "account" not in raw and len(accounts) == 1:
            values["account"] = accounts[0]
        elif "account" not in raw:
            self._complain(
                (*key, "account"), "missing, and there is not exactly one", f"name one of {listed(accounts)}"
            )
        subscription = SubscriptionConfig(name, **{"account": ""} | values)
        self._refuse_strangers((*key, "account"), [subscription.account] if "account" in values else [], accounts)
        self._refuse_strangers((*key, "transport"), [subscription.transport], TRANSPORTS)
        example = "such as /team-messaging/v1/posts"
        if raw.get("event_filters", []) == []:
            self._complain((*key, "event_filters"), "there is none", f"list at least one, {example}")
        for event_filter in subscription.event_filters:
            if not re.fullmatch(r"/\S+", event_filter):
                self._complain((*key, "event_filters"), short(event_filter), f"begin it with /, {example}")
        for part, mistake in look_at_webhook(subscription):
            if part not in raw or part in values:  # else it is told already
                self._complain((*key, part), mistake.found, mistake.remedy)
        return subscription

    def _handler(self, name: str, raw: dict[str, Any]) -> HandlerConfig:
        key = ("handlers", name)
        values = self.table(key, HandlerConfig, open_=True)
        if "use" not in raw:
            self._complain((*key, "use"), "missing", 'name the handler, such as use = "file"')
        self._refuse_strangers((*key, "subscriptions"), values.get("subscriptions", ()), self._names("subscriptions"))
        if not re.fullmatch(r"now|beginning|\d{1,9}[smhd]", values.get("start", "now")):
            self._complain((*key, "start"), short(values["start"]), 'write "now", "beginning", or a time such as "2h"')
        for mistake, is_doubt in look_at_where(values["where"]) if "where" in values else ():
            self._complain((*key, "where"), mistake.found, mistake.remedy, warning=is_doubt)
        known = {option.name for option in options(HandlerConfig)}
        settings = {part: value for part, value in raw.items() if part not in known}
        return HandlerConfig(name, **{"use": ""} | values, settings=settings)

    def _network(self) -> NetworkConfig:
        key = ("network",)
        network = NetworkConfig(**self.table(key, NetworkConfig))
        self._proxy(key, network)
        for name in ("ca_file", "client_certificate", "client_key"):
            path = getattr(network, name)
            if path is not None and not path.is_file():
                self._complain((*key, name), f"there is no file {path}", f"name a file of {_KINDS[name]} (PEM)")
        key_file = network.client_key or network.client_certificate
        if network.client_key and not network.client_certificate:
            self._complain((*key, "client_key"), "given without client_certificate", "name the certificate, too")
        elif key_file and is_for_all(key_file):
            name = "client_key" if network.client_key else "client_certificate"
            found = f"all users of this machine can read the key in {key_file}"
            self._complain((*key, name), found, f"chmod o-rwx {shlex.quote(str(key_file))}")
        return network

    def _web(self) -> WebConfig:
        web = WebConfig(**self.table(("web",), WebConfig))
        if web.listen is None:
            return web
        host = split_address(web.listen)
        if host is None:
            remedy = 'write an address of this machine with a port, such as "127.0.0.1:9464"'
            self._complain(("web", "listen"), short(web.listen), remedy)
            return msgspec.structs.replace(web, listen=None)
        if not is_loopback(host) and "token" not in self._document["web"]:
            remedy = f"give it, such as {SOURCES_REMEDY}; or listen at 127.0.0.1"
            self._complain(("web", "token"), f"missing, and others can ask at {short(web.listen)}", remedy)
        return web

    def _proxy(self, key: Key, network: NetworkConfig) -> None:
        parts = split_url(network.proxy) if network.proxy is not None else None
        if network.proxy is not None and (
            parts is None or parts.scheme not in PROXY_SCHEMES or not parts.hostname or parts.path.strip("/")
        ):
            remedy = 'write an address such as "http://proxy.example.com:3128"'
            self._complain((*key, "proxy"), found_url(network.proxy), remedy)
        elif parts and parts.password:
            remedy = "better: proxy_user and proxy_password, or HTTPS_PROXY in the environment"
            self._complain((*key, "proxy"), "a password in the file", remedy, warning=True)
        if (network.proxy_user is None) != (network.proxy_password is None):
            missing = "proxy_user" if network.proxy_user is None else "proxy_password"
            self._complain((*key, missing), "missing", "give proxy_user and proxy_password together")

    # -------------------------------------------------------------------------------------------------------- one value

    def _value(self, key: Key, option: Option, raw: Any) -> Any:
        """Return the setting in *raw*; None where it is wrong, which is then a problem."""
        if option.table is RetryConfig:
            return self._retry(key)
        try:
            if option.type is Secret:
                return self._secret(key, raw)
            if option.name == "client_id" and isinstance(raw, dict):
                return text_from_source(raw, self._environ)
            return plain_value(option, raw)
        except Mistake as mistake:
            self._complain(key, mistake.found, mistake.remedy)
            return None

    def _secret(self, key: Key, raw: Any) -> Secret:
        secret = secret_from(raw, self._environ)
        if isinstance(raw, str):
            self._complain(key, FOUND_IN_FILE, f"better: {SOURCES_REMEDY}", warning=True)
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
                self._complain((*key, name), "there is no such key", nearest(name, known))

    def _refuse_strangers(self, key: Key, names: Iterable[str], known: Iterable[str]) -> None:
        known = list(known)
        for name in names:
            if name not in known:
                self._complain(key, f"there is no {short(name)}", nearest(name, known))

    def _complain(self, key: Key, found: str, remedy: str, *, warning: bool = False) -> None:
        self.problems.append(Problem(dotted(key), found, remedy, self.line_of(key), warning))
