"""The doctor: each check with a case in which it fails; the probes on files; the page."""

from __future__ import annotations

import json
import re
import socket
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.catalogue.cuda import cuda_in_image
from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.commands import doctor as doctoring
from serving_factory.commands.doctor import doctor_page
from serving_factory.commands.shared import Asked, Checkout
from serving_factory.docker.emulator import Emulator
from serving_factory.docker.engine import Engine
from serving_factory.docker.host import (
    CollectionRule,
    EngineFacts,
    GpuAccess,
    byte_count,
    collection_rules,
    engine_facts,
    read_facts,
)
from serving_factory.docker.http import Reach
from serving_factory.docker.registry import Credentials
from serving_factory.doctor import probes
from serving_factory.doctor.checks import (
    BaseState,
    Check,
    Login,
    Verdict,
    check_api,
    check_bases,
    check_buildx,
    check_clock,
    check_collection,
    check_cpu,
    check_disk,
    check_driver,
    check_emulator,
    check_engine,
    check_gpu,
    check_inotify,
    check_login,
    check_memory,
    check_proxies,
    check_store,
    host_level,
    newest_served,
)
from serving_factory.errors import (
    EngineUnavailableError,
    FactoryError,
    MachineUnfitError,
    RegistryDeniedError,
    RegistryUnreachableError,
)
from serving_factory.pipeline.budget import Share

from .matrices import ROOT, document, load, write

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
GIB = 2**30

VERSION: dict[str, Any] = {
    "Client": {"ApiVersion": "1.45", "DefaultAPIVersion": "1.50"},
    "Server": {"Version": "26.1.5+dfsg1", "ApiVersion": "1.45", "MinAPIVersion": "1.24"},
}
INFO: dict[str, Any] = {
    "ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "0.13.1+ds1"}]},
    "DriverStatus": [["Backing Filesystem", "extfs"]],
    "NCPU": 2,
    "MemTotal": 24 * GIB,
    "Name": "vm",
    "DockerRootDir": "/var/lib/docker",
    "SystemTime": "2026-01-31T12:00:01.565505758Z",
    "HttpProxy": "",
    "HttpsProxy": "http://proxy:3128",
    "Runtimes": {"runc": {}},
    "CDISpecDirs": None,
}
FACTS = read_facts(VERSION, INFO, asked_at=NOW)


def bad(check: Check, verdict: Verdict, text: str) -> None:
    """A check that is not ok says what it means and what to do."""
    assert check.verdict is verdict, check
    assert text in f"{check.found}\n{check.means}\n{check.remedy}"
    assert check.means
    assert check.remedy


def well(check: Check) -> None:
    assert (check.verdict, check.means, check.remedy) == (Verdict.OK, "", "")


# --- the engine's facts ----------------------------------------------------------------------------------------------


def test_the_engine_is_read() -> None:
    assert (FACTS.version, FACTS.api, FACTS.oldest_api, FACTS.client_api) == ("26.1.5+dfsg1", "1.45", "1.24", "1.50")
    assert (FACTS.buildx, FACTS.containerd_store, FACTS.cpus, FACTS.memory) == ("0.13.1+ds1", False, 2, 24 * GIB)
    assert FACTS.time == NOW + timedelta(seconds=1, microseconds=565505)
    assert (FACTS.proxies, FACTS.gpu) == ({"https": "http://proxy:3128"}, None)
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    assert read_facts(VERSION, {**INFO, "DriverStatus": status}, asked_at=NOW).containerd_store
    assert read_facts(VERSION, {**INFO, "ClientInfo": {}}, asked_at=NOW).buildx is None


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("Cannot connect to the Docker daemon", "Start it"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
    ],
)
def test_an_engine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, error: str, remedy: str) -> None:
    def refused(_argv: object, *, on_line: Any, **_more: object) -> int:  # noqa: ANN401 - a callback
        on_line(json.dumps({"ServerErrors": [error]}))
        return 0

    monkeypatch.setattr("serving_factory.docker.process.run", refused)
    with pytest.raises(EngineUnavailableError) as caught:
        engine_facts()
    assert error in caught.value.why
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("text", ["null", "[]", "{}", "", "<html>", "[" * 100_000, '{"SystemTime": ""}'])
def test_what_does_not_answer_as_an_engine(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def run(_argv: object, *, on_line: Any, **_more: object) -> int:  # noqa: ANN401 - a callback
        on_line(text)
        return 0

    monkeypatch.setattr("serving_factory.docker.process.run", run)
    with pytest.raises(EngineUnavailableError):
        engine_facts()


@pytest.mark.parametrize(
    ("text", "count"),
    [("16.5MB", 16_500_000), ("2GiB", 2 * GIB), ("512kB", 512_000), ("0B", 0), ("3TB", 3 * 10**12), ("much", None)],
)
def test_sizes_as_docker_prints_them(text: str, count: int | None) -> None:
    assert byte_count(text) == count


def inspected(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[CollectionRule, ...] | None:
    def inspect(_argv: object, *, on_line: Any, **_more: object) -> int:  # noqa: ANN401 - a callback
        for line in text.splitlines():
            on_line(line)
        return 0

    monkeypatch.setattr("serving_factory.docker.process.run", inspect)
    return collection_rules()


DAY = 24 * 3600.0
MIB = 2**20
ANY = CollectionRule(mounts=True)
RULES = {
    # engine 26.1.5 with `"builder": {"gc": {"enabled": true}}`: the first rule's filter is one that nothing matches
    "buildx-0.13-default-policy": (
        CollectionRule(mounts=False, unused=2 * DAY, reserved=int(3.346 * GIB)),
        CollectionRule(mounts=True, unused=60 * DAY, reserved=int(24.21 * GIB)),
        CollectionRule(mounts=True, reserved=int(24.21 * GIB)),
        CollectionRule(mounts=True, reserved=int(24.21 * GIB)),
    ),
    # a BuildKit of 2025: three limits in the place of one
    "buildx-0.30-three-limits": (
        CollectionRule(mounts=False, unused=2 * DAY, most=int(488.3 * MIB)),
        *(
            CollectionRule(
                mounts=True, unused=unused, reserved=int(9.313 * GIB), most=int(93.13 * GIB), free=int(43.77 * GIB)
            )
            for unused in (60 * DAY, 0.0, 0.0)
        ),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_the_garbage_collection_are_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    printed = (ROOT / "tests" / "unit" / "recorded" / f"{name}.txt").read_text(encoding="utf-8")
    assert inspected(monkeypatch, printed) == RULES[name]


RUNNING = "Driver: docker\nStatus:           running\n"
RULE = f"{RUNNING}GC Policy rule#0:\n All: false\n"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (RUNNING, ()),
        ("Driver: docker-container\nStatus: inactive\n", None),
        (RULE, (ANY,)),
        (f"{RULE} Keep Bytes: 512MB", (replace(ANY, reserved=512_000_000),)),
        (f"{RULE} Keep Duration: 172.8µs", (replace(ANY, unused=172.8 * 1e-6),)),
        (f"{RULE} Keep Duration: 2200h0m0.5s", (replace(ANY, unused=2200 * 3600 + 0.5),)),
        (f"{RULE} Filters: ", (ANY,)),
        (f"{RULE} Filters: type==source.local type==exec.cachemount", (ANY,)),
        (f"{RULE} Filters: type==source.local,type==exec.cachemount", (replace(ANY, mounts=False),)),
        (f"{RULE} Filters: type==exec.cachemount,description~=x", (ANY,)),
        (f"{RULE} Filters: type!=exec.cachemount", (replace(ANY, mounts=False),)),
        (f"{RULE} Filters: type!=regular", (ANY,)),
    ],
)
def test_what_a_rule_takes_and_when(
    monkeypatch: pytest.MonkeyPatch, text: str, rules: tuple[CollectionRule, ...] | None
) -> None:
    assert inspected(monkeypatch, text) == rules


@pytest.mark.parametrize(
    ("rule", "free", "kept"),
    [
        (ANY, 5, 0),
        (replace(ANY, reserved=30), 5, 30),
        (replace(ANY, most=60), 5, 60),
        (replace(ANY, most=60, free=5), 5, 60),
        (replace(ANY, most=60, free=50), 5, 55),
        (replace(ANY, most=60, free=50, reserved=58), 5, 58),
        (replace(ANY, most=60, free=50), None, 60),
        (replace(ANY, free=50), 5, 55),
        (replace(ANY, free=50), 50, 100),
    ],
)
def test_how_much_a_rule_keeps_of_a_build_cache_of_100_bytes(rule: CollectionRule, free: int | None, kept: int) -> None:
    assert rule.keeps(100, free) == kept


# --- the engine's checks ----------------------------------------------------------------------------------------------


def engine(**more: Any) -> EngineFacts:  # noqa: ANN401 - members of EngineFacts
    return replace(FACTS, **more)


def test_the_engine_must_be_new_enough() -> None:
    well(check_engine(FACTS))
    bad(check_engine(engine(version="20.10.24")), Verdict.FAIL, "20.10.24")
    bad(check_engine(engine(version="")), Verdict.FAIL, "unknown")


def test_engine_and_command_must_share_an_api() -> None:
    well(check_api(FACTS))
    bad(check_api(engine(oldest_api="1.44", client_api="1.43")), Verdict.FAIL, "share no version")
    bad(check_api(engine(api="1.41")), Verdict.FAIL, "1.42 is needed")


def test_buildx_must_be_there_and_new_enough() -> None:
    well(check_buildx(FACTS))
    well(check_buildx(engine(buildx="v0.30.1")))
    bad(check_buildx(engine(buildx=None)), Verdict.FAIL, "no such plugin")
    bad(check_buildx(engine(buildx="v0.12.0")), Verdict.FAIL, "0.12.0")


def test_the_image_store_decides_on_attestations() -> None:
    well(check_store(engine(containerd_store=True)))
    bad(check_store(FACTS), Verdict.WARN, "attestations")


def collected(*rules: CollectionRule, held: int = 30 * GIB, planned: int = 0, free: int | None = 99 * GIB) -> Check:
    return check_collection(rules, held=held, caches=10 * GIB, planned=planned, free=free)


def test_the_garbage_collection_must_leave_the_caches_alone() -> None:
    well(collected())
    assert "removes nothing by itself;" in collected().found
    assert "nothing by itself that is used each week;" in collected(replace(ANY, mounts=False, most=GIB)).found
    well(collected(replace(ANY, reserved=31 * GIB)))
    bad(collected(replace(ANY, reserved=31 * GIB), replace(ANY, most=29 * GIB)), Verdict.WARN, "above 29.0 GiB")
    bad(collected(replace(ANY, most=60 * GIB, free=100 * GIB), free=90 * GIB), Verdict.WARN, "above 20.0 GiB")
    bad(collected(replace(ANY, most=29 * GIB), free=None), Verdict.WARN, "above 29.0 GiB")


def test_what_is_planned_must_fit_as_well() -> None:
    well(collected(replace(ANY, most=60 * GIB)))
    full = collected(replace(ANY, most=60 * GIB), planned=31 * GIB)
    bad(full, Verdict.WARN, "about 31.0 GiB are added by what is planned")
    assert '"keepStorage": "140GB"' in full.remedy
    free = replace(ANY, free=20 * GIB)
    well(collected(free, free=49 * GIB))
    bad(collected(free, planned=30 * GIB, free=49 * GIB), Verdict.WARN, "above 59.0 GiB")


def test_a_rule_for_what_was_not_used_for_a_while_counts_where_that_is_short() -> None:
    bad(collected(replace(ANY, unused=2 * DAY, most=GIB)), Verdict.WARN, "once it was not used for 48 h")
    well(collected(replace(ANY, unused=60 * DAY, most=GIB)))
    well(collected(replace(ANY, mounts=False, most=GIB)))


def test_unknown_rules_are_not_ok() -> None:
    bad(check_collection(None, held=GIB, caches=GIB, planned=0, free=GIB), Verdict.WARN, "does not show its rules")


@pytest.mark.parametrize(("held", "keep"), [(2 * 10**9, "50GB"), (25 * 10**9, "50GB"), (26 * 10**9, "60GB")])
def test_the_remedy_is_a_daemon_json_that_keeps_twice_of_what_is_there(held: int, keep: str) -> None:
    remedy = collected(replace(ANY, most=GIB), held=held).remedy
    found = re.search(r"\{.*\}", remedy)
    assert found
    assert json.loads(found[0]) == {
        "builder": {"gc": {"enabled": True, "policy": [{"all": True, "keepStorage": keep}]}}
    }


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(-1, Verdict.OK), (6, Verdict.WARN), (-6, Verdict.WARN), (400, Verdict.FAIL)]
)
def test_the_clocks_must_agree(seconds: int, verdict: Verdict) -> None:
    assert check_clock(engine(time=NOW + timedelta(seconds=seconds))).verdict is verdict


ALL = "- name: all\n  containerEdits: {}\n"
ALL_GPUS = {"Source": "cdi", "ID": "nvidia.com/gpu=all"}
OTHER = {"Source": "cdi", "ID": "vendor.com/nic=all"}
RUNTIMES = {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}


@pytest.mark.parametrize(
    ("info", "access"),
    [
        ({}, None),
        ({"Runtimes": RUNTIMES}, GpuAccess.RUNTIME),
        ({"Runtimes": RUNTIMES, "DiscoveredDevices": [OTHER, ALL_GPUS]}, GpuAccess.CDI),
        ({"Runtimes": RUNTIMES, "DiscoveredDevices": [OTHER]}, GpuAccess.RUNTIME),
        ({"Runtimes": RUNTIMES, "DiscoveredDevices": [None, "nvidia.com/gpu=all", [1]]}, GpuAccess.RUNTIME),
        ({"CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": []}, None),
        ({"CDISpecDirs": ["/nowhere/cdi"]}, None),
    ],
)
def test_how_an_engine_gives_gpus(info: dict[str, Any], access: GpuAccess | None) -> None:
    assert read_facts(VERSION, {**INFO, **info}, asked_at=NOW).gpu is access


@pytest.mark.parametrize(
    ("name", "text", "access"),
    [
        ("nvidia.yaml", f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: '0'\n{ALL}", GpuAccess.CDI),
        (
            "nvidia.json",
            '{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}',
            GpuAccess.CDI,
        ),
        ("nvidia.yaml.old", f"kind: nvidia.com/gpu\ndevices:\n{ALL}", None),
        ("nvidia.yaml", f"kind: nvidia.com/gpu-vfio\ndevices:\n{ALL}", None),
        ("nvidia.yaml", "kind: nvidia.com/gpu\ndevices:\n- name: '0'\n", None),
        ("nvidia.yaml", "kind: nvidia.com/gpu\ndevices: none\n", None),
        ("nvidia.yaml", "- a list", None),
        ("nvidia.yaml", "{", None),
        ("nvidia.yaml", "\xff", None),
    ],
)
def test_an_engine_that_lists_no_devices_has_those_of_its_cdi_files(
    tmp_path: Path, name: str, text: str, access: GpuAccess | None
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    assert read_facts(VERSION, {**INFO, "CDISpecDirs": [str(tmp_path)]}, asked_at=NOW).gpu is access


def test_a_gpu_is_needed_only_where_gpu_variants_are() -> None:
    well(check_gpu(None, None, planned=False))
    well(check_gpu(GpuAccess.CDI, None, planned=True))
    assert "--device nvidia.com/gpu=all" in check_gpu(GpuAccess.CDI, "535.54.03", planned=True).found
    bad(check_gpu(None, "535.54.03", planned=True), Verdict.WARN, "gives containers no GPU")
    assert "nvidia-ctk runtime configure" in check_gpu(None, None, planned=True).remedy


GPU = {
    name: cuda_in_image(version, compat=False)
    for name, version in (("old", "10.0"), ("new", "12.2"), ("newest", "12.5"))
}


def driver(version: str, *ids: str, asked: bool = False) -> Check:
    return check_driver(version, {id_: GPU[id_] for id_ in ids}, asked=asked)


def test_a_driver_is_compared_as_a_whole() -> None:
    well(driver("535.54.03", "new", "old"))
    well(driver("1000.10", "newest"))
    for older in ("525.60.11", "525.60", "470.82.01", "410.48", "390.157"):
        bad(driver(older, "new", "old"), Verdict.WARN, f"CUDA 12.2 needs driver 525.60.13 or later, not {older}")
    assert driver("410.48", "new", "old").means.endswith("do not compute on a GPU: new")
    assert driver("410.47", "new", "old").means.endswith("do not compute on a GPU: new, old")


def test_a_driver_that_the_user_names_fails_where_it_is_too_old() -> None:
    old = driver("470.82.01", "new", asked=True)
    bad(old, Verdict.FAIL, "install driver 525.60.13 or later, or build a release that it serves: `releases: [2.14.1]`")
    bad(driver("300.11", "new", asked=True), Verdict.FAIL, "none of the catalogue")
    assert "releases:" not in driver("300.11", "new", asked=True).remedy
    assert driver("300.11", asked=True).found.endswith("no gpu variant is chosen, so none was compared")


def test_minor_version_compatibility_leaves_ptx_out() -> None:
    partly = driver("535.54.03", "newest", "new", asked=True)
    bad(partly, Verdict.WARN, "install driver 555.42.06 or later")
    assert "CUDA 12.5 by minor-version compatibility" in partly.means
    well(driver("555.42.06", "newest", "new"))
    bad(driver("555.42.02", "newest", "new"), Verdict.WARN, "PTX")


@pytest.mark.parametrize(
    ("version", "newest", "with_ptx"),
    [
        ("300.11", None, None),
        ("375.26", "1.7.1", "1.7.1"),
        ("418.39", "2.3.4", "2.3.4"),
        ("450.80.02", "2.14.1", "2.4.4"),
        ("470.82.01", "2.14.1", "2.11.1"),
        ("525.60.11", "2.14.1", "2.14.1"),
        ("525.60.13", "2.20.0", "2.14.1"),
        ("535.54.03", "2.20.0", "2.19.1"),
        ("580.65.06", "2.20.0", "2.20.0"),
    ],
)
def test_the_newest_release_that_a_driver_serves(version: str, newest: str | None, with_ptx: str | None) -> None:
    assert (newest_served(version), newest_served(version, ptx=True)) == (newest, with_ptx)


# --- the machine's checks ---------------------------------------------------------------------------------------------


def memory(**more: Any) -> Check:  # noqa: ANN401 - members of the check
    usual: dict[str, Any] = {"cpus": 8, "memory": 32 * GIB, "at_once": 1, "share": share(8), "needed": 18 * GIB}
    return check_memory(**{**usual, **more})


def share(jobs: int) -> Share:
    return Share(jobs=jobs, memory=jobs * 2 * GIB)


def test_there_must_be_memory_for_the_jobs() -> None:
    well(memory())
    well(memory(needed=None))
    bad(memory(memory=2 * GIB), Verdict.FAIL, "does not compile in less")
    bad(memory(memory=12 * GIB), Verdict.WARN, "set resources.jobs to 4,")
    one = memory(memory=5 * GIB, share=share(1))
    bad(one, Verdict.WARN, "may be killed")
    assert one.remedy == "give the engine's machine more memory", "one job cannot be halved"
    bad(memory(needed=80 * GIB, at_once=4, share=share(4)), Verdict.WARN, "build with --parallel 1,")
    bad(memory(share=share(16)), Verdict.WARN, "set resources.jobs to 8")
    assert memory().found == "8 cores, 32.0 GiB; 8 jobs with 2.0 GiB each; 18.0 GiB are expected"
    two = memory(at_once=2, share=share(4), needed=None)
    assert two.found == "8 cores, 32.0 GiB; 2 compiles at once, 4 jobs with 2.0 GiB each"
    assert memory(at_once=0, needed=None).found == "8 cores, 32.0 GiB"


def test_there_must_be_disk_for_what_is_planned() -> None:
    well(check_disk(free=20 * GIB, one=2 * GIB, planned=10 * GIB))
    well(check_disk(free=None, one=2 * GIB, planned=10 * GIB))
    bad(check_disk(free=5 * GIB, one=2 * GIB, planned=10 * GIB), Verdict.WARN, "before the last variant")
    bad(check_disk(free=GIB, one=2 * GIB, planned=10 * GIB), Verdict.FAIL, "not one variant")


def test_limits_for_watching_files() -> None:
    well(check_inotify({"max_user_instances": 128, "max_user_watches": 8192}))
    well(check_inotify({}))
    bad(check_inotify({"max_user_instances": 64}), Verdict.WARN, "sysctl -w fs.inotify.max_user_instances=128")


def flags(level: Level) -> frozenset[str]:
    return frozenset({"fpu", *level_facts(level).cpuinfo})


def test_the_level_of_a_cpu() -> None:
    for level in (Level.V1, Level.V2, Level.AVX, Level.V3, Level.V4):
        assert host_level(flags(level)) is level
    assert host_level(flags(Level.V3) - {"fma"}) is Level.AVX
    assert host_level(flags(Level.V4) - {"movbe"}) is Level.AVX, "a hole below counts"


def test_an_unknown_cpu_is_not_taken_for_the_lowest_level() -> None:
    unknown = check_cpu(None, {}, {"standard": [Level.V1]})
    well(unknown)
    assert "standard" not in unknown.found
    bad(check_cpu(None, {"a": Level.V1}, {}), Verdict.WARN, "can be tried here is not known: a")


def test_the_target_that_suits_a_cpu_is_named() -> None:
    targets = {"standard": [Level.V1], "optimized": [Level.V3], "mixed": [Level.V1, Level.V4], "mine": [Level.NATIVE]}
    fine = check_cpu(flags(Level.V3), {"a": Level.V1, "b": Level.NATIVE}, targets)
    well(fine)
    assert fine.found == "x86-64-v3; targets that suit it: optimized"
    assert "suit it: standard" in check_cpu(flags(Level.V2), {}, targets).found
    assert "suit it: mixed" in check_cpu(flags(Level.V4), {}, targets).found
    bad(check_cpu(flags(Level.V2), {"a": Level.V1, "c": Level.V3}, targets), Verdict.WARN, "not be tried: c")
    assert "none of this matrix" in check_cpu(flags(Level.V2), {}, {"o": [Level.V4]}).found


def test_the_emulator_and_what_it_does_not_emulate() -> None:
    bad(check_emulator("", {}), Verdict.WARN, "there is no qemu-x86_64-static")
    assert "`./factory setup` brings it" in check_emulator("", {}).remedy
    well(check_emulator("qemu 7.2.22, /usr/bin/q", {}))
    v4 = check_emulator("qemu 7.2.22, /usr/bin/q", {Level.V4: "qemu 7.2.22 does not emulate avx512f"})
    well(v4)
    assert v4.found == "qemu 7.2.22, /usr/bin/q; not x86-64-v4"
    old = check_emulator("qemu 6.0, /usr/bin/q", {Level.V3: "qemu 6.0 does not emulate avx2", Level.V4: "no"})
    bad(old, Verdict.WARN, "qemu 6.0 does not emulate avx2")
    assert "smoke does not prove x86-64-v3 by running" in old.means


def test_only_planned_levels_are_tried_on_the_emulator() -> None:
    emulator = SimpleNamespace(version="7.2.22", path="/usr/bin/q", why_not=lambda cpu: f"qemu does not emulate {cpu}")
    assert doctoring._emulator(cast("Emulator", emulator), {Level.V4}).found == "qemu 7.2.22, /usr/bin/q; not x86-64-v4"


# --- the network's checks ---------------------------------------------------------------------------------------------


PROXY = {"http": "http://p:1", "https": "http://p:1"}


def test_proxies_must_be_the_same_everywhere() -> None:
    well(check_proxies({}, {}, {}))
    well(check_proxies({"no": "localhost"}, {}, {}))
    well(check_proxies(PROXY, PROXY, PROXY))
    well(check_proxies({}, PROXY, PROXY))
    bad(check_proxies(PROXY, {}, PROXY), Verdict.WARN, "the engine pulls base images without a proxy")
    bad(check_proxies(PROXY, PROXY, {}), Verdict.WARN, "builds fetch without a proxy")
    bad(check_proxies({"http": "http://q:1"}, PROXY, PROXY), Verdict.WARN, "they differ")


def test_no_password_of_a_proxy_is_shown() -> None:
    secret = {"http": "http://me:secret@p:1"}
    assert "secret" not in str(check_proxies(secret, {}, {}))
    assert "http http://p:1" in check_proxies(secret, {}, {}).found


def test_the_registry_must_know_us() -> None:
    well(check_login("", Login.NONE_NAMED))
    well(check_login("r:5000", Login.ACCEPTED))
    well(check_login("r:5000", Login.NOT_REQUIRED))
    bad(check_login("r:5000", Login.MISSING, "it wants one"), Verdict.WARN, "docker login r:5000")
    bad(check_login("r:5000", Login.UNREACHABLE, "no route"), Verdict.WARN, "no route")
    bad(check_login("r:5000", Login.DENIED, "401"), Verdict.FAIL, "docker login r:5000")


def test_base_images_must_still_exist() -> None:
    well(check_bases({"a:1": BaseState.HELD, "b:1": BaseState.THERE}))
    well(check_bases({}))
    bad(check_bases({"a:1": BaseState.UNKNOWN, "b:1": BaseState.THERE}), Verdict.WARN, "a:1: unknown")
    bad(check_bases({"a:1": BaseState.HERE_ALONE, "b:1": BaseState.THERE}), Verdict.WARN, "builds on a:1 fail on any")
    bad(check_bases({"a:1": BaseState.UNKNOWN, "b:1": BaseState.GONE}), Verdict.FAIL, "builds on b:1")


# --- probes -----------------------------------------------------------------------------------------------------------


def test_probes_of_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2\nflags\t\t: other\n")
    assert probes.cpu_flags(file) == frozenset({"fpu", "avx2"})
    assert probes.cpu_flags(tmp_path / "nothing") is None
    file.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert probes.cpu_flags(file) is None, "no x86 CPU"
    assert probes.gpu_driver(file) is None
    assert probes.gpu_driver(tmp_path / "nothing") is None
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n")
    assert probes.gpu_driver(file) == "535.54.03"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.42.06  Release Build\n")
    assert probes.gpu_driver(file) == "555.42.06"
    (tmp_path / "max_user_watches").write_text("8192\n")
    assert probes.inotify_limits(tmp_path) == {"max_user_watches": 8192}


def test_proxies_of_an_environment() -> None:
    found = probes.environment_proxies(
        {"HTTP_PROXY": "upper", "http_proxy": "lower", "NO_PROXY": "x", "https_proxy": ""}
    )
    assert found == {"http": "lower", "no": "x"}


def test_disk_of_another_machine_is_not_looked_at() -> None:
    assert probes.free_disk(engine(host="elsewhere", root="/")) is None


class Answers:
    """Stands for a registry."""

    def __init__(self, answer: str | FactoryError | None) -> None:
        self.answer = answer

    def __call__(self, _host: str, **_more: object) -> Answers:
        return self

    def manifest_digest(self, _repository: str, _reference: str) -> str | None:
        if isinstance(self.answer, FactoryError):
            raise self.answer
        return self.answer

    def log_in(self, _repository: str) -> bool:
        if isinstance(self.answer, FactoryError):
            raise self.answer
        return self.answer is not None


@pytest.mark.parametrize(
    ("answer", "login", "state"),
    [
        ("sha256:1", Login.ACCEPTED, BaseState.THERE),
        (None, Login.NOT_REQUIRED, BaseState.GONE),
        (RegistryDeniedError("no", why="401"), Login.DENIED, BaseState.UNKNOWN),
        (RegistryUnreachableError("no", why="no route"), Login.UNREACHABLE, BaseState.UNKNOWN),
    ],
)
def test_what_a_registry_answers(
    monkeypatch: pytest.MonkeyPatch, answer: str | FactoryError | None, login: Login, state: BaseState
) -> None:
    monkeypatch.setattr(probes, "Registry", Answers(answer))
    monkeypatch.setattr(probes, "credentials_for", lambda _host: Credentials(username="me", password="x"))
    assert probes.login("r.example.com:5000/team/image", None)[:2] == ("r.example.com:5000", login)
    monkeypatch.setattr(probes, "credentials_for", lambda _host: None)
    found = probes.login("r.example.com:5000/team/image", None)[1]
    assert found is (Login.MISSING if login is Login.DENIED else login)

    class Held:
        @staticmethod
        def image_id(reference: str) -> str | None:
            return "sha256:1" if reference in {"mine:1", "pulled:1"} else None

        @staticmethod
        def has_registry(reference: str) -> bool:
            return reference == "pulled:1"

        @staticmethod
        def registry(_host: str) -> Answers:
            return Answers(answer)

    held: Engine = Held()  # type: ignore[assignment]  # it has all that is asked of it
    assert probes.base_state("mine:1", held) is BaseState.HELD
    kept = BaseState.HERE_ALONE if state is BaseState.GONE else BaseState.HELD
    assert probes.base_state("pulled:1", held) is kept
    assert probes.base_state(f"ubuntu:20.04@sha256:{'0' * 64}", held) is state
    assert probes.base_state("ubuntu", held) is state


def test_a_docker_configuration_that_does_not_work_is_a_login_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_host: str) -> Credentials | None:
        raise RegistryDeniedError("no", why="no such helper")

    monkeypatch.setattr(probes, "credentials_for", broken)
    assert probes.login("r.example.com/image", None) == ("r.example.com", Login.DENIED, "no such helper")


def test_a_repository_without_a_registry_needs_no_login() -> None:
    assert probes.login("team/image", None)[1] is Login.NONE_NAMED


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_page_says_what_to_do() -> None:
    rows = [
        Check(name="engine", verdict=Verdict.OK, found="version 26"),
        Check(name="disk", verdict=Verdict.FAIL, found="1 GiB free", means="too little space", remedy="make some"),
    ]
    assert doctor_page(rows) == (
        "ok    engine  version 26\n"
        "fail  disk    1 GiB free\n"
        "              Consequence: too little space\n"
        "              What to do: make some\n"
        "\n"
        "2 checks: 1 ok, 1 fail.\n"
    )


def test_without_an_engine_the_rest_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing() -> EngineFacts:
        raise EngineUnavailableError(
            "The Docker engine does not answer.", why="permission denied on the socket", remedy="start it"
        )

    monkeypatch.setattr(doctoring, "engine_facts", nothing)
    monkeypatch.setattr(doctoring, "reach_all", lambda urls, **_route: dict.fromkeys(urls, (Reach.THERE, "HTTP 200")))
    asked = Asked(checkout=Checkout(ROOT, tmp_path), matrix=str(write(tmp_path)))
    with pytest.raises(MachineUnfitError, match="1 check failed: engine"):
        doctoring.examine(asked, json=True)
    found = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in found if check["verdict"] == "fail"] == ["engine"]
    assert {"inotify", "CPU", "emulator", "proxies", "registry login"} <= {check["name"] for check in found}
    assert "permission denied on the socket" in found[0]["found"]
    assert found[0]["remedy"] == "start it", "the remedy is the error's own"


def test_an_engine_that_only_the_docker_command_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As over ssh, which the SDK does not speak without more packages."""

    def unreachable() -> Engine:
        raise EngineUnavailableError("The Docker engine does not answer.", why="no ssh", remedy="start it")

    monkeypatch.setattr(doctoring, "engine_facts", lambda: engine(buildx=None))
    monkeypatch.setattr(doctoring, "reach_all", lambda urls, **_route: dict.fromkeys(urls, (Reach.THERE, "HTTP 200")))
    monkeypatch.setattr(Engine, "connect", unreachable)
    asked = Asked(checkout=Checkout(ROOT, tmp_path), matrix=str(write(tmp_path)))
    with pytest.raises(MachineUnfitError, match="base images"):
        doctoring.examine(asked, json=True)
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert found["engine"]["verdict"] == "ok"
    assert found["base images"]["verdict"] == "fail"
    assert "no ssh" in found["base images"]["found"]


@pytest.mark.parametrize(("version", "verdict"), [("470.82.01", "fail"), ("525.60.13", "warn")])
def test_a_named_driver_is_all_that_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str, verdict: str
) -> None:
    monkeypatch.setattr(doctoring, "engine_facts", lambda: pytest.fail("the engine was asked"))
    asked = Asked(checkout=Checkout(ROOT, tmp_path), target=("gpu-optimized",))
    with pytest.raises(MachineUnfitError, match="GPU driver") if verdict == "fail" else nullcontext():
        doctoring.examine(asked, driver=version, json=True)
    found = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["verdict"]) for check in found["checks"]] == [("GPU driver", verdict)]
    assert found["driver"]["newest_release"] == newest_served(version)


def test_a_driver_that_cuda_compat_serves_is_enough_for_an_image_that_has_it(tmp_path: Path) -> None:
    verdicts = []
    target = {"releases": ["2.19.1"], "flavour": "gpu", "levels": ["x86-64"]}
    for compat in (False, True):
        matrix = load(tmp_path, document(targets={"gpu": target}, toolchain={"cuda_compat": compat}))
        (variant,) = matrix.variants
        needed = matrix.cuda_of(variant)
        assert needed
        verdicts.append(check_driver("470.57.02", {variant.id: needed}, asked=True).verdict)
    assert verdicts == [Verdict.FAIL, Verdict.OK]


def test_this_machines_driver_is_compared_where_gpu_variants_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctoring, "engine_facts", lambda: engine(version="20.10.24", buildx=None))
    monkeypatch.setattr(doctoring, "reach_all", lambda _urls, **_route: {})
    monkeypatch.setattr(probes, "gpu_driver", lambda: "470.82.01")
    for target, verdicts in (("gpu-optimized", ["warn"]), ("cpu-optimized", [])):
        asked = Asked(checkout=Checkout(ROOT, tmp_path), target=(target,))
        with pytest.raises(MachineUnfitError):
            doctoring.examine(asked, json=True)
        checks = json.loads(capsys.readouterr().out)["checks"]
        assert [check["verdict"] for check in checks if check["name"] == "GPU driver"] == verdicts


@pytest.mark.parametrize(("cpus", "memory"), [(16, 16), (16, 32), (32, 64), (64, 128), (8, 16), (4, 8), (2, 6)])
def test_the_doctor_checks_what_the_factory_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cpus: int, memory: int
) -> None:
    """The schedule fits jobs to memory: where no user says otherwise, there is nothing to warn of."""
    machine = engine(cpus=cpus, memory=memory * 10**9, buildx=None, version="20.10.24")
    monkeypatch.setattr(doctoring, "reach_all", lambda _urls, **_route: {})
    monkeypatch.setattr(doctoring, "engine_facts", lambda: machine)
    asked = Asked(checkout=Checkout(ROOT, tmp_path), matrix=str(write(tmp_path)))
    with pytest.raises(MachineUnfitError):
        doctoring.examine(asked, json=True)
    check = next(check for check in json.loads(capsys.readouterr().out)["checks"] if check["name"] == "memory")
    assert check["verdict"] == "ok", check
    assert "expected" in check["found"]
    assert re.search(r"[1-9]\d* jobs? with [2-9]\.\d GiB each", check["found"]), check


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_what_is_this_machines_is_not_taken_for_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setattr(doctoring, "engine_facts", lambda: engine(host=host, version="20.10.24", buildx=None))
    monkeypatch.setattr(doctoring, "reach_all", lambda _urls, **_route: {})
    asked = Asked(checkout=Checkout(ROOT, tmp_path), matrix=str(write(tmp_path)))
    with pytest.raises(MachineUnfitError):
        doctoring.examine(asked, json=True)
    checks = json.loads(capsys.readouterr().out)["checks"]
    found_by_name = {check["name"]: check["found"] for check in checks}
    warned = [check["means"] for check in checks if check["name"] == "place"]
    assert [("smoke tests" in means) for means in warned] == ([True] if host == "elsewhere" else [])
    here = [name for name, found in found_by_name.items() if "the engine works on elsewhere" in found]
    assert here == (["GPU", "inotify", "CPU"] if host == "elsewhere" else [])
