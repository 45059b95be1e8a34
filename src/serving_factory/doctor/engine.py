"""What the engine's facts mean. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from packaging.version import Version

from serving_factory.docker.host import CollectionRule, EngineFacts
from serving_factory.doctor.check import Check, fail, gib, ok, warn

_OLDEST_ENGINE = Version("23")
_OLDEST_BUILDX = Version("0.13")
_OLDEST_API = Version("1.42")  # of engine 23
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_SELDOM = 7 * 24 * 3600.0  # seconds; what no build used for a week may go
_CLOCK_NOTICEABLE, _CLOCK_WRONG = 5.0, 300.0  # seconds; tokens of registries are good for 300 at most


def check_engine(facts: EngineFacts) -> Check:
    """Its version: from 23 on, BuildKit is the builder and takes named contexts."""
    if _version(facts.version) < _OLDEST_ENGINE:
        return fail(
            "engine",
            f"version {facts.version or 'unknown'}",
            f"builds need named contexts, which the engine has since {_OLDEST_ENGINE}",
            "upgrade Docker, then run `./factory setup`",
        )
    return ok("engine", f"version {facts.version}")


def check_api(facts: EngineFacts) -> Check:
    """Whether engine and docker command share a version of the API."""
    found = f"the engine speaks {facts.oldest_api} to {facts.api}, the docker command up to {facts.client_api}"
    if _version(facts.client_api) < _version(facts.oldest_api):
        return fail("API", found, "they share no version", "upgrade the docker command (docker-cli, docker-ce-cli)")
    if _version(facts.api) < _OLDEST_API:
        return fail("API", found, f"{_OLDEST_API} is needed", "upgrade Docker, then run `./factory setup`")
    return ok("API", found)


def check_buildx(facts: EngineFacts) -> Check:
    """Buildx's version: since 0.13 it tells its progress as JSON."""
    if facts.buildx is None:
        return fail("buildx", "the docker command has no such plugin", "nothing can be built", "run `./factory setup`")
    if _version(facts.buildx) < _OLDEST_BUILDX:
        return fail(
            "buildx",
            f"version {facts.buildx}",
            f"progress is read as buildx tells it since {_OLDEST_BUILDX}",
            "run `./factory setup`, or install docker-buildx 0.13 or later",
        )
    return ok("buildx", f"version {facts.buildx}")


def check_store(facts: EngineFacts) -> Check:
    """Where images are kept decides whether attestations can be kept with them."""
    if facts.containerd_store:
        return ok("image store", "containerd's: attestations can be kept with images")
    return warn(
        "image store",
        "the engine's own",
        "attestations (SBOM, provenance) cannot be kept with images; all else works",
        'if they are needed: set {"features": {"containerd-snapshotter": true}} in daemon.json and restart the engine',
    )


def check_collection(
    rules: Sequence[CollectionRule] | None, *, held: int, caches: int, planned: int, free: int | None
) -> Check:
    """BuildKit's garbage collection against Bazel's caches, which are cache mounts.

    Args:
        rules: that the engine follows; None where it does not tell.
        held: bytes in the build cache, by which BuildKit counts.
        caches: bytes in Bazel's caches, a part of that.
        planned: bytes that come to it with the builds that are to be done.
        free: bytes free on their disk; None where that is on another machine.
    """
    name = "garbage collection"
    ours = f"the build cache holds {gib(held)}, {gib(caches)} of it Bazel's"
    if planned:
        ours += f", and about {gib(planned)} come to it with what is planned"
    held, free = held + planned, None if free is None else max(0, free - planned)
    remedy = (
        f"put this into the engine's daemon.json, and restart the engine: {_daemon_json(held)} (BuildKit then keeps "
        "that much; above it, it removes what was used least recently)"
    )
    if rules is None:
        return warn(
            name,
            f"the builder does not tell its rules; {ours}",
            "it may drop Bazel's caches, and the next builds compile from nothing",
            remedy,
        )
    taking = {rule.keeps(held, free): rule for rule in rules if rule.mounts and rule.unused < _SELDOM}
    if not taking:
        unless = " that is used each week" if rules else ""
        return ok(name, f"BuildKit removes nothing by itself{unless}; {ours}")
    kept = min(taking)
    if kept < held:
        hours = taking[kept].unused / 3600
        when = f", once it was not used for {hours:.0f} h" if hours >= 1 else ""
        return warn(
            name,
            f"BuildKit removes what is above {gib(kept)}{when}; {ours}",
            "it takes Bazel's caches as a whole, and the next builds compile from nothing",
            remedy,
        )
    return ok(name, f"BuildKit keeps up to {gib(kept)}; {ours}")


def _daemon_json(held: int) -> str:
    """One rule in the place of the default ones: keep twice of what there will be. Older and newer engines read it."""
    keep = max(50, -(-2 * held // 10**10) * 10)
    rule = {"all": True, "keepStorage": f"{keep}GB"}
    return json.dumps({"builder": {"gc": {"enabled": True, "policy": [rule]}}})


def check_clock(facts: EngineFacts) -> Check:
    """The engine's clock against ours."""
    seconds = abs((facts.time - facts.asked_at).total_seconds())
    found = f"the engine's clock and this machine's are {seconds:.1f} s apart"
    remedy = "have both machines keep time by NTP (timedatectl set-ntp true)"
    if seconds > _CLOCK_WRONG:
        return fail("clock", found, "registries refuse tokens and certificates of another time", remedy)
    if seconds > _CLOCK_NOTICEABLE:
        return warn("clock", found, "times in records, logs and images will not fit together", remedy)
    return ok("clock", found)


def check_gpu(facts: EngineFacts, driver: str | None, needed: Iterable[tuple[str, str]]) -> Check:
    """GPU runtime and driver against what the planned variants need.

    Args:
        facts: of the engine.
        driver: version of the NVIDIA driver; None where there is none.
        needed: CUDA's version and the oldest driver for it, of each planned gpu variant.
    """
    required = sorted(set(needed), key=lambda pair: Version(pair[1]))
    if not required:
        return ok("GPU", "no gpu variant is planned")
    runtime = "nvidia" in facts.runtimes or facts.cdi
    found = f"driver {driver or 'none'}, {'a' if runtime else 'no'} container runtime for GPUs"
    if driver is None or not runtime:
        return warn(
            "GPU",
            found,
            "gpu images can be built here, but not be tried on a GPU",
            "to try them here: install the NVIDIA driver and the NVIDIA container toolkit",
        )
    missing = [f"CUDA {cuda} needs {oldest}" for cuda, oldest in required if _version(driver) < Version(oldest)]
    if missing:
        return warn(
            "GPU",
            found,
            f"gpu images can be built here, but the driver is too old to try them: {', '.join(missing)}",
            "to try them here: install a newer NVIDIA driver",
        )
    return ok("GPU", found)


def _version(text: str) -> Version:
    """The numbers that a version begins with, `26.1.5` of `26.1.5+dfsg1`; 0 where there are none."""
    found = _NUMBERS.search(text)
    return Version(found.group() if found else "0")
