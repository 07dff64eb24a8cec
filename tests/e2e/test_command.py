"""Real programs, also the worst: whatever one does, its event has a clear end, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import resource
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError, Failed, Reject, Retry, detail_of
from rc_push.handlers.command import process
from rc_push.handlers.hand_over import HandOver, begin_hand_over

pytestmark = pytest.mark.e2e

SOURCE = Source("main", "team", "websocket", "recovered")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
LEAK_RUNS = 3000


def envelope(position=7, text="hi"):
    payload = json.dumps({"uuid": f"u-{position}", "event": "/x", "body": {"text": text}}).encode()
    return Envelope(f"u-{position}", "post.added", payload, SOURCE, 0, position)


def load(program, **settings):
    return handlers.load(HandlerConfig("crm", "command", settings={"program": list(program), **settings}))


def shell(script, *words):
    return ("/bin/sh", "-c", script, "sh", *map(str, words))


def python(script, *words):
    return (sys.executable, "-I", "-S", "-c", script, *map(str, words))


async def ends(program, what=None, within_s=10.0, **settings):
    """Run *program* for one event, or for *what*; return how it ended: None, or the exception."""
    handler = load(program, **settings)
    call = handler.handle(what or envelope()) if not isinstance(what, list) else handler.handle_batch(what)
    try:
        async with asyncio.timeout(within_s):
            await call
    except Exception as exc:  # noqa: BLE001 - it is the answer
        return exc
    return None


def processes_of(group):
    """Return the processes of a group; not those that only wait to be reaped by somebody else."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            state, parent, of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and (state != "Z" or int(parent) == os.getpid()):
                found.append(int(folder.name))
    return found


def commands_with(text):
    """Return the processes whose command line begins with *text*."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and (folder / "cmdline").read_text().replace("\0", " ").startswith(text):
                found.append(int(folder.name))
    return found


async def gone(group):
    """Wait until nothing of a group is left; the system takes a moment to end what was killed."""
    await nothing(lambda: processes_of(group))


async def nothing(find, within_s=5.0):
    """Wait until *find* finds no processes."""
    until = time.monotonic() + within_s
    while left := find():
        assert time.monotonic() < until, f"still there: {left}"
        await asyncio.sleep(0.01)


async def written(path, within_s=10.0):
    """Wait until a program has written a line; return it."""
    until = time.monotonic() + within_s
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < until, f"nothing in {path}"
        await asyncio.sleep(0.01)
    return path.read_text().strip()


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _leaves_nothing():
    """Every test leaves the descriptors and the children that it found."""
    before = descriptors()
    yield
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# ----------------------------------------------------------------------------------------------------- what it is given


async def test_a_program_gets_the_event_as_one_line(tmp_path):
    assert await ends(shell('cat > "$1"', tmp_path / "got")) is None
    assert (tmp_path / "got").read_bytes() == envelope().to_json() + b"\n"


async def test_a_batch_is_one_run_with_a_line_for_each_event(tmp_path):
    program = shell('cat >> "$1"; env | grep ^RC_PUSH | sort >> "$1"', tmp_path / "got")
    begin_hand_over(HandOver("crm", 2))
    assert await ends(program, [envelope(1), envelope(2)], batch=True) is None
    lines = (tmp_path / "got").read_bytes().splitlines()
    assert lines[:2] == [envelope(1).to_json(), envelope(2).to_json()]
    assert lines[2:] == [b"RC_PUSH_ATTEMPT=2", b"RC_PUSH_HANDLER=crm"]


async def test_its_environment_is_minimal_and_says_which_event_and_attempt_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("RC_APP_CLIENT_SECRET", "planted")
    monkeypatch.setenv("NOTIFY_SOCKET", "/planted")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    begin_hand_over(HandOver("crm", 3))
    given = {"environment": {"CRM": "a b"}, "pass_environment": ["TZ"]}
    assert await ends(("/usr/bin/env", "sh", "-c", f"env -0 > {tmp_path}/got"), **given) is None
    variables = dict(line.split("=", 1) for line in (tmp_path / "got").read_text().split("\0") if line)
    # the shell's own
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):
        variables.pop(name, None)
    assert variables == {
        "PATH": os.environ["PATH"],
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": pwd.getpwuid(os.geteuid()).pw_dir,
        "CRM": "a b",
        "TZ": "Europe/Berlin",
        "RC_PUSH_EVENT_ID": "u-7",
        "RC_PUSH_TYPE": "post.added",
        "RC_PUSH_ORIGIN": "recovered",
        "RC_PUSH_HANDLER": "crm",
        "RC_PUSH_ATTEMPT": "3",
    }


async def test_no_shell_reads_its_words():
    error = await ends(("/usr/bin/printf", "%s", "$HOME; `id` *", "-x"))
    assert error is None
    error = await ends(python("import sys; print(sys.argv[1]); sys.exit(1)", "$HOME; `id` *"))
    assert detail_of(error) == "$HOME; `id` *"


async def test_it_has_a_session_a_directory_and_three_descriptors_of_its_own(tmp_path):
    kept = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    script = (
        "import os\n"
        "print(os.getcwd(), os.getsid(0) == os.getpid() == os.getpgid(0), len(os.listdir('/proc/self/fd')))\n"
        "raise SystemExit(1)"
    )
    error = await ends(python(script), working_directory=str(tmp_path))
    os.close(kept)
    assert detail_of(error) == f"{tmp_path} True 4"  # the fourth is that of the directory that is being read


async def test_its_stdin_is_not_to_be_changed():
    for change in ("os.write(0, b'x')", "os.ftruncate(0, 0)", "os.write(os.open('/dev/stdin', os.O_WRONLY), b'x')"):
        error = await ends(python(f"import os; {change}"))
        assert "Operation not permitted" in detail_of(error)


# ------------------------------------------------------------------------------------------------------- how it can end


async def test_exit_codes_decide():
    assert await ends(("/bin/true",)) is None
    assert isinstance(await ends(shell("exit 75"), retry_after_s=3), Retry)
    assert isinstance(await ends(shell("echo never; exit 65")), Reject)
    failed = await ends(shell("echo out; echo err >&2; exit 3"))
    assert isinstance(failed, Failed)
    assert (str(failed), detail_of(failed)) == ("/bin/sh: exit code 3", "out\nerr")


async def test_a_signal_is_named_as_the_cause():
    assert str(await ends(shell("echo last words; kill -SEGV $$"))) == "/bin/sh: ended by SIGSEGV"


@pytest.mark.parametrize("wrapped", [{}, {"nproc": 100_000}], ids=["plain", "limited"])
async def test_a_program_that_cannot_be_started_any_more_is_parked_with_the_reason(tmp_path, wrapped):
    path = tmp_path / "x"

    def put(text, mode=0o755):
        path.write_text(text)
        path.chmod(mode)

    put("#!/bin/sh\n")
    handler = load((str(path),), **wrapped)
    await handler.handle(envelope())

    async def why():
        with pytest.raises(Reject) as caught:
            await handler.handle(envelope())
        return caught.value.reason.removeprefix(f"{path} cannot be started: ")

    path.unlink()
    assert await why() == "no such file or directory"
    path.mkdir()
    assert await why() == "is a directory"
    path.rmdir()
    put("#!/bin/sh\n", 0o644)
    assert await why() == "is not executable for this user"
    put("#!/no/such/interpreter\n")
    assert await why() == "its interpreter '/no/such/interpreter': no such file or directory"


async def test_what_only_the_system_knows_of_a_program_that_does_not_start_is_told_too(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x7fELF, but not really")
    path.chmod(0o755)
    error = await ends((str(path),))
    assert isinstance(error, Reject)
    assert error.reason == f"{path} cannot be used: Exec format error"


async def test_a_working_directory_that_went_away_is_named(tmp_path):
    (tmp_path / "work").mkdir()
    handler = load(("/bin/true",), working_directory=str(tmp_path / "work"))
    (tmp_path / "work").rmdir()
    with pytest.raises(Reject, match=f"{tmp_path}/work cannot be used: No such file"):
        await handler.handle(envelope())


async def test_what_is_a_matter_of_the_moment_is_a_failure_and_leaves_nothing():
    handler = load(("/bin/true",))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken, failures = [], []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 40, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(12):
            try:
                await handler.handle(envelope())
            except OSError as exc:
                failures.append(exc.strerror)
            os.close(taken.pop())
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert set(failures) == {"Too many open files"}
    assert 4 <= len(failures) < 12, "with some room it works"


@pytest.mark.parametrize("looks_after_s", [0.0, 0.3])
async def test_how_it_ended_is_lost_where_sigchld_is_ignored_and_that_is_no_success(monkeypatch, looks_after_s):
    open_pidfd = os.pidfd_open

    def open_late(pid):
        time.sleep(looks_after_s)
        return open_pidfd(pid)

    monkeypatch.setattr(process.os, "pidfd_open", open_late)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        error = await ends(("/bin/true",))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert isinstance(error, Failed)
    assert "SIGCHLD" in str(error)


# ----------------------------------------------------------------------------------------------------- what it can read


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; exit 0", "head -c 1 > /dev/null; exit 0"])
async def test_a_program_need_not_read_ten_megabytes(script):
    assert await ends(shell(script), envelope(text="x" * 10_000_000)) is None


async def test_a_program_can_read_ten_megabytes(tmp_path):
    big = envelope(text="x" * 10_000_000)
    assert await ends(shell('sleep 0.1; wc -c > "$1"', tmp_path / "got"), big) is None
    assert int((tmp_path / "got").read_text()) == len(big.to_json()) + 1


# ------------------------------------------------------------------------------------------------- what it can print


async def test_a_gigabyte_of_output_neither_blocks_nor_is_kept():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = await ends(shell("echo first; head -c 1000000000 /dev/zero | tr '\\0' x; echo last; exit 1"), within_s=60)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 20_000, "KiB"
    detail = detail_of(error)
    assert detail.startswith("first\nxxx")
    assert detail.endswith("xxxlast")
    assert f"[… {1_000_000_000 + 11 - 4096} bytes left out …]" in detail


async def test_what_is_printed_stands_nowhere_but_in_the_detail(tmp_path):
    begin_hand_over(HandOver("crm", 1))
    with capture_logs() as logs:
        for code in (0, 3, 65, 75):
            error = await ends(shell(f"cat; exit {code}"), envelope(text="planted words"))
            assert "planted" not in f"{error!r} {error}"
            assert ("planted words" in detail_of(error)) if code in (3, 65) else True
    assert logs == []


async def test_a_closed_output_is_no_failure():
    assert await ends(shell("exec >&- 2>&-; exit 0")) is None


# ---------------------------------------------------------------------------------------------- nothing of it is left


async def test_a_program_that_ignores_sigterm_is_killed(tmp_path):
    program = shell("trap '' TERM; echo begun; echo $$ > \"$1\"; while :; do sleep 0.05; done", tmp_path / "pid")
    call = asyncio.create_task(ends(program, within_s=1.0, kill_after_s=0.3))
    group = int(await written(tmp_path / "pid"))
    began = time.monotonic()
    error = await call
    assert isinstance(error, TimeoutError)
    assert detail_of(error) == "begun"
    assert time.monotonic() - began < 5
    await gone(group)


async def test_a_program_can_tidy_up_at_sigterm(tmp_path):
    program = shell(
        'trap \'echo bye; echo tidy > "$1/tidy"; exit 0\' TERM; echo $$ > "$1/pid"; while :; do sleep 0.05; done',
        tmp_path,
    )
    call = asyncio.create_task(ends(program, within_s=1.0, kill_after_s=30))
    group = int(await written(tmp_path / "pid"))
    error = await call
    assert isinstance(error, TimeoutError)
    assert (tmp_path / "tidy").exists()
    assert detail_of(error).endswith("bye")
    await gone(group)


async def test_so_can_what_a_script_runs_that_ends_at_once_itself(tmp_path):
    tidy = "trap 'sleep 0.3; echo bye; echo tidy > $0/tidy; exit 0' TERM"
    inner = f"{tidy}; echo $PPID > $0/pid; while :; do sleep 0.05; done"
    call = asyncio.create_task(ends(shell('sh -c "$2" "$1"; exit 1', tmp_path, inner), within_s=1.0, kill_after_s=30))
    group = int(await written(tmp_path / "pid"))
    began = time.monotonic()
    error = await call
    assert isinstance(error, TimeoutError)
    assert (tmp_path / "tidy").exists()
    assert detail_of(error).endswith("bye")
    assert time.monotonic() - began < 15, "it waits for nobody else"
    await gone(group)


async def test_what_a_script_runs_is_killed_when_its_time_is_over(tmp_path):
    inner = "trap '' TERM; echo $PPID > $0; while :; do sleep 0.05; done"
    script = 'sh -c "$2" "$1"; exit 1'
    call = asyncio.create_task(ends(shell(script, tmp_path / "pid", inner), within_s=1.0, kill_after_s=0.5))
    group = int(await written(tmp_path / "pid"))
    began = time.monotonic()
    assert isinstance(await call, TimeoutError)
    assert time.monotonic() - began < 5
    await gone(group)


async def test_at_a_time_out_all_of_its_group_is_killed_also_what_it_has_forked(tmp_path):
    script = (
        "trap '' TERM; (trap '' TERM; while :; do sleep 0.05; done) & "
        '(trap "" TERM; (while :; do sleep 0.05; done) & ) ; echo $$ > "$1"; wait'
    )
    call = asyncio.create_task(ends(shell(script, tmp_path / "pid"), within_s=0.7, kill_after_s=0.1))
    group = int(await written(tmp_path / "pid"))
    assert len(processes_of(group)) >= 3
    assert isinstance(await call, TimeoutError)
    await gone(group)


async def test_a_second_cancellation_kills_at_once(tmp_path):
    program = shell("trap '' TERM; echo $$ > \"$1\"; while :; do sleep 0.05; done", tmp_path / "pid")
    call = asyncio.create_task(load(program, kill_after_s=60).handle(envelope()))
    group = int(await written(tmp_path / "pid"))
    call.cancel()
    await asyncio.sleep(0.05)
    assert processes_of(group)
    call.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.monotonic() - began < 5
    await gone(group)


async def test_what_a_program_leaves_in_its_group_is_killed_and_does_not_hold_it_up(tmp_path):
    script = 'echo $$ > "$1"; (while :; do sleep 0.05; done) & exit 0'
    assert await ends(shell(script, tmp_path / "pid")) is None
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_daemon_that_leaves_the_group_and_keeps_the_output_open_holds_nothing_up(tmp_path):
    script = (
        "import os, sys, time\n"
        "print('begun', flush=True)\n"
        "ready, go = os.pipe()\n"
        "if os.fork():\n"
        "    os.read(ready, 1)\n"
        "    sys.exit(3)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')\n"
        "os.write(go, b'x')\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    error = await ends(python(script, str(tmp_path / "pid")))
    assert time.monotonic() - began < 8
    assert (str(error), detail_of(error)) == (f"{sys.executable}: exit code 3", "begun")
    os.kill(int(await written(tmp_path / "pid")), signal.SIGKILL)


async def test_one_who_left_the_group_and_prints_for_ever_holds_nothing_up(tmp_path):
    script = 'setsid sh -c \'echo $$ > "$1"; while :; do echo xxxxxxxx; done\' sh "$1" & sleep 0.3; exit 0'
    assert await ends(shell(script, tmp_path / "pid")) is None
    group = int(await written(tmp_path / "pid"))
    await gone(group)  # SIGPIPE: nobody reads it any more


async def test_a_process_that_the_system_does_not_end_is_named_and_left_behind(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(process, "GONE_WITHIN_S", 0.05)
    monkeypatch.setattr(os, "killpg", lambda _group, number: sent.append(number))
    call = asyncio.create_task(load(shell('echo $$ > "$1"; exec sleep 60', tmp_path / "pid"), kill_after_s=0).handle(
        envelope()
    ))  # fmt: skip
    pid = int(await written(tmp_path / "pid"))
    call.cancel()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await call
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    assert logs == [{"event": "program_not_killed", "pid": pid, "log_level": "error"}]
    monkeypatch.undo()
    os.kill(pid, signal.SIGKILL)
    await gone(pid)  # reaped when it ends after all


async def test_the_daemon_runs_programs_side_by_side_cuts_what_hangs_and_keeps_what_they_printed(
    daemon, simulator, tmp_path
):
    script = """
        read -r line
        case $line in
        *planted-meet*)
            : > "$1/met-$RC_PUSH_EVENT_ID"
            until [ "$(ls "$1" | grep -c met-)" = 3 ]; do sleep 0.05; done ;;
        *planted-hang*)
            trap 'echo TERM came' TERM
            (trap '' TERM; while :; do sleep 0.05; done) &
            echo $$ >> "$1/groups"
            echo "$line"
            while :; do sleep 0.05; done ;;
        *planted-fail*) echo "$line"; echo "attempt $RC_PUSH_ATTEMPT" >&2; exit 3 ;;
        *planted-never*) echo "$line"; exit 65 ;;
        *planted-later*) [ "$RC_PUSH_ATTEMPT" = 3 ] || exit 75 ;;
        esac
    """
    daemon.more = (
        f'[handlers.crm]\nuse = "command"\nprogram = {json.dumps(shell(script, tmp_path))}\n'
        "concurrency = 3\ntimeout_s = 3.0\nkill_after_s = 0.3\nretry_after_s = 0.1\n"
        "retry = { first_delay_s = 0.05, max_attempts = 2 }\n"
    )
    daemon.start()
    await daemon.wait_live()
    words = ("meet", "meet-too", "meet-also", "hang", "fail", "never", "later")
    uuids = {}
    for word in words:  # each in a chat of its own, so that none waits for another
        body = {"eventType": "PostAdded", "groupId": f"chat-{word}", "text": f"planted-{word}"}
        uuids[word] = simulator.emit("/team-messaging/v1/posts", body)
    await daemon.wait_until(lambda: len(daemon.lines("event_parked")) == 3, within_s=30)
    calls = {word: await calls_of(daemon, uuid) for word, uuid in uuids.items()}

    for word in words[:3]:
        assert calls[word] == ": done, or not wanted", "three at the same time, or none of them ends"
    assert calls["hang"].count("ms failed: TimeoutError: not done within 3 s {") == 2
    assert calls["hang"].count("planted-hang") == 2
    assert calls["hang"].count("TERM came") == 2
    for group in (tmp_path / "groups").read_text().split():
        await gone(int(group))
    for number in (1, 2):
        assert f"attempt {number}" in calls["fail"]
    assert calls["fail"].count("ms failed: /bin/sh: exit code 3 {") == 2
    assert calls["fail"].count("planted-fail") == 2
    assert "rejected: /bin/sh: exit code 65" in calls["never"]
    assert calls["never"].count("planted-never") == 1
    assert calls["later"].startswith(": done")
    assert calls["later"].count("ms later") == 2
    assert await daemon.stop() == 0
    assert "planted" not in daemon.said()
    assert "TERM came" not in daemon.said()


async def calls_of(daemon, uuid):
    """Return what `rc-push events` says of the handler `crm` and its calls, without the event itself."""
    done = await daemon.run("events", uuid)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    return said.partition("handler crm")[2].partition("handler events")[0].strip()


async def test_a_daemon_that_is_stopped_leaves_no_program_behind(daemon, simulator, tmp_path):
    script = "trap '' TERM; echo begun; echo $$ > $1; while :; do sleep 0.05; done"
    daemon.more = (
        f'[handlers.crm]\nuse = "command"\nprogram = {json.dumps(shell(script, tmp_path / "pid"))}\n'
        "kill_after_s = 0.2\n[service]\nshutdown_grace_s = 0.2\n"
    )
    daemon.start()
    await daemon.wait_live()
    simulator.emit_sample("post.added")
    group = int(await written(tmp_path / "pid"))
    assert await daemon.stop() == 0
    assert processes_of(group) == []
    assert daemon.lines("handler_cut")
    assert "begun" not in daemon.said()


async def test_thousands_of_runs_leave_the_descriptors_as_they_were():
    handler = load(("/bin/true",))
    await handler.handle(envelope())
    before = len(descriptors())
    counts = set()

    async def work(runs):
        for _ in range(runs):
            await handler.handle(envelope())

    for _ in range(10):
        await asyncio.gather(*(work(LEAK_RUNS // 40) for _ in range(4)))
        counts.add(len(descriptors()))
    assert counts == {before}


# ------------------------------------------------------------------------------------------------------------- limits


async def test_processor_time_is_limited():
    assert "cpu_s, is used up" in str(await ends(shell("while :; do :; done"), cpu_s=1))


async def test_a_program_that_ignores_the_limit_of_its_processor_time_is_killed():
    assert str(await ends(shell("trap '' XCPU; while :; do :; done"), cpu_s=1)) == "/bin/sh: ended by SIGKILL"


async def test_memory_is_limited():
    error = await ends(python("x = bytes(10**9)"), memory_bytes=200_000_000)
    assert "MemoryError" in detail_of(error)


async def test_limits_are_there_from_the_first_instruction_on_and_hold_for_children():
    script = "import resource as r; print(r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_NPROC)); raise SystemExit(1)"
    error = await ends(shell('"$@"', *python(script)), cpu_s=7, nproc=4000)
    assert detail_of(error) == "(7, 8) (4000, 4000)"


async def test_the_umask_is_set(tmp_path):
    assert await ends(shell(': > "$1"', tmp_path / "got"), umask="027") is None
    assert stat.S_IMODE((tmp_path / "got").stat().st_mode) == 0o640


@AS_ROOT
async def test_root_runs_it_as_another_user_with_nothing_of_its_own():
    error = await ends(shell("id -u; id -g; id -G; echo $HOME; cat > /dev/null < /dev/stdin; exit 1"), user="nobody")
    entry = pwd.getpwnam("nobody")
    groups = " ".join(map(str, os.getgrouplist("nobody", entry.pw_gid)))
    assert detail_of(error).splitlines() == [str(entry.pw_uid), str(entry.pw_gid), groups, entry.pw_dir]


@AS_ROOT
async def test_the_number_of_processes_of_a_user_is_limited():
    error = await ends(shell("sleep 5 & sleep 5 & sleep 5 & wait; exit 1"), user="nobody", nproc=2)
    assert "fork" in detail_of(error).lower()


def _bwrap_works():
    with contextlib.suppress(ConfigError):
        load(("/bin/true",), sandbox=True)
        return True
    return False


@pytest.mark.skipif(not shutil.which("bwrap") or not _bwrap_works(), reason="bwrap is not installed, or not permitted")
class TestInTheSandbox:
    """The same with the real bwrap, where there is one."""

    async def test_the_file_system_is_read_only_and_private_where_it_is_not(self):
        script = "ls /tmp /run; cd /var/tmp; touch x || echo refused; touch /tmp/x && echo private; exit 1"
        lines = detail_of(await ends(shell(script), sandbox=True)).splitlines()
        assert [line for line in lines if not line.startswith("touch")] == ["/run:", "", "/tmp:", "refused", "private"]

    async def test_there_is_no_network(self):
        error = await ends(
            shell("tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route; exit 1"), sandbox=True
        )
        assert detail_of(error).split() == ["lo"]

    async def test_exit_codes_signals_and_limits_come_through(self):
        assert await ends(("/bin/true",), sandbox=True) is None
        assert isinstance(await ends(shell("exit 75"), sandbox=True), Retry)
        assert isinstance(await ends(shell("exit 65"), sandbox=True), Reject)
        assert str(await ends(shell("kill -SEGV $$"), sandbox=True)).endswith("ended by SIGSEGV in the sandbox")
        assert "ended by SIGXCPU" in str(await ends(shell("while :; do :; done"), sandbox=True, cpu_s=1))

    async def test_nothing_escapes_from_it(self):
        script = "setsid sleep 61.5 & sleep 0.2; exit 0"
        assert await ends(shell(script), sandbox=True) is None
        await nothing(lambda: commands_with("sleep 61.5"))

    async def test_at_a_time_out_it_is_gone_at_once(self):
        began = time.monotonic()
        error = await ends(shell("trap '' TERM; echo begun; sleep 62.5"), sandbox=True, within_s=0.5, kill_after_s=30)
        assert isinstance(error, TimeoutError)
        assert detail_of(error) == "begun"
        assert time.monotonic() - began < 10
        await nothing(lambda: commands_with("sleep 62.5"))
