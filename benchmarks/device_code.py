"""Compares the speed of our reading of device code with cuobjdump's, on one binary, in one run.

usage: python -m benchmarks.device_code BINARY [--cuobjdump FILE]

Both say for which GPUs BINARY, a gpu server or another ELF file, has machine code and PTX. cuobjdump is a part of CUDA.
Where there is none, ours alone is timed. Ends with exit code 1 when ours takes longer than a second for a gigabyte, or
a fifth of cuobjdump's time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import Ratio, best, parser, report
from serving_factory.inspection.device_code import read_device_code


def listed(cuobjdump: str, binary: Path) -> None:
    """List machine code and PTX by CUDA's own tool, which names a file for each piece."""
    for kind in ("--list-elf", "--list-ptx"):
        subprocess.run([cuobjdump, kind, binary], stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("binary", type=Path, help="an ELF file with device code")
    arguments.add_argument("--cuobjdump", default=shutil.which("cuobjdump"), help="CUDA's tool (default: that on PATH)")
    arguments.add_argument("--rounds", type=int, default=3, help="rounds of each; the best counts (default: 3)")
    options = arguments.parse_args()
    gigabytes = options.binary.stat().st_size / 1e9
    found = read_device_code(options.binary)
    count = sum(found.fat_binaries.values())
    print(f"{options.binary}: {gigabytes:.3f} GB, {count} fat binaries, {' '.join(found.sizes)}")
    ours = best(lambda: read_device_code(options.binary), options.rounds)
    ratios = [Ratio(name="device code, against a second for a GB", ours=ours, theirs=max(gigabytes, 0.1), limit=1)]
    if options.cuobjdump:
        theirs = best(lambda: listed(options.cuobjdump, options.binary), options.rounds)
        ratios.append(Ratio(name="device code, against cuobjdump", ours=ours, theirs=theirs, limit=0.2))
    else:
        print("cuobjdump is not installed: no ratio")
    return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
