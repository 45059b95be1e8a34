"""Compares the speed of our scan with `objdump -d` on one binary, in one run.

Usage: python -m benchmarks.disassembly [BINARY]   (default: gRPC's shared library in this environment)

Both read all executable code; objdump writes text to /dev/null, ours counts CPU features by function. The ratio is
what to compare between machines: the MB/s are this machine's, under its present load.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measuring import best, parser
from serving_factory.inspection.elf import read_elf
from serving_factory.inspection.facts import InstructionSetFacts
from serving_factory.inspection.instruction_set import scan


def _default_binary() -> Path:
    spec = find_spec("grpc._cython.cygrpc")
    if spec is None or spec.origin is None:
        sys.exit("gRPC is not in this environment: name a binary")
    return Path(spec.origin)


def _objdump(binary: Path) -> None:
    subprocess.run(["objdump", "-d", str(binary)], stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure, and print one line per way."""
    arguments = parser(__doc__)
    arguments.add_argument("binary", nargs="?", type=Path, help="an x86-64 ELF file with symbols, or a stripped one")
    arguments.add_argument("--rounds", type=int, default=2, help="rounds of each; the best counts (default: 2)")
    options = arguments.parse_args()
    path = options.binary or _default_binary()
    binary = read_elf(path)

    facts: InstructionSetFacts = scan(binary, None, workers=1)
    megabytes = facts.scanned_bytes / 1e6
    print(f"{path}: {megabytes:.1f} MB of code in {facts.functions} functions")
    processes = os.cpu_count() or 1
    ways: dict[str, Callable[[], object]] = {
        "scan, 1 process": lambda: scan(binary, None, workers=1),
        f"scan, {processes} processes": lambda: scan(binary, None, workers=processes),
    }
    if shutil.which("objdump"):
        ways = {"objdump -d": lambda: _objdump(path), **ways}
    else:
        print("objdump is not installed: no ratio")
    reference = None
    for name, action in ways.items():
        speed = megabytes / best(action, options.rounds)
        reference = reference or speed
        print(f"{name:<20} {speed:6.1f} MB/s   {speed / reference:5.2f} x")


if __name__ == "__main__":
    main()
