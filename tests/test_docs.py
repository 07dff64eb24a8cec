"""The documentation says what the code does: every key, command, exit code, setting, reason and type, and no other."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec
import pytest
from source import parsed

import rc_push
from rc_push import __main__, cli, config, errors, event_types, handlers, templates
from rc_push.cli.hops import Hop, Level
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, Reject, Retry
from rc_push.journal import salvage
from rc_push.protocol import codes
from rc_push.reconcile import State
from rc_push.routing import Route
from rc_push.simulator import faults
from rc_push.simulator.admin import Admin
from rc_push.simulator.emitter import Emitter
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

CODE = Path(rc_push.__file__).parent
ROOT = CODE.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TABLES = {
    **{f"[{kind}.NAME]": table for kind, table in config.NAMED_TABLES.items()},
    "[handlers.NAME.retry]": config.RetryConfig,
    **{f"[{name}]": table for name, table in config.TABLES.items()},
}
NO_DEFAULT = "–"  # noqa: RUF001 - as people write it
# How a line is logged, and what its level is called.
LEVELS = {level: level for level in ("debug", "info", "warning", "error", "critical")} | {
    "log": "the handler's `level`"
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_pages_are_found():
    assert {"README.md", "docs/configuration.md", "docs/handlers.md"} <= PAGES.keys()


# -------------------------------------------------------------------------------------------------- reading Markdown


def prose(page: str) -> str:
    """Return the page without its blocks of code."""
    return FENCE.sub("", PAGES[page])


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the tables right below *heading*, without the tables' heads."""
    _, found, rest = prose(page).partition(f"# {heading}\n")
    assert found, f"{page} has no heading {heading}"
    section = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    heads = {number for number, line in enumerate(lines[1:]) if re.fullmatch(r"[-|]+", line)}
    kept = [line for number, line in enumerate(lines) if not {number, number - 1} & heads]
    return [[cell.strip() for cell in line.split("|")] for line in kept]


def code_in(text: str) -> list[str]:
    """Return the parts of *text* in backticks."""
    return re.findall(r"`([^`]+)`", text)


def blocks(page: str, *kinds: str) -> list[str]:
    return [code for kind, code in FENCE.findall(PAGES[page]) if kind in kinds]


def code_lines(page: str) -> list[str]:
    """Return what stands as code on the page: the lines of blocks, and what is in backticks."""
    shell = [line for code in blocks(page, "") for line in code.replace("\\\n", " ").splitlines()]
    return [*shell, *code_in(prose(page))]


# ------------------------------------------------------------------------------------------------------ configuration


def written(value: Any) -> str:
    """Return a default as the pages write it."""
    if value is None or value == ():
        return NO_DEFAULT
    return f"`{json.dumps(str(value) if isinstance(value, Path | templates.Template) else value)}`"


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_the_file_is_documented_with_its_default_and_no_other(table):
    documented = {code_in(key)[0]: default for key, default, _ in rows("docs/configuration.md", f"`{table}`")}
    options = [option for option in config.options(TABLES[table]) if option.table is None]
    assert documented == {option.name: written(option.default) for option in options}


@pytest.mark.parametrize("table", TABLES)
def test_what_a_key_takes_is_documented(table):
    meanings = {code_in(key)[0]: meaning for key, _, meaning in rows("docs/configuration.md", f"`{table}`")}
    for option in config.options(TABLES[table]):
        if option.low is not None:
            assert f"{option.low:g} to {option.high:g}" in meanings[option.name]
        if get_origin(option.type) is Literal:
            assert set(code_in(meanings[option.name])) == {f'"{choice}"' for choice in get_args(option.type)}


def test_every_transport_is_documented():
    meanings = {code_in(key)[0]: meaning for key, _, meaning in rows("docs/configuration.md", "`[subscriptions.NAME]`")}
    transports = {code_in(name)[0]: meaning for name, meaning in rows("docs/events.md", "Events")}["rcPush.transport"]
    assert set(code_in(meanings["transport"])) == {f'"{transport}"' for transport in config.TRANSPORTS}
    assert set(code_in(transports)) == set(config.TRANSPORTS)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{page}-{number}")
        for page in PAGES
        for number, (kind, code) in enumerate(FENCE.findall(PAGES[page]))
        if kind == "toml"
    ],
)
def test_examples_of_the_file_have_no_key_that_does_not_exist(code, tmp_path):
    if "entry-points" in code:
        assert tomllib.loads(code)["project"]["entry-points"][handlers.GROUP]
        return
    path = tmp_path / "example.toml"
    path.write_text(code)
    mistakes: list[errors.Problem] = []
    try:
        config.load(path, {})
    except ConfigError as exc:
        mistakes = exc.problems
    # Examples are parts of a file, and their secrets are not here; everything else has to be right.
    missing = ("there is none", "missing", "the environment variable", "$CREDENTIALS_DIRECTORY")
    assert [str(mistake) for mistake in mistakes if not mistake.found.startswith(missing)] == []


# ----------------------------------------------------------------------------------------------------------- commands


def command(name: str) -> click.Command:
    found = cli.cli.get_command(click.Context(cli.cli), name)
    assert found is not None, f"there is no command {name}"
    return found


def options_of(name: str) -> set[str]:
    """Return the options of the command *name*, those of its subcommands included."""
    found = command(name)
    parts = [found, *(found.commands.values() if isinstance(found, click.Group) else ())]
    return {opt for part in parts for parameter in part.params for opt in parameter.opts if opt.startswith("--")}


def arguments_of(name: str) -> set[str]:
    return {parameter.make_metavar(click.Context(command(name))) for parameter in command(name).params
            if isinstance(parameter, click.Argument)}  # fmt: skip


def test_every_command_is_documented_with_its_options_and_no_other():
    documented = {code_in(name)[0]: set(re.findall(r"--[a-z-]+", options))
                  for name, _, options in rows("docs/commands.md", "Commands")}  # fmt: skip
    assert documented == {name: options_of(name) for name in cli.COMMANDS}


def test_every_argument_of_a_command_is_documented():
    for name, _, options in rows("docs/commands.md", "Commands"):
        assert arguments_of(code_in(name)[0]) <= set(code_in(options))


def test_every_command_is_in_the_readme():
    named = {word for name, _ in rows("README.md", "Commands") for word in re.findall("[a-z]+", name)}
    assert set(cli.COMMANDS) <= named


def test_the_options_of_the_simulator_are_documented():
    documented = {code_in(option)[0] for _, option, _ in rows("docs/simulator.md", "Try it")}
    assert documented == options_of("simulate") | options_of("trigger") | arguments_of("trigger")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_commands_and_options_that_exist(page):
    for line in code_lines(page):
        for call in re.findall(r"(?:^|[\s;/])rc-push ((?:-c \S+ )?[a-z].*)", line):
            words = shlex.split(re.split(r"[|>]", call)[0], comments=True)
            words = words[2:] if words[0] == "-c" else words
            options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
            assert options <= options_of(words[0]) | {"--help"}, line


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_make_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets
    named = {target for line in code_lines(page) for target in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("page", ["docs/security.md"])
def test_every_test_that_a_page_names_exists_and_every_line_of_its_threats_names_one(page):
    text = PAGES[page]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 50
    for path, name in named:
        assert re.search(rf"def {name}\(", (ROOT / path).read_text("utf-8")), f"{path}::{name}"
    threats = text[text.index("## A hostile event author") : text.index("## What we stand on")]
    rows_of_threats = re.findall(r"^\| .+ \| .* \| (.+) \|$", threats, re.MULTILINE)
    shown = [row for row in rows_of_threats if row not in ("shown by", "the same")]
    assert len(shown) > 30
    assert not [row for row in shown if "::" not in row]


# --------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/operations.md"])
def test_every_exit_code_is_documented_and_no_other(page):
    codes = {value for module in (errors, __main__) for name, value in vars(module).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in rows(page, "Exit codes")} == codes


def test_systemd_does_not_restart_after_the_exit_codes_that_the_page_says():
    unit = (ROOT / "systemd" / "rc-push.service").read_text()
    prevented = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.MULTILINE)[0].split()
    assert [code for code, _, restarts in rows("docs/commands.md", "Exit codes") if restarts == "no"] == prevented


# ----------------------------------------------------------------------------------------------------------- handlers


@pytest.mark.parametrize("name", PROJECT["project"]["entry-points"][handlers.GROUP])
def test_every_setting_of_a_built_in_handler_is_documented_with_its_default(name):
    module, _, attribute = PROJECT["project"]["entry-points"][handlers.GROUP][name].partition(":")
    fields = msgspec.structs.fields(getattr(import_module(module), attribute).Settings)
    documented = {code_in(setting)[0]: default for setting, default, _ in rows("docs/handlers.md", f"`{name}`")}
    assert documented == {field.encode_name: NO_DEFAULT if field.required else written(field.default)
                          for field in fields}  # fmt: skip


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Install the package that docs/handlers.md shows."""
    (code,) = (code for code in blocks("docs/handlers.md", "python") if "class Tickets" in code)
    (project,) = (tomllib.loads(block) for block in blocks("docs/handlers.md", "toml") if "entry-points" in block)
    info = tmp_path / "acme_tickets-1.0.dist-info"
    info.mkdir()
    points = project["project"]["entry-points"][handlers.GROUP]
    lines = [f"[{handlers.GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tickets\nVersion: 1.0\n")
    (tmp_path / "acme_tickets.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("acme_tickets", None)


def envelope(payload: bytes) -> Envelope:
    return Envelope("u-1", "post.added", payload, Source("main", "team", "websocket"), 0, 1)


async def test_the_example_handler_does_what_the_page_says(acme):
    handler = handlers.load(HandlerConfig("tickets", "tickets", settings={"queue": "support", "spool": str(acme)}))
    good, bad = envelope(b'{"uuid":"u-1","body":{"text":"Hello"}}'), envelope(b'{"uuid":"u-1"}')
    assert handler.handle_batch is not None
    await handler.open()
    await handler.handle_batch([good, good])
    (acme / "support.txt").rename(acme / "old.txt")
    await handler.reopen()
    await handler.handle(good)
    with pytest.raises(Reject):
        await handler.handle_batch([good, bad])
    (acme / "closed").touch()
    with pytest.raises(Retry):
        await handler.handle(good)
    await handler.close()
    assert (acme / "old.txt").read_text() == "u-1 Hello\n" * 2
    assert (acme / "support.txt").read_text() == "u-1 Hello\n"


async def test_the_example_function_does_what_the_page_says(acme, capsys):
    await handlers.load(HandlerConfig("shout", "shout")).handle(envelope(b"{}"))
    assert capsys.readouterr().out == "POST.ADDED\n"


def test_a_mistake_in_the_settings_of_the_example_handler_is_told_with_its_help(acme):
    with pytest.raises(ConfigError, match="the queue that gets the tickets"):
        handlers.load(HandlerConfig("tickets", "tickets"))


def test_every_short_name_of_templates_is_documented_and_no_other():
    documented = {code_in(name)[0].strip("{}") for name, _ in rows("docs/handlers.md", "Short names")}
    assert documented == templates.SHORT_NAMES.keys()


def test_the_examples_of_templates_give_what_the_page_says():
    caller = {"from": {"phoneNumber": "+12025550143"}}
    body = {"text": "Hello", "groupId": "990011223344", "parties": [{"id": "p-1"} | caller, {"id": "p-2"}]}
    payload = json.dumps({"uuid": "u-1", "event": "/x", "body": body}).encode()
    event = Envelope("u-1", "post.added", payload, Source("main", "team", "websocket"), 1_795_428_000_190, 1042)
    examples = dict(rows("docs/handlers.md", "Templates"))
    short_names = {name: gives.rpartition(": ")[2] for name, gives in rows("docs/handlers.md", "Short names")
                   if "your name" not in gives}  # fmt: skip
    for template, gives in (examples | short_names).items():
        assert templates.Template(code_in(template)[0]).render(event) == gives


def test_every_attribute_of_an_envelope_is_documented():
    named = {name for names, *_ in rows("docs/handlers.md", "Writing one") for name in code_in(names)}
    inner = {"source", "received_at_ms"}
    public = {name for name in vars(Envelope) if not name.startswith("_")} - inner
    assert {"uuid", "body", "to_json"} <= public
    assert public <= {name.removesuffix("()") for name in named}


# ------------------------------------------------------------------------------------------------------------ routing


@pytest.fixture
def routed(tmp_path, monkeypatch, capfd):
    """Put the files of docs/handlers.md, "Routing", into the working directory; give what a command prints."""
    monkeypatch.chdir(tmp_path)
    (configuration,) = (code for code in blocks("docs/handlers.md", "toml") if "[handlers.urgent]" in code)
    (fixture,) = blocks("docs/handlers.md", "json")
    (tmp_path / "rc-push.toml").write_text(configuration)
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "lift.json").write_text(fixture)
    (tmp_path / "post.json").write_text(json.dumps(json.loads(fixture)["event"]))

    def run(line: str) -> list[str]:
        __main__.main(["-c", "rc-push.toml", *shlex.split(line)[1:]])
        return capfd.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("name", ["explain", "test"])
def test_the_examples_of_routing_print_what_the_page_says(routed, name):
    (shown,) = (code for code in blocks("docs/handlers.md", "") if code.startswith(f"$ rc-push {name} "))
    line, *expected = shown.splitlines()
    printed = routed(line.removeprefix("$ "))
    if name == "explain":  # the first line has the time
        assert printed.pop(0).split()[3:] == expected.pop(0).split()[3:]
    assert printed == expected


def test_the_example_of_a_call_that_was_missed_works(routed, tmp_path):
    missed = {"uuid": "1", "event": "/x", "body": {"telephonySessionId": "s", "parties": [{"missedCall": True}]}}
    (tmp_path / "call.json").write_text(json.dumps(missed))
    decisions = [json.loads(line) for line in routed("rc-push explain call.json --subscription calls --json")]
    assert [told["handler"] for told in decisions if told["goes"]] == ["archive", "missed"]


def test_every_rule_is_documented_in_the_order_in_which_it_is_looked_at():
    named = [code_in(rule)[0] for rule, _ in rows("docs/handlers.md", "Routing")]
    body = b'{"uuid":"1","event":"/x"}'
    rules = HandlerConfig("h", "log", types=("*",), events=("*",), subscriptions=("team",), where="`true`")
    assert named == list(Route(rules).decide(envelope(body)).rules)


# ------------------------------------------------------------------------------------------------------------- events


def test_every_type_is_documented_and_no_other():
    messages = {f"{word}.{verb}" for word in event_types.BY_MESSAGE_TYPE.values() for verb in ("received", "sent")}
    possible = {
        *event_types.BY_EVENT_TYPE.values(),
        *(name for _, name in event_types.BY_KEY),
        *(name for _, name in event_types.BY_URI),
        *messages,
        event_types.OTHER,
        event_types.REMINDER,
    }
    assert {name for names, _ in rows("docs/events.md", "Types") for name in code_in(names)} == possible


def test_every_field_of_an_event_is_documented():
    line = json.loads(envelope(b'{"uuid":"u-1","event":"/x"}').to_json())
    documented = {name for names, _ in rows("docs/events.md", "Events") for name in code_in(names)}
    ours = {name.removeprefix("rcPush").removeprefix(".") for name in documented}
    assert {"uuid", "event", "timestamp", "subscriptionId", "ownerId", "body"} <= documented
    assert line["rcPush"].keys() <= ours


def gap_reasons() -> set[str]:
    """Return every reason that the code gives to a gap; of an f-string, what stands before its first field."""
    found: set[str] = set()
    for path in CODE.rglob("*.py"):
        for function in ast.walk(parsed(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= {text for call in gap_calls(function) for text in reason_in(call, function)}
    return found


def gap_calls(function: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("Gap", "_gap", "gap", "_lose", "_doubt"):  # the last two pass it on
                yield node


def reason_in(call: ast.Call, function: ast.AST) -> set[str]:
    """Return the texts among the arguments of *call*, but for its certainty; a variable is looked up."""
    names = {argument.id for argument in call.args if isinstance(argument, ast.Name)} & {"reason"}
    assigned = [node.value for node in ast.walk(function) if isinstance(node, ast.Assign)
                and any(isinstance(target, ast.Name) and target.id in names for target in node.targets)]  # fmt: skip
    texts = {text_of(node) for node in (*call.args, *assigned)}
    return {text for text in texts if text and text not in ("certain", "possible")}


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return text_of(node.values[0])
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_every_reason_of_a_gap_is_documented_and_no_other():
    documented = {code_in(reason)[0].partition("…")[0] for reason, *_ in rows("docs/events.md", "Gaps")}
    assert "connection lost" in gap_reasons()
    assert documented == gap_reasons() | {salvage.REASON}  # written by SQL


# ------------------------------------------------------------------------------------------------------------ network


def test_every_code_is_documented_with_what_is_done_and_no_other():
    documented = [(code_in(code)[0], status, does, means)
                  for code, status, does, means in rows("docs/network.md", "What each code means")]  # fmt: skip
    assert documented == [(name, str(code.status or NO_DEFAULT), code.action, code.means)
                          for name, code in codes.CODES.items()]  # fmt: skip


def test_every_hop_of_doctor_is_documented_and_no_other():
    code = "\n".join(path.read_text("utf-8") for path in CODE.glob("cli/doctor*.py"))
    told = re.findall(r"report\.(?:ok|failed|skipped)\(\s*\"(\w+)\"", code)
    told += re.findall(r"Hop\(\s*\"\w+\", \"(\w+)\"", code)
    assert {code_in(hop)[0] for hop, _ in rows("docs/network.md", "`doctor`")} == set(told) | {"connect"}


def test_what_doctor_prints_as_json_is_documented():
    named = set(code_in(prose("docs/network.md")))
    assert set(Hop("ok", "dns", "x", "y").to_dict()) | {"host", "port", "protocol", "ask"} <= named
    assert set(get_args(Level)) <= named


def test_every_state_of_a_subscription_at_ringcentral_is_documented_and_no_other():
    documented = {code_in(state)[0] for state, _ in rows("docs/network.md", "Subscriptions at RingCentral")}
    assert documented == set(get_args(State))


# ---------------------------------------------------------------------------------------------------------- simulator


def test_every_knob_is_documented_with_its_default_and_its_choices():
    table = {code_in(knob)[0]: (default, meaning) for knob, default, meaning in rows("docs/simulator.md", "Knobs")}
    shown = {name: json.loads(json.dumps(value)) for name, value in msgspec.structs.asdict(Knobs()).items()}
    assert table.keys() == shown.keys()
    knobs = Knobs()
    knobs.turn({name: "" if default == "(none)" else code_in(default)[0] for name, (default, _) in table.items()})
    assert knobs == Knobs()
    for field in msgspec.structs.fields(Knobs):
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        default, meaning = table[field.name]
        assert {str(choice) for choice in choices} <= {*code_in(meaning), *code_in(default)}, field.name


def test_every_fault_is_documented_with_its_fields_and_no_other():
    common = set(faults.Fault.__struct_fields__)
    expected = {
        str(kind.__struct_config__.tag): {
            field.encode_name for field in msgspec.structs.fields(kind) if field.name not in common
        }
        for kind in get_args(faults.AnyFault)
    }
    documented = {code_in(name)[0]: set(code_in(fields)) for name, fields, _ in rows("docs/simulator.md", "Faults")}
    assert documented == expected


def test_every_kind_of_garbage_is_documented():
    meanings = {code_in(name)[0]: code_in(meaning) for name, _, meaning in rows("docs/simulator.md", "Faults")}
    assert set(faults.GARBAGE) == set(meanings["garbage"])


def test_every_call_of_the_simulator_is_documented_and_no_other():
    world = Simulator().state
    routes = Admin(world, Emitter(world)).routes()
    expected = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert {code_in(call)[0] for call, _ in rows("docs/simulator.md", "Calls")} == expected


# ---------------------------------------------------------------------------------------------------------- log lines


def logged() -> Iterator[tuple[str, str, set[str | None]]]:
    """Yield name, level and fields of every line that the code logs. A field None stands for more of them."""
    for path in CODE.rglob("*.py"):
        for node in ast.walk(parsed(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func.value) in ("log", "_log") and node.func.attr in LEVELS:
                name = next(arg.value for arg in node.args if isinstance(arg, ast.Constant))
                yield str(name), LEVELS[node.func.attr], {keyword.arg for keyword in node.keywords} - {"exc_info"}


def test_every_line_of_the_log_is_documented_with_its_level_and_fields_and_no_other():
    documented = {}
    for heading in headings("docs/logs.md")[1:]:
        for name, level, fields, *_ in rows("docs/logs.md", heading):
            documented[code_in(name)[0]] = (set(level.split(", ")), set(code_in(fields)))
    found: dict[str, tuple[set[str], set[str | None]]] = {}
    for name, level, fields in logged():
        levels, known = found.setdefault(name, (set(), set()))
        levels.add(level)
        known |= fields
    assert documented.keys() == found.keys()
    for name, (levels, known) in found.items():
        assert documented[name][0] == levels, name
        assert documented[name][1] >= known - {None}, name
        assert None in known or documented[name][1] == known, name


def test_every_line_of_the_log_says_what_it_means():
    for heading in headings("docs/logs.md")[1:]:
        for name, level, _, means, do in rows("docs/logs.md", heading):
            assert means, name
            assert do or level in ("info", "debug", LEVELS["log"]) or name == "`loop_goes_on`", name


# ----------------------------------------------------------------------------------------------- links and examples


def anchors(page: str) -> set[str]:
    """Return what links can point at, by the rule of GitHub."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(str(found.resolve().relative_to(ROOT))), target


@pytest.mark.parametrize("page", PAGES)
def test_json_examples_are_json(page):
    for code in blocks(page, "json", ""):
        if code.startswith("{"):
            for text in [code] if "\n " in code else code.splitlines():
                json.loads(text.replace("{…}", "{}"))
