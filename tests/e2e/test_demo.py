"""`rc-push demo`: ended before its end, it leaves no daemon and no folder behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_leaves_nothing_behind_where_it_is_ended(tmp_path, number):
    """Its daemon would take a SIGHUP for a reload, and a closed terminal sends nothing else."""
    command = (sys.executable, "-u", "-m", "rc_push", "demo", "--seconds", "60")
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        said = "".join(next(process.stdout) for _ in range(3))
        process.send_signal(number)
        try:
            code = process.wait(20)
        finally:
            process.kill()
            is_left = ended(int(re.search(r"daemon with pid (\d+)", said)[1]))
    assert (code, is_left) == (130, False)
    assert list(tmp_path.glob("rc-push-demo-*")) == []


def ended(pid):
    """End the process *pid*; return whether there was one."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
