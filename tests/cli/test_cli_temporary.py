"""What commands work with that need no file of the user's: a folder, and texts as TOML has them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rc_push.__main__ import main
from rc_push.cli.temporary import temporary_folder
from rc_push.cli.toml import toml

TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


@given(TEXTS | st.lists(TEXTS))
@example("🎉")
@example('\x7f"\\\n\x00')
def test_toml_gives_back_whatever_was_written(value):
    assert tomllib.loads(f"key = {toml(value)}") == {"key": value}


def test_a_folder_goes_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("demo") as folder:
        assert folder.parent == tmp_path
        (folder / "x").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["listen", "/x"], ["demo"]])
def test_where_no_folder_can_be_made_the_remedy_is_told(capfd, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
        assert main(words) == 1
    assert capfd.readouterr().err == (
        "rc-push: no temporary folder can be made: No usable temporary directory found in ['/nonexistent'];"
        " set TMPDIR to a folder that this user can write\n"
    )


@pytest.mark.e2e
def test_demo_works_wherever_its_folder_is(monkeypatch, tmp_path):
    folder = tmp_path / 'a "b" \\ 🎉'
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    command = [sys.executable, "-m", "rc_push", "demo", "--seconds", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, json.loads(done.stdout)["lost"]) == (0, 0)
    assert list(folder.iterdir()) == []
