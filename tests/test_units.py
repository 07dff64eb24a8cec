"""Are the files in systemd/ right, and as closed as they are meant to be? By systemd's own judgement."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNITS = ("rc-push.service", "rc-push@.service")
DROP_INS = sorted(path.name for path in (SYSTEMD / "drop-ins").iterdir())
# The exposure that `systemd-analyze security` computes, in tenths; 100 is an open barn door.
EXPOSURE_MAX = 15
# Needs a newer systemd than Debian 12's.
NEWER = {"backoff.conf"}

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (systemd)")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def verify(tmp_path):
    """Return a function that lets systemd judge *unit* with *drop_ins*, with programs that exist."""

    def verify(unit, *drop_ins):
        text = (SYSTEMD / unit).read_text().replace("/usr/bin/rc-push", shutil.which("true"))
        name = unit.replace("@", "@one")
        (tmp_path / name).write_text(text)
        folder = tmp_path / f"{name}.d"
        folder.mkdir()
        for drop_in in drop_ins:
            (folder / drop_in).write_text((SYSTEMD / "drop-ins" / drop_in).read_text())
        return run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name))

    return verify


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(verify, unit):
    assert verify(unit) == (0, "")


@needs_systemd
@pytest.mark.parametrize("drop_in", DROP_INS)
def test_systemd_has_nothing_to_say_against_a_drop_in(verify, drop_in):
    code, said = verify("rc-push.service", drop_in)
    if drop_in in NEWER:
        assert all(re.search("Unknown key( name)? 'Restart", line) for line in said.splitlines()), said
    else:
        assert (code, said) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_closed(unit):
    path = str(SYSTEMD / unit)
    code, said = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", path)
    assert code == 0, said
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert exposure, said
    assert float(exposure[1]) * 10 <= EXPOSURE_MAX


@needs_systemd
def test_what_is_shown_as_closed_is_measured():
    """See that the judgement is one: without a line, it is worse."""
    code, _ = run("systemd-analyze", "security", "--offline=true", "--threshold=5", str(SYSTEMD / "rc-push.service"))
    assert code != 0


def test_an_instance_differs_from_the_service_by_its_name_alone():
    service, instance = (settings_of((SYSTEMD / unit).read_text()) for unit in UNITS)
    replaced = [
        line.replace("rc-push-%i", "rc-push").replace("/etc/rc-push/%i/", "/etc/rc-push/").replace(" (%i)", "")
        for line in instance
    ]
    assert replaced == service


def settings_of(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("drop_in", DROP_INS)
def test_a_drop_in_says_where_it_goes(drop_in):
    text = (SYSTEMD / "drop-ins" / drop_in).read_text()
    assert text.startswith(f"# /etc/systemd/system/rc-push.service.d/{drop_in}: ")
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)
    assert parser.sections() == ["Service"]


def test_no_secret_stands_in_the_environment_of_a_unit():
    for unit in UNITS:
        named = [line for line in (SYSTEMD / unit).read_text().splitlines() if "Environment" in line]
        assert len(named) == 1
        assert re.fullmatch(r"Environment=(MALLOC_[A-Z_]+=\d+ ?)+", named[0])


def test_it_is_tried_again_but_for_what_does_not_mend_itself():
    text = (SYSTEMD / "rc-push.service").read_text()
    assert "\nRestart=always\n" in text
    assert "\nRestartPreventExitStatus=77 78\n" in text
