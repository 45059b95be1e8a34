"""Measures what the runtime image's launcher adds to the start of a server.

Usage: python -m benchmarks.launcher [ROUNDS]

A static program that ends at once stands for the server. It is started as it is, and by a launcher that checks this
machine's CPU for one flag: alone, and as process 1 of a process namespace, where the init comes in between (only root
can make one). Each figure is the median of the differences within a round. The limit is 20 ms; the exit code is 1 above
it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1] / "dockerfiles" / "context"
LIMIT = 0.020  # seconds
NAMESPACE = ("unshare", "--fork", "--pid")


def build(root: Path) -> tuple[Path, Path]:
    """Compile launcher, init and server for an image below `root`; gives the launcher and the server."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is required"
    launcher, init = root / "tensorflow_model_server", root / "usr/bin/tf_serving_init"
    server = root / "usr/lib/serving-factory/tensorflow_model_server"
    facts = root / "usr/share/serving-factory/image.env"
    for path in (init, server, facts):
        path.parent.mkdir(parents=True)
    facts.write_text('FLAVOUR="cpu"\nLEVEL="x86-64"\nCPU_FLAGS="fpu"\n', encoding="utf-8")
    (root / "proc").symlink_to("/proc")
    (root / "server.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
    sources = {launcher: sorted(CONTEXT.glob("launcher*.c")), init: [CONTEXT / "init.c"], server: [root / "server.c"]}
    for program, files in sources.items():
        options = ["-std=c99", "-static", "-O2", "-s", f'-DROOT="{root}"']
        subprocess.run([compiler, *options, "-o", program, *files], check=True)
    return launcher, server


def seconds(command: Sequence[str | Path]) -> float:
    """How long a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def added(launcher: Path, server: Path, rounds: int, before: Sequence[str] = ()) -> float:
    """What the launcher adds, in seconds."""
    return statistics.median(
        seconds([*before, launcher, "--port=8500"]) - seconds([*before, server, "--port=8500"]) for _ in range(rounds)
    )


def main() -> None:
    """Measure, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory(prefix="l-") as folder:
        launcher, server = build(Path(folder))
        found = {"by exec": added(launcher, server, rounds)}
        if os.geteuid() == 0:
            found["as process 1"] = added(launcher, server, rounds, NAMESPACE)
        size = launcher.stat().st_size
    for how, more in found.items():
        print(f"the launcher adds, {how:<14} {more * 1000:6.2f} ms")
    print(f"its file has {size / 1024:.0f} KiB; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    holds = max(found.values()) < LIMIT
    print(f"limit {LIMIT * 1000:.0f} ms: {'holds' if holds else 'does not hold'}")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
