"""A handler is found by its entry point, checked before it is built, and has one shape whatever it was written as."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from structlog.testing import capture_logs

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, HandlerError, Problem, Reject, UnreachableError

ENVELOPE = Envelope("u-1", "post.added", b'{"uuid":"u-1","event":"/x"}', Source("main", "team", "websocket"), 0, 7)

GOOD = """
    from __future__ import annotations
    from pathlib import Path
    from typing import Annotated, Literal
    import msgspec

    class TicketSettings(msgspec.Struct, forbid_unknown_fields=True):
        queue: Annotated[str, msgspec.Meta(description="the queue that gets the tickets", min_length=2)]
        folder: Annotated[Path | None, msgspec.Meta(description="where copies go")] = None
        level: Annotated[Literal["low", "high"], msgspec.Meta(description="low or high")] = "low"
        size: Annotated[int, msgspec.Meta(description="tickets at once", ge=1)] = 1

    class Tickets:
        Settings = TicketSettings

        def __init__(self, settings):
            self.settings = settings
            self.calls = []

        async def __aenter__(self):
            self.calls.append("open")

        async def __aexit__(self, *exc):
            self.calls.append("close")

        async def handle(self, envelope):
            self.calls.append(envelope.uuid)

        async def handle_batch(self, envelopes):
            self.calls.append([envelope.uuid for envelope in envelopes])

        def reopen(self):
            self.calls.append("reopen")
"""


class Plugins:
    """Installs distributions as pip does: a module, and a dist-info beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, source: str, *, target: str, name: str = "tickets", dist: str = "acme") -> None:
        (self.folder / f"{dist}.py").write_text(dedent(source))
        info = self.folder / f"{dist}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[rc_push.handlers]\n{name} = {dist}:{target}\n")
        self.modules.append(dist)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    monkeypatch.syspath_prepend(tmp_path)
    installed = Plugins(tmp_path)
    yield installed
    for module in installed.modules:
        sys.modules.pop(module, None)


def config(use: str = "tickets", **settings: object) -> HandlerConfig:
    return HandlerConfig(name="mine", use=use, settings=settings)


def problems_of(handler: HandlerConfig) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        handlers.load(handler)
    return caught.value.problems


async def test_a_class_is_built_with_its_settings_and_called_by_its_own_methods(
    plugins: Plugins, tmp_path: Path
) -> None:
    plugins.install(GOOD, target="Tickets")
    loaded = handlers.load(config(queue="support", folder=str(tmp_path)))
    await loaded.open()
    await loaded.handle(ENVELOPE)
    assert loaded.handle_batch is not None
    await loaded.handle_batch([ENVELOPE, ENVELOPE])
    await loaded.reopen()
    await loaded.close()
    assert loaded.name == "mine"
    assert loaded.handler.calls == ["open", "u-1", ["u-1", "u-1"], "reopen", "close"]
    assert (loaded.handler.settings.queue, loaded.handler.settings.folder) == ("support", tmp_path)


async def test_a_class_with_handle_alone_has_no_batches_and_nothing_to_open(plugins: Plugins) -> None:
    plugins.install("class Plain:\n    async def handle(self, envelope):\n        self.got = envelope", target="Plain")
    loaded = handlers.load(config())
    assert loaded.handle_batch is None
    await loaded.open()
    await loaded.handle(ENVELOPE)
    await loaded.reopen()
    await loaded.close()
    assert loaded.handler.got is ENVELOPE


async def test_a_coroutine_function_is_called_on_the_loop(plugins: Plugins) -> None:
    source = """
        import threading
        calls = []
        async def on_event(envelope):
            calls.append((envelope, threading.get_ident()))
    """
    plugins.install(source, target="on_event")
    loaded = handlers.load(config())
    await loaded.handle(ENVELOPE)
    assert sys.modules["acme"].calls == [(ENVELOPE, threading.get_ident())]
    assert loaded.handle_batch is None


async def test_a_plain_function_runs_in_a_thread_and_its_exceptions_come_through(plugins: Plugins) -> None:
    source = """
        import threading
        from rc_push.errors import Reject
        threads = []
        def on_event(envelope):
            threads.append(threading.get_ident())
            raise Reject("no such ticket")
    """
    plugins.install(source, target="on_event")
    with pytest.raises(Reject, match="no such ticket"):
        await handlers.load(config()).handle(ENVELOPE)
    (thread,) = sys.modules["acme"].threads
    assert thread != threading.get_ident()


async def test_a_decorator_that_hides_a_coroutine_function_loses_no_event(plugins: Plugins) -> None:
    source = """
        got = []
        async def write(envelope):
            got.append(envelope)
        def on_event(envelope):
            return write(envelope)
    """
    plugins.install(source, target="on_event")
    await handlers.load(config()).handle(ENVELOPE)
    assert sys.modules["acme"].got == [ENVELOPE]


@pytest.mark.parametrize(
    ("use", "target", "settings"),
    [
        ("file", "FileHandler", {"path": "/var/log/events.jsonl"}),
        ("forward", "ForwardHandler", {"url": "https://receiver.example/"}),
        ("log", "LogHandler", {}),
        ("team_post", "TeamPostHandler", {"url": "https://hooks.example/x", "text": "{type}"}),
    ],
)
def test_the_built_in_handlers_are_loaded_like_anyones(use: str, target: str, settings: dict[str, object]) -> None:
    assert type(handlers.load(config(use, **settings)).handler).__name__ == target


def test_an_unknown_name_is_answered_with_the_nearest_and_all_that_are_installed(plugins: Plugins) -> None:
    plugins.install(GOOD, target="Tickets")
    (problem,) = problems_of(config("tikets"))
    assert (problem.key, problem.found) == ("handlers.mine.use", "no handler 'tikets' is installed")
    assert re.fullmatch(r"did you mean 'tickets'\? there are: .*file, .*log, .*tickets", problem.remedy)


def test_of_several_the_mistakes_of_all_are_told_also_of_one_that_only_its_own_code_refuses(plugins: Plugins) -> None:
    plugins.install("class on_event:\n    pass", target="on_event")
    with pytest.raises(ConfigError) as caught:
        handlers.load_all([config(), config("log"), config("log", levle="info")])
    assert [(problem.key, problem.remedy) for problem in caught.value.problems] == [
        ("handlers.mine", "see the plug-in"),
        ("handlers.mine.levle", "did you mean 'level'?"),
    ]


def test_a_name_that_two_distributions_offer_is_refused(plugins: Plugins) -> None:
    plugins.install(GOOD, target="Tickets")
    plugins.install(GOOD, target="Tickets", dist="rival")
    (problem,) = problems_of(config(queue="support"))
    assert problem.key == "handlers.mine.use"
    assert re.match(r"'tickets' is offered by .*(acme 1\.2.*rival|rival 1\.2.*acme)", problem.found)
    assert problem.remedy == "uninstall all but one"


@pytest.mark.parametrize(
    ("source", "last_line"),
    [
        ("import no_such_module_of_ours", "No module named 'no_such_module_of_ours'"),
        ("def on_event(:", "SyntaxError"),
        ("pass", "has no attribute 'on_event'"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("class Bare(BaseException): ...\nraise Bare('why')", "Bare: why"),
        ("f = lambda: f()\nf()", "RecursionError"),
        ("raise ValueError('x' * 5_000_000)", "ValueError: xxx"),
        ("class on_event:\n    def __init__(self):\n        1 / 0\n    async def handle(self, e): ...", "ZeroDivision"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_named_with_its_distribution(
    plugins: Plugins, source: str, last_line: str
) -> None:
    plugins.install(source, target="on_event")
    with capture_logs() as logs, pytest.raises(HandlerError) as caught:
        handlers.load(config())
    message = str(caught.value)
    assert message.startswith("handlers.mine: 'tickets' (acme 1.2, acme:on_event) cannot be loaded: ")
    assert last_line in message
    assert "\n" not in message
    assert len(message) < 2000
    assert [entry["event"] for entry in logs] == ["handler_broken"]
    assert logs[0]["exc_info"] is caught.value.__cause__


@pytest.mark.parametrize("source", ["on_event = 5", "class on_event:\n    pass"])
def test_what_is_neither_class_nor_function_is_refused(plugins: Plugins, source: str) -> None:
    plugins.install(source, target="on_event")
    with pytest.raises(HandlerError, match=r"handle\(envelope\)"):
        handlers.load(config())


def test_every_mistake_in_the_settings_is_told_with_its_remedy(plugins: Plugins) -> None:
    plugins.install(GOOD, target="Tickets")
    problems = problems_of(config(folder="relative", level="hihg", size=0, qeue="x", timout_s=1))
    assert {problem.key: (problem.found, problem.remedy) for problem in problems} == {
        "handlers.mine.folder": ("not an absolute path", "it means: where copies go"),
        "handlers.mine.level": ("invalid enum value 'hihg'", "it means: low or high"),
        "handlers.mine.size": ("expected `int` >= 1", "it means: tickets at once"),
        "handlers.mine.qeue": ("unknown setting", "did you mean 'queue'?"),
        "handlers.mine.timout_s": ("unknown setting", "did you mean 'timeout_s'?"),
        "handlers.mine.queue": ("missing", "add it: the queue that gets the tickets"),
    }


def test_a_value_of_the_wrong_type_is_told_without_the_value(plugins: Plugins) -> None:
    plugins.install(GOOD, target="Tickets")
    (problem,) = problems_of(config(queue=["planted-secret"]))
    assert problem.found == "expected `str`, got `array`"
    assert "planted-secret" not in str(problem)


def test_a_plug_in_without_settings_takes_none(plugins: Plugins) -> None:
    plugins.install("def on_event(envelope): ...", target="on_event")
    (problem,) = problems_of(config(colour="red"))
    assert (problem.key, problem.remedy) == ("handlers.mine.colour", "remove it: this handler has no settings")


def test_a_plug_ins_own_check_of_its_settings_is_a_problem_too(plugins: Plugins) -> None:
    source = """
        import msgspec
        class Checked:
            class Settings(msgspec.Struct):
                low: int
                high: int
                def __post_init__(self):
                    if self.low > self.high:
                        raise ValueError("low is above high")
            def __init__(self, settings): ...
            async def handle(self, envelope): ...
    """
    plugins.install(source, target="Checked")
    (problem,) = problems_of(config(low=2, high=1))
    assert (problem.key, problem.found) == ("handlers.mine.low", "low is above high")
    assert problem.remedy == "see the settings of 'tickets'"


def test_a_plug_ins_own_check_can_name_the_remedy(plugins: Plugins) -> None:
    source = """
        import msgspec
        class Checked:
            class Settings(msgspec.Struct):
                def __post_init__(self):
                    raise ValueError("low is above high; swap them")
            def __init__(self, settings): ...
            async def handle(self, envelope): ...
    """
    plugins.install(source, target="Checked")
    (problem,) = problems_of(config())
    assert (problem.found, problem.remedy) == ("low is above high", "swap them")


SECRETIVE = """
    from typing import Annotated
    import msgspec
    from rc_push.config import Secret

    class Secretive:
        class Settings(msgspec.Struct):
            token: Annotated[Secret, msgspec.Meta(description="the token")]
            spare: Secret | None = None
            more: dict[str, Secret] = {}
        def __init__(self, settings):
            self.settings = settings
        async def handle(self, envelope): ...
"""


@pytest.fixture
def secretive(plugins: Plugins) -> None:
    plugins.install(SECRETIVE, target="Secretive")


def test_a_secret_of_a_plug_in_comes_from_where_the_secrets_of_accounts_come_from(
    secretive: None, tmp_path: Path
) -> None:
    for name in ("own", "cred"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"PLANTED-{name}\n")
    environ = {"TOKEN": "PLANTED-env", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    table = {"token": {"env": "TOKEN"}, "spare": {"file": f"{tmp_path}/own"}, "more": {"x": {"credential": "cred"}}}
    loaded = handlers.load(config(**table), environ)
    settings = loaded.handler.settings
    assert settings.token.reveal() == "PLANTED-env"
    assert settings.spare.reveal() == "PLANTED-own"
    assert settings.more["x"].reveal() == "PLANTED-cred"
    assert "PLANTED" not in repr(settings)
    assert not loaded.warnings


def test_a_secret_in_the_file_itself_works_with_a_warning(secretive: None) -> None:
    loaded = handlers.load(config(token="PLANTED"), {})
    assert loaded.handler.settings.token.reveal() == "PLANTED"
    (warning,) = loaded.warnings
    assert warning.warning
    assert (warning.key, warning.found) == ("handlers.mine.token", "a secret in the file itself")
    assert "{ env = " in warning.remedy


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"env": "NO_SUCH"}, "the environment variable NO_SUCH is not set"),
        ({"evn": "PLANTED"}, "a table"),
        ({"file": "/nowhere/secret"}, "/nowhere/secret cannot be read: no such file or directory"),
        ("PLANTED\nPLANTED", "it is not one line of plain text"),
        ("", "it is empty"),
        (["PLANTED"], "a list"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_without_its_text(secretive: None, written: object, found: str) -> None:
    (problem,) = problems_of(config(token=written))
    assert (problem.key, problem.found) == ("handlers.mine.token", found)
    assert problem.remedy
    assert "PLANTED" not in str(problem)


def test_a_secret_in_a_file_that_others_can_read_is_refused(secretive: None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o644)
    (problem,) = problems_of(config(token={"file": str(path)}))
    assert problem.found == f"{path} can be read by others (mode 0644)"
    assert problem.remedy == f"chmod 600 {path}"


def test_a_warning_and_a_mistake_are_told_together(secretive: None) -> None:
    problems = problems_of(config(token="PLANTED", spare={"env": "NO_SUCH"}))
    assert [(problem.key, problem.warning) for problem in problems] == [
        ("handlers.mine.token", True),
        ("handlers.mine.spare", False),
    ]


def test_a_setting_without_a_description_is_told_by_its_type(plugins: Plugins) -> None:
    source = """
        from typing import Annotated
        import msgspec
        class Bare:
            class Settings(msgspec.Struct):
                size: int
                share: Annotated[float, msgspec.Meta(ge=0)]
            def __init__(self, settings): ...
            async def handle(self, envelope): ...
    """
    plugins.install(source, target="Bare")
    assert [problem.remedy for problem in problems_of(config())] == ["add it: int", "add it: float"]


def test_settings_of_a_type_that_a_file_cannot_hold_are_the_plug_ins_mistake(plugins: Plugins) -> None:
    source = """
        import msgspec
        class Odd:
            class Settings(msgspec.Struct):
                lock: range
            async def handle(self, envelope): ...
    """
    plugins.install(source, target="Odd")
    with (
        capture_logs(),
        pytest.raises(HandlerError, match=r"cannot be loaded: .*a setting cannot be of the type range"),
    ):
        handlers.load(config(lock="x"))


class Failing:
    """Fails wherever it can."""

    async def __aenter__(self) -> None:
        raise OSError(5, "device is gone")

    async def __aexit__(self, *exc: object) -> None:
        raise OSError(5, "device is gone")

    async def handle(self, envelope: Envelope) -> None:
        raise OSError(5, "device is gone")

    def reopen(self) -> None:
        raise OSError(5, "device is gone")


async def test_a_handler_that_cannot_be_opened_is_named() -> None:
    with (
        capture_logs(),
        pytest.raises(HandlerError, match=r"handlers\.mine: cannot be opened: OSError.*device is gone"),
    ):
        await handlers.adapt("mine", Failing()).open()


async def test_a_handler_that_fails_to_close_or_reopen_is_logged_and_stops_nobody() -> None:
    with capture_logs() as logs:
        await handlers.adapt("mine", Failing()).close()
        await handlers.adapt("mine", Failing()).reopen()
    told = [entry["error"] for entry in logs if entry["event"] == "handler_error"]
    assert [line.split(":")[0:2] for line in told] == [
        ["handlers.mine", " cannot be closed"],
        ["handlers.mine", " cannot be reopened"],
    ]


class Hanging:
    """Never comes to an end."""

    async def __aenter__(self) -> None:
        await asyncio.Event().wait()

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.Event().wait()

    async def handle(self, envelope: Envelope) -> None: ...

    async def reopen(self) -> None:
        await asyncio.Event().wait()


async def test_a_handler_that_never_opens_or_closes_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "OPEN_WITHIN_S", 0.01)
    monkeypatch.setattr(handlers, "CLOSE_WITHIN_S", 0.01)
    with pytest.raises(UnreachableError, match=r"^handlers\.mine: not opened within 0\.01 s; look"):
        await handlers.adapt("mine", Hanging()).open()
    with capture_logs() as logs:
        await handlers.adapt("mine", Hanging()).reopen()
        await handlers.adapt("mine", Hanging()).close()
    assert [str(entry["error"]).partition(";")[0] for entry in logs] == [
        "handlers.mine: not reopened within 0.01 s",
        "handlers.mine: not closed within 0.01 s",
    ]


async def test_what_a_handler_raises_at_its_end_is_not_taken_for_our_stop_and_our_stop_not_for_its() -> None:
    class Cancelling(Failing):
        async def __aenter__(self) -> None:
            raise asyncio.CancelledError

        async def __aexit__(self, *exc: object) -> None:
            raise asyncio.CancelledError

    with capture_logs() as logs:
        with pytest.raises(HandlerError, match=r"cannot be opened: asyncio\.exceptions\.CancelledError"):
            await handlers.adapt("mine", Cancelling()).open()
        await handlers.adapt("mine", Cancelling()).close()
    assert [entry["event"] for entry in logs] == ["handler_broken", "handler_broken", "handler_error"]

    opening = asyncio.create_task(handlers.adapt("mine", Hanging()).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_a_generator_in_place_of_a_function_would_lose_every_event_and_is_refused() -> None:
    async def shout(envelope: Envelope) -> AsyncIterator[None]:
        yield

    class Batches:
        def handle(self, envelope: Envelope) -> None: ...

        def handle_batch(self, envelopes: Sequence[Envelope]) -> Iterator[None]:
            yield

    for handler in (shout, Batches()):
        with pytest.raises(HandlerError, match="has a yield in it, so that calling it does nothing; remove it"):
            handlers.adapt("mine", handler)


async def test_what_handle_raises_comes_through_unchanged() -> None:
    with pytest.raises(OSError, match="device is gone"):
        await handlers.adapt("mine", Failing()).handle(ENVELOPE)


class Looking:
    """Says, when asked, what the test has put there."""

    def __init__(self, found: object) -> None:
        self.found = found

    async def check(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def handle(self, envelope: Envelope) -> None: ...


async def test_a_handler_that_looks_tells_what_it_found() -> None:
    assert await handlers.adapt("mine", Looking("all is well")).check() == "all is well"
    assert await handlers.adapt("mine", Looking(None)).check() == ""


async def test_a_handler_may_look_in_a_thread() -> None:
    class Blocking(Looking):
        def check(self) -> str:
            return threading.current_thread().name

    assert await handlers.adapt("mine", Blocking("")).check() == "handler-mine-0"


async def test_a_handler_that_does_not_look_has_found_nothing() -> None:
    assert await handlers.adapt("mine", Failing()).check() == ""


@pytest.mark.parametrize("error", [HandlerError, UnreachableError])
async def test_what_a_look_found_wrong_is_told_with_the_handlers_name(error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^handlers\.mine: no good; mend it$"):
        await handlers.adapt("mine", Looking(error("no good; mend it"))).check()


async def test_a_look_that_breaks_is_the_plug_ins_mistake() -> None:
    with capture_logs(), pytest.raises(HandlerError, match=r"handlers\.mine: cannot be checked: KeyError"):
        await handlers.adapt("mine", Looking(KeyError("x"))).check()


def test_a_template_among_the_settings_is_compiled_and_its_mistakes_are_told_with_their_place(plugins: Plugins) -> None:
    source = """
        from typing import Annotated
        import msgspec
        from rc_push.templates import Template
        class Telling:
            class Settings(msgspec.Struct):
                line: Annotated[Template, msgspec.Meta(description="what is told")]
                more: Annotated[Template | None, msgspec.Meta(description="even more")] = None
            def __init__(self, settings):
                self.settings = settings
            async def handle(self, envelope): ...
    """
    plugins.install(source, target="Telling")
    settings = handlers.load(config(line="{type} {body.text}")).handler.settings
    assert (settings.line.render(ENVELOPE), settings.more) == ("post.added ", None)
    assert {
        problem.key: (problem.found, problem.remedy) for problem in problems_of(config(line="{type} {x", more=5))
    } == {
        "handlers.mine.line": (
            "at character 8: a { that is never closed; write {{ for the character",
            "it means: what is told",
        ),
        "handlers.mine.more": ("not a text", "it means: even more"),
    }
