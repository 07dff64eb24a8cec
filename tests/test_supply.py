"""Where does what we stand on come from? Every package is locked with its hashes, and all of it can be named."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SBOM = runpy.run_path(str(ROOT / "package/sbom.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = PYPROJECT["dependency-groups"]
LOCKS = {path.stem: path for path in sorted((ROOT / "requirements").glob("*.txt"))}
# Packages that do not say under which licence they are; their repositories do.
UNLICENSED = {"observable", "ringcentral"}


def entries(lock):
    return list(SBOM["locked"](LOCKS[lock].read_text("utf-8")))


def versions(lock):
    """Return what the lock file names: one version each, or one for some Pythons and another for others."""
    found = {}
    for entry in entries(lock):
        (pin,) = entry.requirement.specifier
        found.setdefault(entry.name, []).append(pin.version)
    return found


def covers(lock, requirement):
    wanted = Requirement(requirement)
    pins = versions(lock).get(canonicalize_name(wanted.name), []) if lock in LOCKS else []
    return any(wanted.specifier.contains(pin, prereleases=True) for pin in pins)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_to_a_version_and_to_its_hashes(lock):
    text = LOCKS[lock].read_text("utf-8")
    assert not re.search(r"https?:|--index|--find-links|--trusted|^-|@", text, re.MULTILINE), "from nowhere else"
    for entry in entries(lock):
        assert [pin.operator for pin in entry.requirement.specifier] == ["=="], entry
        assert entry.hashes, entry


def test_what_an_installation_needs_is_locked_and_so_is_each_group():
    missing = [name for name in PYPROJECT["project"]["dependencies"] if not covers("run", name)]
    missing += [f"{group}: {name}" for group, names in GROUPS.items() for name in names if not covers(group, name)]
    assert not missing, "`make lock` renews the files"


def test_an_installation_for_development_is_no_other_one():
    for lock in LOCKS.keys() - {"run"}:
        for name, pins in versions(lock).items():
            assert pins == versions("run").get(name, pins), f"{name} in {lock}.txt"


def test_the_bill_of_materials_is_whole_and_valid():
    bom = SBOM["bom_of"](iter(entries("run")))
    text = JsonV1Dot6(bom).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    components = {component["name"]: component for component in told["components"]}
    assert components.keys() == {
        entry.name for entry in entries("run") if not entry.requirement.marker or entry.requirement.marker.evaluate()
    }
    assert {name for name, component in components.items() if not component.get("licenses")} <= UNLICENSED
    assert all(component["externalReferences"][0]["hashes"] for component in components.values())
    root = told["metadata"]["component"]
    assert (root["name"], root["type"]) == ("rc-push", "application")
    needed = {node["ref"]: node.get("dependsOn", []) for node in told["dependencies"]}
    direct = {canonicalize_name(Requirement(name).name) for name in PYPROJECT["project"]["dependencies"]}
    assert {ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in needed[root["bom-ref"]]} == direct


def test_a_bill_is_not_made_of_another_installation():
    other = SBOM["locked"]("click==0.1 \\\n    --hash=sha256:" + "0" * 64)
    with pytest.raises(SystemExit, match=r"click .* is installed, and not==0.1"):
        SBOM["bom_of"](other)
    with pytest.raises(SystemExit, match=r"is in run\.txt and not installed"):
        SBOM["bom_of"](SBOM["locked"]("no-such-package==1"))


def test_every_rule_that_is_ignored_has_its_reason():
    section = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.ruff.lint]")[2].partition("[tool.mypy]")[0]
    ignored = re.findall(r'^  "([A-Z]+[0-9]*)",(.*)$', section, re.MULTILINE)
    assert len(ignored) > 30
    assert not [rule for rule, reason in ignored if not re.match(r" +# \w", reason)]


def test_every_rule_of_security_that_is_ignored_in_the_program_has_its_reason():
    lines = [
        line
        for path in (ROOT / "rc_push").rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"noqa: (?:[A-Z0-9]+, )*S\d", line)
    ]
    assert lines
    assert not [line for line in lines if not re.search(r"noqa: [A-Z0-9, ]+ - \w", line)]
