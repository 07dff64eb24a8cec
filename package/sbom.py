"""What is in an installation? A bill of materials (CycloneDX, JSON) of what `pip install .` brings: `make sbom`.

Names, versions and hashes are those of requirements/run.txt; licences and who needs whom are what the packages say of
themselves. So it is made in an environment that was installed from that file.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/run.txt"
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of the lock file: its *requirement*, and the SHA-256 of each file that may be installed for it."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name in its one spelling."""
        return canonicalize_name(self.requirement.name)


def locked(text: str) -> Iterator[Locked]:
    """Yield what the lock file *text* names, whether it is for this Python and system or not."""
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.startswith("#"):
            named, _, _ = entry.partition("--hash")
            yield Locked(Requirement(named.strip()), tuple(HASH.findall(entry)))


def bom_of(entries: Iterator[Locked]) -> Bom:
    """Return the bill of *entries*, as far as they are for this Python. Raises SystemExit where it would be untrue."""
    here = {
        entry.name: entry for entry in entries if not entry.requirement.marker or entry.requirement.marker.evaluate()
    }
    installed = {name: _installed(entry) for name, entry in here.items()}
    components = {name: _component(found, here[name].hashes) for name, found in installed.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    root = _component(distribution(project["name"]), (), ComponentType.APPLICATION)
    bom = Bom(components=components.values())
    bom.metadata.component = root
    for component, found in [
        (root, distribution(project["name"])),
        *((components[n], installed[n]) for n in installed),
    ]:
        needed = {name for name in _needed(found) if name in components}
        bom.register_dependency(component, [components[name] for name in sorted(needed)])
    return bom


def _installed(entry: Locked) -> Distribution:
    try:
        found = distribution(entry.name)
    except PackageNotFoundError:
        sys.exit(f"{entry.name} is in {LOCK.name} and not installed; install from it first")
    if not entry.requirement.specifier.contains(found.version, prereleases=True):
        sys.exit(
            f"{entry.name} {found.version} is installed, and not{entry.requirement.specifier}; install from it first"
        )
    return found


def _component(found: Distribution, hashes: tuple[str, ...], kind: ComponentType = ComponentType.LIBRARY) -> Component:
    name = canonicalize_name(found.metadata["Name"])
    purl = PackageURL("pypi", name=name, version=found.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="each file that may be installed",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in hashes],
    )
    return Component(
        type=kind,
        name=name,
        version=found.version,
        bom_ref=purl.to_string(),
        purl=purl,
        description=found.metadata["Summary"],
        licenses=[licence] if (licence := _licence_of(found)) else [],
        external_references=[files] if hashes else [],
    )


def _licence_of(found: Distribution) -> License | None:
    """Return what *found* says of its licence: an SPDX expression, else a text of its own, else its classifiers."""
    told = found.metadata["License-Expression"] or (found.metadata["License"] or "").partition("\n")[0].strip()
    classified = [
        line.rpartition(" :: ")[2] for line in found.metadata.get_all("Classifier", []) if "License ::" in line
    ]
    text = told or " AND ".join(classified)
    return (
        LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED)
        if text
        else None
    )


def _needed(found: Distribution) -> Iterator[str]:
    for requirement in map(Requirement, found.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


if __name__ == "__main__":
    print(JsonV1Dot6(bom_of(locked(LOCK.read_text("utf-8")))).output_as_string(indent=2))
