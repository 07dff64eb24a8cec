"""The example in `examples/` installs, and its own tests pass, as its reader would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "acme-tickets"
# From what is installed here, without a download.
INSTALL = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")


@pytest.mark.e2e
def test_the_example_plugin_installs_and_its_tests_pass(tmp_path):
    source, site = tmp_path / "acme-tickets", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    environ = os.environ | {"PYTHONPATH": str(site), "PYTEST_ADDOPTS": ""}
    for words in ([*INSTALL, "--target", str(site), str(source)],):
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    listed = run([sys.executable, "-m", "rc_push", "plugins", "tickets"], environ, tmp_path)
    assert "acme-tickets 1.0" in listed
    assert "the directory that gets the tickets" in listed
    tested = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], environ, source)
    assert "6 passed" in tested


def run(words, environ, folder):
    done = subprocess.run(words, env=environ, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
