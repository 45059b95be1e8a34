"""What the facts of the engine, the machine and the network mean for a build. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import urlsplit

from packaging.version import Version

from serving_factory.catalogue.cuda import Cuda, cuda_in_image, why_not_driver
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, Level, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.docker.client import FREE_SOME_SPACE
from serving_factory.docker.emulator import EMULATOR, GET_EMULATOR, NEWER_EMULATOR
from serving_factory.docker.host import GPU_REMEDY, CollectionRule, EngineFacts, GpuAccess
from serving_factory.docker.http import Reach
from serving_factory.pipeline.budget import Share, count_jobs, gib
from serving_factory.recipes.addresses import Download, Kind

_OLDEST_ENGINE = Version("23")  # from it on, BuildKit is the builder and takes named contexts
_OLDEST_API = Version("1.42")  # of engine 23
_OLDEST_BUILDX = Version("0.13")  # from it on, it prints its progress as JSON
_SELDOM = 7 * 24 * 3600.0  # seconds; what no build used for a week may go
_CLOCK_NOTICEABLE, _CLOCK_WRONG = 5.0, 300.0  # seconds; tokens of registries are good for 300 at most
# One job on a small file, with Bazel's server and the linker (4 GB were just enough in 2017, tensorflow/serving#534).
_LEAST_MEMORY = 4 * 10**9
_INOTIFY = {"max_user_instances": 128, "max_user_watches": 8192}  # the kernel's own defaults; less was set by hand


class Verdict(StrEnum):
    """How a check ended: WARN where something will be slower or missing, FAIL where a build will fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, with the numbers; what that means for a build, and what to do, empty where ok."""

    name: str
    verdict: Verdict
    found: str
    means: str = ""
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, verdict=Verdict.OK, found=found)


def warn(name: str, found: str, means: str, remedy: str) -> Check:
    """Something will be slower, or missing."""
    return Check(name=name, verdict=Verdict.WARN, found=found, means=means, remedy=remedy)


def fail(name: str, found: str, means: str, remedy: str) -> Check:
    """A build will fail."""
    return Check(name=name, verdict=Verdict.FAIL, found=found, means=means, remedy=remedy)


def seen_here(check: Check, elsewhere: str) -> Check:
    """Add to a check of this machine that the engine works on another, where it does."""
    return replace(check, found=f"{check.found} (here; the engine works on {elsewhere})") if elsewhere else check


def check_engine(facts: EngineFacts) -> Check:
    """Check the engine's version."""
    found = f"version {facts.version or 'unknown'}"
    if _version(facts.version) >= _OLDEST_ENGINE:
        return ok("engine", found)
    means = f"builds need named contexts, which the engine has since {_OLDEST_ENGINE}"
    return fail("engine", found, means, "upgrade Docker, then run `./factory setup`")


def check_api(facts: EngineFacts) -> Check:
    """Check that engine and docker command share a version of the API."""
    found = f"the engine speaks {facts.oldest_api} to {facts.api}, the docker command up to {facts.client_api}"
    if _version(facts.client_api) < _version(facts.oldest_api):
        return fail("API", found, "they share no version", "upgrade the docker command (docker-cli, docker-ce-cli)")
    if _version(facts.api) < _OLDEST_API:
        return fail("API", found, f"{_OLDEST_API} is needed", "upgrade Docker, then run `./factory setup`")
    return ok("API", found)


def check_buildx(facts: EngineFacts) -> Check:
    """Check buildx's version."""
    if facts.buildx is None:
        return fail("buildx", "the docker command has no such plugin", "nothing can be built", "run `./factory setup`")
    found = f"version {facts.buildx}"
    if _version(facts.buildx) >= _OLDEST_BUILDX:
        return ok("buildx", found)
    means = f"progress is read as buildx prints it since {_OLDEST_BUILDX}"
    return fail("buildx", found, means, "run `./factory setup`, or install docker-buildx 0.13 or later")


def check_store(facts: EngineFacts) -> Check:
    """Check where images are kept, which decides whether attestations can be kept with them."""
    if facts.containerd_store:
        return ok("image store", "containerd's: attestations can be kept with images")
    return warn(
        "image store",
        "the engine's own",
        "attestations (SBOM, provenance) cannot be kept with images; all else works",
        'if they are needed: set {"features": {"containerd-snapshotter": true}} in daemon.json and restart the engine',
    )


def check_clock(facts: EngineFacts) -> Check:
    """Compare the engine's clock with ours."""
    seconds = abs((facts.time - facts.asked_at).total_seconds())
    found = f"the engine's clock and this machine's are {seconds:.1f} s apart"
    remedy = "have both machines keep time by NTP (timedatectl set-ntp true)"
    if seconds > _CLOCK_WRONG:
        return fail("clock", found, "registries refuse tokens and certificates of another time", remedy)
    if seconds > _CLOCK_NOTICEABLE:
        return warn("clock", found, "times in records, logs and images will not fit together", remedy)
    return ok("clock", found)


# What needs nothing but the engine's facts, in the order of the report
ENGINE_CHECKS = (check_engine, check_api, check_buildx, check_store, check_clock)


def check_collection(
    rules: Sequence[CollectionRule] | None, *, held: int, caches: int, planned: int, free: int | None
) -> Check:
    """Check BuildKit's garbage collection against Bazel's caches, which are cache mounts."""
    # `held` bytes are in the build cache, by which BuildKit counts, `caches` of them Bazel's; the planned builds add
    # `planned`. `rules` is None where they are unknown, `free` where the disk is on another machine.
    name = "garbage collection"
    ours = f"the build cache holds {gib(held)}, {gib(caches)} of it Bazel's"
    if planned:
        ours += f", and about {gib(planned)} are added by what is planned"
    held, free = held + planned, None if free is None else max(0, free - planned)
    # One rule in the place of the default ones: keep twice of what there will be. Older and newer engines read it.
    keep = {"all": True, "keepStorage": f"{max(50, -(-2 * held // 10**10) * 10)}GB"}
    daemon = json.dumps({"builder": {"gc": {"enabled": True, "policy": [keep]}}})
    remedy = (
        f"put this into the engine's daemon.json, and restart the engine: {daemon} (BuildKit then keeps that much; "
        "above it, it removes what was used least recently)"
    )
    if rules is None:
        means = "it may drop Bazel's caches, and the next builds compile from nothing"
        return warn(name, f"the builder does not show its rules; {ours}", means, remedy)
    taking = {rule.keeps(held, free): rule for rule in rules if rule.mounts and rule.unused < _SELDOM}
    if not taking:
        unless = " that is used each week" if rules else ""
        return ok(name, f"BuildKit removes nothing by itself{unless}; {ours}")
    kept = min(taking)
    if kept >= held:
        return ok(name, f"BuildKit keeps up to {gib(kept)}; {ours}")
    hours = taking[kept].unused / 3600
    when = f", once it was not used for {hours:.0f} h" if hours >= 1 else ""
    means = "it takes Bazel's caches as a whole, and the next builds compile from nothing"
    return warn(name, f"BuildKit removes what is above {gib(kept)}{when}; {ours}", means, remedy)


def check_gpu(access: GpuAccess | None, driver: str | None, *, planned: bool) -> Check:
    """Check whether the engine can give a GPU to the images of the planned gpu variants; `driver` is this machine's."""
    if not planned:
        return ok("GPU", "no gpu variant is planned")
    given = f"`docker run {access}` gives GPUs" if access else "the engine gives containers no GPU"
    found = f"driver {driver or 'unknown'}; {given}"
    if access:
        return ok("GPU", found)
    means = "gpu images can be built here, but not be tried on a GPU"
    return warn("GPU", found, means, f"to try them here: {GPU_REMEDY}")


def check_driver(driver: str, planned: Mapping[str, Cuda], *, asked: bool) -> Check:
    """Compare a driver with what the planned gpu variants, by id, need; it fails if the user named it (`asked`)."""
    name, bad = "GPU driver", fail if asked else warn
    newest, with_ptx = newest_served(driver), newest_served(driver, ptx=True)
    found = f"{driver}; the newest release that it serves is {newest or 'none of the catalogue'}"
    if newest != with_ptx:
        found += f"; the newest whose PTX it translates is {with_ptx or 'none'}"
    if not planned:
        return ok(name, f"{found}; no gpu variant is chosen, so none was compared")
    if too_new := [cuda for cuda in planned.values() if not cuda.runs_on(driver)]:
        ids = ", ".join(id_ for id_, cuda in planned.items() if cuda in too_new)
        needed = max(too_new, key=lambda cuda: Version(cuda.minimum_driver))
        means = f"{why_not_driver(driver, needed)}; with this driver these do not compute on a GPU: {ids}"
        other = f", or build a release that it serves: `releases: [{newest}]` in the matrix file" if newest else ""
        return bad(name, found, means, f"install driver {needed.minimum_driver} or later{other}")
    if partly := [cuda for cuda in planned.values() if not cuda.runs_on(driver, ptx=True)]:
        needed = max(partly, key=lambda cuda: Version(cuda.driver))
        means = (
            f"it runs machine code of CUDA {needed.version} by minor-version compatibility, but does not translate its "
            "PTX: a card that an image has no machine code for computes nothing"
        )
        code = "`./factory explain VARIANT` lists what a variant has"
        return warn(name, found, means, f"for such a card install driver {needed.driver} or later; {code}")
    return ok(name, found)


def newest_served(driver: str, *, ptx: bool = False) -> str | None:
    """The newest release whose gpu images run with a driver, with `ptx` their PTX too; None where there is none."""
    facts = {tag: release.flavours.get(Flavour.GPU) for tag, release in releases().items()}
    toolkits = {tag: cuda_in_image(one.gpu.cuda, compat=False) for tag, one in facts.items() if one and one.gpu}
    return max((tag for tag, cuda in toolkits.items() if cuda.runs_on(driver, ptx=ptx)), key=Version, default=None)


def check_memory(*, cpus: int, memory: int, at_once: int, share: Share, needed: int | None) -> Check:
    """Check memory and cores of the engine's machine for the jobs that will run at once."""
    # In the plan's largest wave `at_once` variants compile, each with its `share`; `needed` is the plan's expected peak
    # in bytes, None where there is no estimate.
    jobs = share.jobs if at_once else 0
    found = f"{cpus} cores, {gib(memory)}"
    if at_once:
        compiles = f"{at_once} compiles at once, " if at_once > 1 else ""
        found += f"; {compiles}{count_jobs(jobs)} with {gib(share.memory / jobs)} each"
    more = "give the engine's machine more memory"
    if memory < _LEAST_MEMORY:
        return fail("memory", found, f"TensorFlow does not compile in less than {gib(_LEAST_MEMORY)}", more)
    if jobs > cpus:
        return warn("memory", found, "more jobs than cores wait for each other", f"set resources.jobs to {cpus}")
    if needed is None:
        return ok("memory", found)
    found += f"; {gib(needed)} are expected"
    if needed <= memory:
        return ok("memory", found)
    if at_once > 1:
        more = f"build with --parallel {max(1, at_once * memory // needed)}, or {more}"
    elif jobs > 1:
        more = f"set resources.jobs to {jobs // 2}, or {more}"
    return warn("memory", found, "a compiler may be killed for lack of memory", more)


def check_disk(*, free: int | None, one: int, planned: int) -> Check:
    """Check the disk, None if on another machine, for the bytes of the largest planned variant, and of all of them."""
    if free is None:
        return ok("disk", f"the engine is on another machine; about {gib(planned)} are needed there")
    found = f"{gib(free)} free where the engine keeps its data; about {gib(planned)} are needed for what is planned"
    if free < one:
        return fail("disk", found, "not one variant fits", FREE_SOME_SPACE)
    if free < planned:
        return warn("disk", found, "the disk may run full before the last variant", FREE_SOME_SPACE)
    return ok("disk", found)


def check_place(elsewhere: str) -> Check:
    """Warn of an engine whose machine has another name than this one."""
    return warn(
        "place",
        f"the engine calls its machine {elsewhere}, and that is not this one's name",
        "smoke tests mount this machine's folders and ask 127.0.0.1; they fail if it is another machine",
        "run the factory on the engine's machine; Docker Desktop has another name for this one, and works",
    )


def check_inotify(limits: Mapping[str, int]) -> Check:
    """Check the kernel's limits for watching files; those that could not be read are not in `limits`."""
    found = ", ".join(f"{name} {value:,}" for name, value in limits.items()) or "unknown here"
    low = [f"fs.inotify.{name}={least}" for name, least in _INOTIFY.items() if limits.get(name, least) < least]
    if low:
        means = "Bazel and containers may fail with `too many open files` or `no space left on device`"
        return warn("inotify", found, means, f"as root: sysctl -w {' '.join(low)}")
    return ok("inotify", found)


def host_level(flags: frozenset[str]) -> Level:
    """Return the highest level that a CPU with these flags of /proc/cpuinfo can run."""
    return max((level for level in LEVELS if flags.issuperset(level_facts(level).cpuinfo)), key=LEVELS.index)


def check_cpu(
    flags: frozenset[str] | None, planned: Mapping[str, Level], targets: Mapping[str, Sequence[Level]]
) -> Check:
    """Compare this CPU's flags of /proc/cpuinfo, None where it lists none, with the plan; name suitable targets."""
    # `planned` maps a variant's id to its level, `targets` a target's name to the levels of its variants.
    if flags is None:
        found = "no x86-64 features are listed here"
        means = f"whether these can be tried here is not known: {', '.join(planned)}"
        return warn("CPU", found, means, "build them on an x86-64 machine with Linux") if planned else ok("CPU", found)
    level = host_level(flags)
    rank = LEVELS.index(level)
    highest = {
        name: max((LEVELS.index(each) for each in levels if each in LEVELS), default=-1)
        for name, levels in targets.items()
    }
    fitting = {name: place for name, place in highest.items() if 0 <= place <= rank}
    best = max(fitting.values(), default=-1)
    suit = ", ".join(name for name, place in fitting.items() if place == best)
    found = f"{level}; targets that suit it: {suit or 'none of this matrix'}"
    beyond = [name for name, each in planned.items() if each in LEVELS and LEVELS.index(each) > rank]
    if beyond:
        means = f"these can be compiled here, but not be tried: {', '.join(beyond)}"
        remedy = f"build them on a machine whose CPU has them, or choose: --target {suit or 'NAME'}"
        return warn("CPU", found, means, remedy)
    return ok("CPU", found)


def check_emulator(emulator: str, refused: Mapping[Level, str]) -> Check:
    """Check what emulates CPUs for smoke: its version and place, empty for none; planned levels → why it has none."""
    if not emulator:
        means = "smoke proves no CPU level by running: it tries images on this machine's own CPU"
        return warn("emulator", f"there is no {EMULATOR}", means, GET_EMULATOR)
    # AVX-512, which no qemu emulates, is nothing that can be had.
    if lower := {level: why for level, why in refused.items() if level is not LEVELS[-1]}:
        means = f"smoke does not prove {', '.join(lower)} by running: it tries such images on this machine's own CPU"
        return warn("emulator", f"{emulator}: {next(iter(lower.values()))}", means, NEWER_EMULATOR)
    return ok("emulator", f"{emulator}; not {', '.join(refused)}" if refused else emulator)


class Login(StrEnum):
    """How a registry answered our credentials."""

    ACCEPTED = "accepted"
    NOT_REQUIRED = "not required"
    MISSING = "missing"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    NONE_NAMED = "none named"


class BaseState(StrEnum):
    """Where a base image is available."""

    HELD = "the engine has it"
    HERE_ALONE = "the engine has it, its registry does not"
    THERE = "the registry has it"
    GONE = "gone"
    UNKNOWN = "unknown"


def check_proxies(client: Mapping[str, str], engine: Mapping[str, str], matrix: Mapping[str, str]) -> Check:
    """Compare the proxies, `http`, `https` and `no`, of this shell, of the engine (base images), and of the matrix."""
    sides = {"this shell": client, "the engine": engine, "the matrix": matrix}
    used = {side: {name: value for name, value in values.items() if name != "no"} for side, values in sides.items()}
    if not any(used.values()):
        return ok("proxies", "none anywhere")
    public = {  # without the passwords in the URLs
        side: [f"{name} {re.sub('^(.*://)?.*@', lambda head: head[1] or '', url)}" for name, url in values.items()]
        for side, values in used.items()
    }
    found = "; ".join(f"{side}: {', '.join(values) or 'none'}" for side, values in public.items())
    remedy = "set the same proxies in this shell, in network.proxies of the matrix, and in the engine's daemon.json"
    if not used["the engine"]:
        return warn("proxies", found, "the engine pulls base images without a proxy, and may not reach them", remedy)
    if not used["the matrix"]:
        return warn("proxies", found, "builds fetch without a proxy, and may not reach what they need", remedy)
    if any(values and values != used["the matrix"] for values in used.values()):
        return warn("proxies", found, "they differ; what one reaches, another may not", remedy)
    return ok("proxies", found)


def check_login(registry: str, login: Login, why: str = "") -> Check:
    """Check whether the registry that images go to accepts our credentials; `why` is what it said."""
    name, because, remedy = "registry login", f": {why}" if why else "", f"docker login {registry}"
    no_push = "images can be built, but not be pushed there"
    match login:
        case Login.NONE_NAMED:
            return ok(name, "the matrix names no registry; `--registry` decides where images go")
        case Login.ACCEPTED:
            return ok(name, f"{registry} answers, and accepts our credentials")
        case Login.NOT_REQUIRED:
            return ok(name, f"{registry} answers, and requires no login")
        case Login.MISSING:
            return warn(name, f"{registry} requires a login{because}", no_push, remedy)
        case Login.UNREACHABLE:
            return warn(name, f"{registry} does not answer{because}", no_push, "check its name and the network")
        case Login.DENIED:
            return fail(name, f"{registry} refuses us{because}", "a push will fail after everything was built", remedy)


def check_bases(bases: Mapping[str, BaseState]) -> Check:
    """Check whether the base images of the planned variants are still available."""
    found = "; ".join(f"{base}: {state}" for base, state in bases.items()) or "none is needed"
    by_state = {state: ", ".join(base for base, each in bases.items() if each is state) for state in BaseState}
    if gone := by_state[BaseState.GONE]:
        remedy = "name images that exist at network.base_images in the matrix file"
        return fail("base images", found, f"builds on {gone} fail at their first step", remedy)
    if here := by_state[BaseState.HERE_ALONE]:
        means = f"builds on {here} fail on any other machine, and on this one once the engine drops its copy"
        remedy = "push it to a registry of your own and name it at network.base_images, or name images that exist"
        return warn("base images", found, means, remedy)
    if by_state[BaseState.UNKNOWN]:
        means = "it could not be found out whether those still exist"
        remedy = "check the network; or pull them now, so that the engine has them"
        return warn("base images", found, means, remedy)
    return ok("base images", found)


def check_downloads(downloads: Sequence[Download], found: Mapping[str, tuple[Reach, str]]) -> Check:
    """Check whether what the planned builds download is available; `found` has how each address answered."""
    name = "downloads"
    asked = [one for one in downloads if one.place in found]
    if not asked:
        return ok(name, "no address to check: all comes from folders, images and mirrors")
    # Of a host any answer will do; a file must be there.
    least = {Kind.HOST: set(Reach) - {Reach.SILENT}}
    bad = [one for one in asked if found[one.place][0] not in least.get(one.kind, {Reach.THERE})]
    if not bad:
        return ok(name, f"all {len(asked)} addresses answer: {'; '.join(one.what for one in asked)}")
    doubtful = all(found[one.place][0] is Reach.ANSWERS for one in bad)
    # Of a host that does not answer at all, one line is enough.
    by_answer: dict[str, dict[str, None]] = {}
    for one in bad:
        reach, words = found[one.place]
        where = urlsplit(one.place).netloc if reach is Reach.SILENT else one.place
        by_answer.setdefault(f"{where}: {reach} ({words})", {})[one.what] = None
    lines = "; ".join(f"{answer} for {', '.join(what)}" for answer, what in by_answer.items())
    return (warn if doubtful else fail)(
        name,
        f"{len(asked) - len(bad)} of {len(asked)} addresses have it; {lines}",
        "what answers so may serve it all the same, or later" if doubtful else "builds end where they ask for it",
        "see whether this network needs a proxy or mirrors (docs/matrix.md, The network); without the internet, fill "
        "folders (docs/closed-network.md)",
    )


def _version(text: str) -> Version:
    """The numbers that a version begins with, `26.1.5` of `26.1.5+dfsg1`; 0 where there are none."""
    found = re.search(r"\d+(?:\.\d+)*", text)
    return Version(found.group() if found else "0")
