"""How long it takes to publish an index that has not changed, unsigned and signed, and that nothing is sent.

usage: python -m benchmarks.publish

Builds two variants of the sample in a scratch copy of this checkout, publishes them to a registry of its own on
loopback, and publishes them again. Ends with exit code 1 when that takes 2 s or more, or sends anything.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import parser
from tests.integration import conftest  # noqa: F401 - it says how containers for tests are started
from tests.integration.pipeline import MATRIX, V1, V3, Checkout
from tests.integration.registry import FaultyProxy, LocalRegistry, write_docker_config

LIMIT = 2.0  # seconds
REPEATS = 5
CHOSEN = ("--variant", V1, "--variant", V3)
PASSWORD = {"COSIGN_PASSWORD": "correct horse"}


def measure(checkout: Checkout, proxy: FaultyProxy, name: str) -> bool:
    """Publish what is there already, and print what that takes; whether the limits hold."""
    publish = checkout.line("publish", "--registry", proxy.host, *CHOSEN)
    checkout.run(*publish, env=PASSWORD).built()
    proxy.requests.clear()
    runs, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(REPEATS):
        began = time.monotonic()
        outcome = checkout.run(*publish, env=PASSWORD).built()
        runs.append(time.monotonic() - began)
        assert outcome.events[-1]["indexes"][0]["status"] == "up_to_date"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / REPEATS
    sent = [method for method, _ in proxy.requests if method not in {"HEAD", "GET"}]
    seconds = statistics.median(runs)
    times = f"{seconds:.2f} s, median of {REPEATS}, {min(runs):.2f} to {max(runs):.2f} (limit {LIMIT:g} s)"
    requests = f"{len(proxy.requests) / REPEATS:.1f} requests; {len(sent)} of all send anything (limit 0)"
    print(f"{name:9} {times}, {cpu:.2f} s of CPU; {requests}")
    return seconds < LIMIT and not sent


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
            checkout.build(*CHOSEN).built()
            holds = [measure(checkout, proxy, "unsigned")]
            assert checkout.run("keys", "new", "--output", f"{folder}/keys", env=PASSWORD).code == 0
            with (checkout.folder / MATRIX).open("a", encoding="utf-8") as file:
                file.write(f"\nsigning: {{key: {folder}/keys/cosign.key, attestations: true}}\n")
            holds.append(measure(checkout, proxy, "signed"))
        finally:
            checkout.clear()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
