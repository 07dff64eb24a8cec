"""The package and its units under a real systemd, in a machine of their own (sdbox.py): is what they promise true?

The simulator runs in the machine, too. Every test begins with the package installed, a right file, and no journal.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sdbox import Box, why_not

from rc_push import __version__

ROOT = Path(__file__).parents[2]
WITHOUT = why_not() or (None if shutil.which("dpkg-deb") else "needs dpkg-deb")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.alone,  # one machine for all of them, whose watchdog has a short patience
    pytest.mark.long,
    pytest.mark.timeout(300),  # the package is built for the first of them
    pytest.mark.skipif(WITHOUT is not None, reason=f"no machine for systemd: {WITHOUT}"),
]

CONFIG = """
[accounts.main]
server = "{server}"
client_id = "{clientId}"
client_secret = {{ credential = "rc-client-secret" }}
jwt = {{ credential = "rc-jwt" }}
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.events]
use = "file"
path = "/var/log/{unit}/events.jsonl"
[handlers.program]
use = "command"
program = ["/bin/sh", "-c", "cat > /var/lib/{unit}/last.json; id -u > /tmp/who"]
[journal]
path = "/var/lib/{unit}/journal.db"
[service]
control = "/run/{unit}/control"
"""
# A plug-in that blocks the loop until its file is there.
PLUGIN = """
import pathlib, time

async def blocking(envelope):
    while not pathlib.Path("/var/lib/rc-push/go").exists(): time.sleep(0.02)  # one line, wherever it is stopped
"""
SOON = "[Service]\nRestartSec=100ms\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Build the .deb, once for all processes of this run; $RC_PUSH_DEB names one that is built already."""
    if built := os.environ.get("RC_PUSH_DEB"):
        return Path(built)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "package"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next(folder.glob("*.deb"), None) or build(folder)


def build(folder):
    """Build the .deb in *folder*, hardly compressed."""
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(wheel, cwd=ROOT, check=True, capture_output=True, timeout=60)
    deb = [ROOT / "package/deb.sh", next(folder.glob("*.whl")), folder]
    environment = os.environ | {"DEB_COMPRESSION": "none"}
    subprocess.run(deb, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200)
    return next(folder.glob("*.deb"))


@pytest.fixture(scope="module")
def box(package, tmp_path_factory):
    """Boot a machine with the package installed and a simulator in it."""
    with Box(tmp_path_factory.mktemp("machine") / "box") as booted:
        booted.before = files_in(booted)
        shutil.copy(package, booted.folder / "rc-push.deb")
        booted.run("dpkg -i /box/rc-push.deb")
        simulate(booted)
        yield booted


def files_in(box):
    """Return the files and folders that are called like us."""
    places = "find /etc /opt /usr /var /run -name '*rc-push*' ! -path '/var/log/journal/*' 2>/dev/null"
    return set(box.ask(places, check=False).splitlines())


def simulate(box):
    box.run("systemd-run --unit=simulator --service-type=exec -p StandardOutput=file:/box/ready rc-push simulate")
    box.ready = json.loads(box.wait((box.folder / "ready").read_text).splitlines()[0])


class Service:
    """`rc-push.service` in the machine."""

    def __init__(self, box, unit="rc-push"):
        self.box, self.unit = box, unit
        self.place = unit.replace("@", "-")
        self.etc = "/etc/rc-push" + ("/" + unit.partition("@")[2] if "@" in unit else "")
        self.config = CONFIG.format(unit=self.place, **box.ready)
        self.since = ""

    def reset(self):
        """Begin anew: the package, a right file and right secrets, no drop-ins, no journal."""
        self.box.run("dpkg -s rc-push || dpkg -i /box/rc-push.deb")
        self.box.run("systemctl", "stop", self.unit, check=False)
        self.box.run(
            f"rm -rf /etc/systemd/system/{self.unit}.service.d; systemctl daemon-reload; systemctl reset-failed;"
            f"rm -rf /var/lib/{self.place}/* /var/log/{self.place}/*; mkdir -p {self.etc}"
        )
        self.box.run("journalctl --rotate; journalctl --vacuum-time=1s")
        self.call("reset", {})
        self.write(f"{self.etc}/config.toml", self.config)
        self.write(f"{self.etc}/client-secret", self.box.ready["clientSecret"] + "\n", 0o600)
        self.write(f"{self.etc}/jwt", self.box.ready["jwt"] + "\n", 0o600)

    def write(self, path, text, mode=0o644):
        self.box.run(f"mkdir -p $(dirname {path}); umask 077; cat > {path}; chmod {mode:o} {path}", text_in=text)

    def drop_in(self, text):
        self.write(f"/etc/systemd/system/{self.unit}.service.d/test.conf", text)
        self.box.run("systemctl", "daemon-reload")

    def start(self, *options):
        return self.box.run("systemctl", "start", *options, self.unit, check=False)

    def show(self, *names):
        return self.box.show(self.unit, *names)

    def state(self):
        return self.show("ActiveState")["ActiveState"]

    def said(self):
        return self.box.said(self.unit)

    def wait(self, condition, within_s=30.0):
        return self.box.wait(condition, within_s, lambda: f"what was expected of {self.unit}, which said {self.said()}")

    def call(self, path, body):
        """Make an admin call of the simulator, in the machine."""
        code = (
            "import sys, urllib.request as u; r = u.Request(sys.argv[1], sys.stdin.buffer.read());"
            "print(u.urlopen(r, timeout=10).read().decode())"
        )
        url = f"{self.box.ready['server']}/simulator/{path}"
        return json.loads(self.box.ask("/opt/rc-push/bin/python", "-c", code, url, text_in=json.dumps(body)))

    def emit(self, count=1):
        body = {"eventType": "PostAdded", "text": "hello", "groupId": "1"}
        return self.call("events", [{"event": "/team-messaging/v1/posts", "body": body}] * count)["uuids"]

    def handled(self):
        text = self.box.ask(f"cat /var/log/{self.place}/events.jsonl 2>/dev/null", check=False)
        return [json.loads(line)["uuid"] for line in text.splitlines()]

    def pid(self):
        return int(self.show("MainPID")["MainPID"])


@pytest.fixture
def service(box):
    running = Service(box)
    running.reset()
    yield running
    box.run("systemctl", "stop", running.unit, check=False)


# ---------------------------------------------------------------------------------------------------- start and end


def test_it_is_started_once_it_receives_and_not_before(service):
    service.call("faults", {"fault": "http-error", "path": "/restapi/oauth/wstoken", "status": 503, "times": 2})
    service.start("--no-block")
    service.wait(lambda: service.show("StatusText")["StatusText"].startswith("down: team ("))
    assert service.state() == "activating"
    service.wait(lambda: service.state() == "active")
    assert service.show("StatusText")["StatusText"] == "live: team"
    uuids = service.emit(5)
    service.wait(lambda: service.handled() == uuids)
    assert service.box.run("systemctl", "stop", "rc-push").returncode == 0
    shown = service.show("Result", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive", "NRestarts": "0"}


@pytest.mark.parametrize(
    ("path", "text", "status", "why"),
    [
        ("/etc/rc-push/config.toml", "[journal]\nno_such_key = 1\n", "78", "no_such_key"),
        ("/etc/rc-push/jwt", "eyJ.not.right\n", "77", "OAU-"),
        ("/etc/rc-push/jwt", None, "78", "accounts.main.jwt"),
    ],
    ids=["a wrong file", "a wrong secret", "no secret"],
)
def test_what_does_not_mend_itself_is_not_tried_again(service, path, text, status, why):
    service.drop_in(SOON)
    if text is None:
        service.box.run("rm", path)
    else:
        service.write(path, text, 0o600 if path.endswith("jwt") else 0o644)
    service.start()
    service.wait(lambda: service.state() == "failed")
    time.sleep(1)
    assert service.show("ExecMainStatus", "NRestarts") == {"ExecMainStatus": status, "NRestarts": "0"}
    assert why in service.said()


def test_one_that_was_killed_is_back_and_has_lost_nothing(service):
    service.drop_in(SOON)
    assert service.start().returncode == 0
    uuids = service.emit(20)
    service.wait(lambda: service.handled() == uuids)
    service.box.run("kill", "-KILL", str(service.pid()))
    missed = service.emit(5)
    service.wait(lambda: service.show("NRestarts")["NRestarts"] == "1" and service.state() == "active")
    service.wait(lambda: set(service.handled()) == {*uuids, *missed})


def test_one_that_hangs_is_killed_by_the_watchdog_says_where_and_is_started_again(service):
    service.drop_in(SOON + "WatchdogSec=2\n")
    site = service.box.ask("/opt/rc-push/bin/python", "-c", "import site; print(site.getsitepackages()[0])")
    service.write(f"{site}/acme.py", PLUGIN)
    service.write(f"{site}/acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    service.write(f"{site}/acme-1.0.dist-info/entry_points.txt", "[rc_push.handlers]\nblocking = acme:blocking\n")
    service.write("/etc/rc-push/config.toml", service.config + '[handlers.hanging]\nuse = "blocking"\n')
    assert service.start().returncode == 0
    uuids = service.emit()
    service.wait(lambda: "Watchdog timeout" in service.said())
    # The last words say where it hung. Where the machine stood still before that, it is killed a second time.
    service.wait(lambda: f'File "{site}/acme.py", line 5 in blocking' in service.said())
    service.wait(lambda: service.show("NRestarts")["NRestarts"] != "0")
    service.box.run("touch /var/lib/rc-push/go")
    service.wait(lambda: service.state() == "active" and service.handled()[:1] == uuids)
    assert '"handler":"hanging"' in service.said(), "the daemon itself has named the handler"


# ------------------------------------------------------------------------------------------------------------ reload


def test_a_reload_takes_a_right_file_and_refuses_a_wrong_one(service):
    assert service.start().returncode == 0
    pid = service.pid()
    service.write("/etc/rc-push/config.toml", service.config.replace("/events.jsonl", "/others.jsonl"))
    assert service.box.run("systemctl", "reload", "rc-push", check=False).returncode == 0, service.said()
    uuids = service.emit(3)
    others = "cat /var/log/rc-push/others.jsonl"
    service.wait(lambda: service.box.run(others, check=False).stdout.count("\n") == len(uuids))

    service.write("/etc/rc-push/config.toml", service.config + "no_such_key = 1\n")
    refused = service.box.run("systemctl", "reload", "rc-push", check=False)
    assert refused.returncode != 0
    assert "no_such_key" in service.said()
    assert (service.state(), service.pid()) == ("active", pid)
    service.box.run("systemctl", "kill", "--signal=HUP", "--kill-whom=main", "rc-push")
    service.wait(lambda: "not reloaded" in service.show("StatusText")["StatusText"])
    assert service.emit()
    service.wait(lambda: service.box.run(others, check=False).stdout.count("\n") == len(uuids) + 1)


# ------------------------------------------------------------------------------------------- users, places, secrets


def test_its_places_are_its_own_and_closed_to_others(service):
    assert service.start().returncode == 0
    uuids = service.emit()
    service.wait(lambda: service.handled() == uuids)
    ask = service.box.ask
    assert ask("stat -Lc '%U %a' /var/lib/rc-push /run/rc-push").splitlines() == ["rc-push 700", "rc-push 700"]
    assert ask("stat -Lc '%U %a' /var/log/rc-push") == "rc-push 750"
    assert ask("stat -c '%U %a' /var/lib/rc-push/journal.db") == "rc-push 600"
    assert ask("stat -c '%U %a' /run/rc-push/control") == "rc-push 600"
    assert ask(f"stat -c %U /proc/{service.pid()}") == "rc-push"
    [known] = [json.loads(line) for line in ask("rc-push handlers --json").splitlines() if '"events"' in line]
    assert known["state"] == "running", "root may ask the daemon"
    nobody = service.box.run("setpriv --reuid=65534 --clear-groups rc-push handlers", check=False)
    assert nobody.returncode != 0


def test_several_instances_have_users_and_places_of_their_own(box):
    sales = Service(box, "rc-push@sales")
    sales.reset()
    try:
        assert sales.start().returncode == 0, sales.said()
        uuids = sales.emit()
        sales.wait(lambda: sales.handled() == uuids)
        assert 61184 <= int(box.ask(f"stat -c %u /proc/{sales.pid()}")) <= 65519, "a dynamic user"
        assert box.ask("readlink /var/lib/rc-push-sales") == "private/rc-push-sales"
        assert box.ask("stat -Lc %a /var/lib/rc-push-sales") == "700"
    finally:
        box.run("systemctl stop rc-push@sales", check=False)


def test_secrets_are_credentials_and_nowhere_else(service):
    assert service.start().returncode == 0
    pid = service.pid()
    seen = service.box.ask(f"cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'") + service.said()
    seen += service.box.ask("systemctl show rc-push; systemctl status rc-push")
    for secret in (service.box.ready["jwt"], service.box.ready["clientSecret"]):
        assert secret not in seen
    assert "CREDENTIALS_DIRECTORY=/run/credentials/rc-push.service" in seen
    listed = service.box.ask(f"ls /proc/{pid}/root/run/credentials/rc-push.service")
    assert listed.split() == ["rc-client-secret", "rc-jwt"]


def test_secrets_that_only_this_machine_can_read(service):
    for name, file in (("rc-client-secret", "client-secret"), ("rc-jwt", "jwt")):
        encrypt = f"systemd-creds encrypt --with-key=host --name={name} /etc/rc-push/{file} /etc/rc-push/{file}.cred"
        service.box.run(encrypt)
        service.box.run("rm", f"/etc/rc-push/{file}")
    service.drop_in((ROOT / "systemd/drop-ins/encrypted-credentials.conf").read_text())
    assert service.start().returncode == 0, service.said()
    assert service.show("StatusText")["StatusText"] == "live: team"
    assert service.box.ready["jwt"] not in service.box.ask("cat /etc/rc-push/jwt.cred")


# ---------------------------------------------------------------------------------------------------------- hardening


def test_every_line_of_the_hardening_is_in_force_while_it_works(service):
    assert service.start().returncode == 0
    uuids = service.emit(3)
    service.wait(lambda: service.handled() == uuids)
    service.wait(lambda: service.box.run("test -s /var/lib/rc-push/last.json", check=False).returncode == 0)
    pid, ask = service.pid(), service.box.ask
    status = dict(line.split(":", 1) for line in ask(f"cat /proc/{pid}/status").splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert int(status["Umask"], 8) == 0o077
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"):
        assert int(status[kind], 16) == 0, kind
    mounts = [line.split() for line in ask(f"cat /proc/{pid}/mountinfo").splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert "ro" in options["/"], "ProtectSystem=strict"
    assert "rw" in options["/var/lib/private/rc-push"]
    assert "rw" in options["/var/log/private/rc-push"]
    assert {"/tmp", "/var/tmp", "/dev", "/home", "/root", "/proc"} <= options.keys()
    proc = next(mount for mount in mounts if mount[4] == "/proc")
    assert {"hidepid=invisible", "subset=pid"} <= set(proc[-1].split(",")), "ProtectProc=, ProcSubset="
    assert ask(f"cat /proc/{pid}/limits | grep 'Max core file size'").split()[4:6] == ["0", "0"]
    for namespace in ("user", "mnt", "uts"):
        assert ask(f"readlink /proc/{pid}/ns/{namespace}") != ask(f"readlink /proc/1/ns/{namespace}"), namespace


# In place of the daemon, under the same unit: each try in a process of its own, since some are killed for it.
INSTEAD = """[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart=/opt/rc-push/bin/python /var/lib/rc-push/try.py
"""
TRY = """
import json, subprocess, sys
for name, words in json.load(open("/var/lib/rc-push/tries.json")).items():
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    print("TRIED", json.dumps([name, done.returncode, done.stderr[-200:]]), flush=True)
"""
PERSONALITY = "import ctypes; ctypes.CDLL(None).personality(8) == -1 and 1/0"
TRIES = {
    "write": ("open('/etc/x', 'w')", "Read-only"),
    "read a home": ("open('/root/.bashrc')", "Permission|No such file"),
    "make a device": ("__import__('os').mknod('/dev/shm/x', 0o20666, 0x103)", "not permitted|SIGSYS"),
    "make a namespace": ("__import__('ctypes').CDLL(None).unshare(0x10000000) and 1/0", "division|SIGSYS"),
    "a packet socket": ("__import__('socket').socket(17, 3)", "not supported"),
    "be setuid": ("__import__('os').open('/var/lib/rc-push/x', 0o102, 0o4755)", "not permitted"),
    "memory to write and run": ("__import__('mmap').mmap(-1, 4096, prot=7)", "not permitted"),
    "another's process": ("open('/proc/1/environ')", "No such file"),
    "the clock": ("__import__('time').clock_settime(0, 0)", "not permitted|SIGSYS"),
    "real time": ("__import__('os').sched_setscheduler(0, 1, __import__('os').sched_param(1))", "not permitted|SIGSYS"),
    "the host name": ("__import__('socket').sethostname('x')", "not permitted|SIGSYS"),
    "kernel tunables": ("open('/proc/sys/kernel/hostname', 'w')", "Read-only|No such file|Permission"),
    "kernel log": ("open('/dev/kmsg')", "No such file|not permitted|Permission"),
    "control groups": ("open('/sys/fs/cgroup/cgroup.procs', 'w')", "Read-only|Permission"),
    "another personality": (
        PERSONALITY,
        "division|SIGSYS",
    ),
}


def test_what_the_hardening_forbids_cannot_be_done_from_inside(service):
    service.start("--no-block")
    service.wait(lambda: service.state() == "active")
    service.box.run("systemctl stop rc-push")
    tries = {name: words for name, (words, _) in TRIES.items()}
    service.write("/var/lib/rc-push/tries.json", json.dumps(tries), 0o644)
    service.write("/var/lib/rc-push/try.py", TRY, 0o644)
    service.drop_in(INSTEAD)
    assert service.start().returncode == 0, service.said()
    tried = {}
    for line in re.findall(r"^TRIED (.*)$", service.said(), re.MULTILINE):
        name, code, error = json.loads(line)
        tried[name] = "SIGSYS" if code == -31 else f"{code} {error}"
    assert tried.keys() == TRIES.keys()
    allowed = {name: tried[name] for name, (_, expected) in TRIES.items() if not re.search(expected, tried[name])}
    assert allowed == {}


# ------------------------------------------------------------------------------------------------------------ package


def test_the_package_brings_commands_manual_and_completions(service):
    box = service.box
    assert __version__ in box.ask("rc-push version")
    assert box.ask("dpkg-query -W -f '${Status} ${Version}' rc-push") == f"install ok installed {__version__}"
    assert box.ask("systemctl is-enabled rc-push", check=False) == "disabled", "who installs it decides when it runs"
    assert "journal" in box.ask("gzip -dc /usr/share/man/man1/rc-push.1.gz")
    complete = "source /usr/share/bash-completion/completions/rc-push; complete -p rc-push"
    assert "rc-push" in box.ask(complete)
    completed = box.ask("COMP_WORDS='rc-push rel' COMP_CWORD=1 _RC_PUSH_COMPLETE=bash_complete rc-push")
    assert completed == "plain,reload"
    assert box.ask("dpkg --verify rc-push | grep -v ' c /etc/'", check=False) == ""


def test_an_update_restarts_what_runs_and_keeps_what_is_ours(service):
    assert service.start().returncode == 0
    uuids = service.emit(3)
    service.wait(lambda: service.handled() == uuids)
    pid = service.pid()
    service.box.run("dpkg -i /box/rc-push.deb")
    service.wait(lambda: service.pid() not in (0, pid) and service.state() == "active")
    assert service.box.ask("cat /etc/rc-push/config.toml") == service.config.strip()
    more = service.emit(2)
    service.wait(lambda: service.handled() == uuids + more)


def test_remove_keeps_the_journal_and_purge_leaves_nothing(service):
    box = service.box
    service.box.run("systemctl enable rc-push")
    assert service.start().returncode == 0
    box.run("dpkg -r rc-push")
    assert service.show("ActiveState", "LoadState") == {"ActiveState": "inactive", "LoadState": "not-found"}
    assert box.run("test -s /var/lib/rc-push/journal.db && test -s /etc/rc-push/config.toml").returncode == 0
    box.run("dpkg -P rc-push")
    assert files_in(box) - box.before == set()
