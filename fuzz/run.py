"""Search for what breaks a promise, led by coverage: `make fuzz SECONDS=60 TARGET=frames`, or all targets in turn.

The engine is atheris (libFuzzer). What it learns is kept in .fuzz/TARGET, and the next search goes on from there; what
breaks a promise is written to fuzz/findings/TARGET, where tests/test_fuzz.py finds it. Where atheris cannot be had (it
brings wheels for Linux on x86-64, and no Python 3.14 yet), Hypothesis searches instead, without coverage.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
CORPUS = ROOT / ".fuzz"
FINDINGS = HERE / "findings"
# One input may take so long, and the process so much.
INPUT_WITHIN_S = 10
MEMORY_MIB = 2048
INPUT_MAX_BYTES = 16384
STAT = re.compile(r"stat::number_of_executed_units: *(\d+)")
COVERED = re.compile(r"cov: (\d+)")


def main() -> int:
    """Search each target that is asked for; return 1 where something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long, for each target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    asked = parser.parse_args()
    if asked.child:
        return _search_here(asked.targets[0], asked.seconds)
    sys.path.insert(0, str(HERE))
    from targets import TARGETS

    unknown = set(asked.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are: {', '.join(TARGETS)}")
    names = asked.targets or list(TARGETS)
    if importlib.util.find_spec("atheris") is None:
        return _search_without(names)
    print("target           executions   covered  found", flush=True)
    return max([_search(name, asked.seconds) for name in names])


def _search(name: str, seconds: int) -> int:
    """Search *name* in a process of its own, since an engine ends with its first finding; tell what came of it."""
    (FINDINGS / name).mkdir(parents=True, exist_ok=True)
    before = set((FINDINGS / name).iterdir())
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="rc-push-fuzz-", dir=memory) as folder:  # an engine tidies nothing up
        done = subprocess.run(
            [sys.executable, __file__, "--child", "--seconds", str(seconds), name],
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    found = set((FINDINGS / name).iterdir()) - before
    executed, covered = STAT.search(done.stdout), COVERED.findall(done.stdout)
    counts = f"{executed[1] if executed else '?':>10}  {covered[-1] if covered else '?':>8}"
    print(f"{name:<15}  {counts}  {', '.join(map(str, sorted(found))) or 'nothing'}", flush=True)
    if done.returncode:
        print(done.stdout[-6000:], flush=True)
    if not any((FINDINGS / name).iterdir()):
        (FINDINGS / name).rmdir()
    return 1 if done.returncode else 0


def _search_here(name: str, seconds: int) -> int:
    import atheris
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # refusals are not told
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["rc_push", "jmespath"]):
        import seeds
        import targets
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds.seeds_for(name)):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_WITHIN_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={INPUT_MAX_BYTES}",
        f"-artifact_prefix={FINDINGS / name}{os.sep}",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


def _search_without(names: list[str]) -> int:
    print("atheris is not there for this Python: Hypothesis searches, without coverage", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/test_fuzz.py",
        "--timeout",
        "3600",
        "-k",
        " or ".join(names),
    ]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"RC_PUSH_SEARCH": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
