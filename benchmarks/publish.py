"""How long it takes to publish an index that has not changed, and that nothing is sent.

usage: python -m benchmarks.publish

Builds two variants of the sample in a scratch copy of this checkout, publishes them to a registry of its own on
loopback, and publishes them again. Ends with exit code 1 when that takes 2 s or more, or sends anything.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import parser
from tests.integration import conftest  # noqa: F401 - it says how containers for tests are started
from tests.integration.pipeline import V1, V3, Checkout
from tests.integration.registry import FaultyProxy, LocalRegistry, write_docker_config

LIMIT = 2.0  # seconds
REPEATS = 5


def measure(checkout: Checkout, proxy: FaultyProxy) -> tuple[list[float], list[str]]:
    """Seconds of each run, and the methods of their requests to the registry."""
    chosen = ("--variant", V1, "--variant", V3)
    publish = checkout.line("publish", "--registry", proxy.host, *chosen)
    checkout.build(*chosen).built()
    checkout.run(*publish).built()
    proxy.requests.clear()
    runs = []
    for _ in range(REPEATS):
        began = time.monotonic()
        outcome = checkout.run(*publish).built()
        runs.append(time.monotonic() - began)
        assert outcome.events[-1]["indexes"][0]["status"] == "up_to_date"
    return runs, [method for method, _ in proxy.requests]


def main() -> int:
    """Measure and print."""
    parser(__doc__).parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="factory-publish-") as folder,
        LocalRegistry.run() as registry,
        FaultyProxy.run(registry.host) as proxy,
    ):
        os.environ["DOCKER_CONFIG"] = str(write_docker_config(Path(folder) / "docker", registry, proxy.host))
        checkout = Checkout.make(Path(folder) / "factory")
        try:
            runs, methods = measure(checkout, proxy)
        finally:
            checkout.clear()
    sent = [method for method in methods if method not in {"HEAD", "GET"}]
    seconds = statistics.median(runs)
    print(f"unchanged  {seconds:5.2f} s   median of {REPEATS}, {min(runs):.2f} to {max(runs):.2f} (limit {LIMIT:g} s)")
    print(f"requests   {len(methods) / REPEATS:5.1f}     a run; {len(sent)} of all that send anything (limit 0)")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if seconds < LIMIT and not sent else 1


if __name__ == "__main__":
    sys.exit(main())
