"""What goes wrong in a build, provoked for real: each has its own error, and the same command afterwards goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from pathlib import Path

from .own_engine import needs_root
from .pipeline import (
    BAZEL_SCRIPT,
    MATRIX,
    MKL_V3,
    V1,
    V3,
    Checkout,
    Outcome,
    Running,
    docker,
    processes_with,
    wait_until,
)
from .tiny import BUILD, MAIN, archives, cache_held, in_caches, limited_memory, slow

EATS = """\
[genrule(
    name = "eat%d" % number,
    outs = ["eat%d.h" % number],
    cmd = "python3 -c 'import time; eaten = bytearray({size} << 20); time.sleep(3)' && echo // {mark} > $@",
) for number in (1, 2)]
cc_binary(name = "tensorflow_model_server", srcs = ["main.cc", ":eat1", ":eat2"])
"""
FILLS = """\
genrule(name = "big", outs = ["big.h"], cmd = "dd if=/dev/zero of=$@ bs=1M count=500 # {mark}")
cc_binary(name = "tensorflow_model_server", srcs = ["main.cc", ":big"])
"""
DAMAGE = 'find /cache -path "*/ac/*" -type f | while read f; do chmod u+w "$f"; printf XXXX > "$f"; done'
DAMAGE_KEPT = DAMAGE.replace("/cache", "/cache/repository/damaged", 1)
BUILD_STEP = "dockerfiles/templates/build.Dockerfile.j2"
DAMAGE_ANEW = (
    "disk=/cache/disk/$(cat /factory/toolchain-id); "
    f"if [ ! -d /cache/repository/damaged ]; then cp -r $disk /cache/repository/damaged; {DAMAGE_KEPT}; fi; "
    "mkdir -p $disk; cp -rf /cache/repository/damaged/. $disk"
)


def compile_them(checkout: Checkout, *variants: str, env: dict[str, str] | None = None) -> Outcome:
    chosen = [word for variant in variants or (V1,) for word in ("--variant", variant)]
    return checkout.run(*checkout.line("compile", *chosen), env=env)


def goes_on(checkout: Checkout) -> None:
    assert checkout.partial_files() == []
    compile_them(checkout).built()


def test_bazel_is_told_how_much_it_may_use(tiny: Checkout) -> None:
    with tiny.edited(
        BAZEL_SCRIPT, "    case $step in\n", "    echo resources ${BAZEL_RESOURCES:-}\n    case $step in\n"
    ):
        compile_them(tiny).built()
    log = (tiny.variant_folder(V1) / "logs" / "compile.log").read_text()
    assert re.search(r" resources --jobs=[1-9]\d* --local_ram_resources=[1-9]\d*$", log, re.MULTILINE)
    assert list(tiny.variant_folder(V1).glob(".secrets*")) == []


def test_a_wrong_checksum_is_not_tried_again_and_stands_for_all_that_share_it(tiny: Checkout) -> None:
    with archives() as server, server.depend(tiny, sha256="0" * 64):
        outcome = tiny.build("--variant", V1, "--variant", V3)
        error = outcome.error(17, "ChecksumError")
        assert server.address in error["what"]
        assert error["why"] == f"expected sha256:{'0' * 64}\nfound    sha256:{server.sha256}"
        assert outcome.retried == []
        assert outcome.results[V3]["status"] == "skipped"
        assert outcome.results[V3]["because"] == f"because of {V1}: what failed there is the same here"
    goes_on(tiny)


def test_a_download_that_is_cut_is_tried_again(tiny: Checkout) -> None:
    with archives() as server, server.depend(tiny):
        server.cut.set()
        with tiny.start(*tiny.line("compile", "--variant", V1)) as running:
            running.wait_for(lambda: "a download failed" in running.printed()[0], "the second try")
            server.cut.clear()
            outcome = running.wait().built()
        assert "try 2 of 4 in" in outcome.retried[0]
        assert tiny.record(V1, "compile")["tried_again"] == outcome.retried
        fetched = tiny.record(V1, "compile")["outputs"]["bytes_fetched"]
        assert server.size < fetched < server.size + 100_000, "the archive, and what HTTP and TCP add"
    goes_on(tiny)


def test_a_download_that_stays_cut_is_reported(tiny: Checkout) -> None:
    attempts = "src/serving_factory/pipeline/retry.py"
    with (
        archives() as server,
        server.depend(tiny),
        tiny.edited(attempts, "_FETCHES = 4", "_FETCHES = 2"),
        tiny.edited(attempts, "_FIRST_DELAY = 3.0", "_FIRST_DELAY = 0.1"),
    ):
        server.cut.set()
        error = compile_them(tiny).error(16, "FetchError")
        assert server.address in error["why"]
    goes_on(tiny)


@needs_root
def test_out_of_memory_is_tried_once_more_with_half_the_jobs(tiny: Checkout, tmp_path: Path) -> None:
    """Two actions of 500 MB each; beside Bazel the limit has room for one of them."""
    compile_them(tiny).built()
    good = (tiny.folder / BUILD).read_text()
    (tiny.folder / BUILD).write_text(EATS.format(size=500, mark=f"{tiny.mark} once"))
    with limited_memory(tiny, 1_100_000_000, tmp_path / "bin") as env:
        outcome = tiny.run("build", *tiny.line("build", "--variant", V1, "--jobs", "2")[1:], env=env)
        (told,) = outcome.retried
        assert re.search(
            r"with 2 jobs .*\(peak \d\.\d GiB, .* killed\); once more with 1 job, on the warm cache$", told
        ), told
        assert "oom_kills" in (tiny.variant_folder(V1) / "logs" / "compile.try-1.log").read_text(encoding="utf-8")
        assert outcome.stages(V1)["compile"] == "finished"
    (tiny.folder / BUILD).write_text(good)
    goes_on(tiny)


@needs_root
def test_too_little_memory_for_one_job_is_told_with_the_numbers(tiny: Checkout, tmp_path: Path) -> None:
    compile_them(tiny).built()
    good = (tiny.folder / BUILD).read_text()
    (tiny.folder / BUILD).write_text(EATS.format(size=700, mark=f"{tiny.mark} twice"))
    with limited_memory(tiny, 750_000_000, tmp_path / "bin") as env:
        outcome = tiny.build("--variant", V1, "--jobs", "2", "--memory", "4GiB", env=env)
        error = outcome.error(18, "OutOfMemoryError")
        told = r"with 1 job and 4\.0 GiB planned for it \(peak 0\.\d GiB, .* killed\); before that, with 2"
        assert re.search(told, error["what"]), error["what"]
    (tiny.folder / BUILD).write_text(good)
    goes_on(tiny)


def test_a_disk_that_runs_full_under_bazel_is_told(tiny: Checkout) -> None:
    """Bazel's output lies on a small file system, and one action has more to write."""
    good = (tiny.folder / BUILD).read_text()
    (tiny.folder / BUILD).write_text(FILLS.format(mark=tiny.mark))
    disk = "--mount=type=tmpfs,target=/factory/bazel,size=400m"
    with tiny.edited(BUILD_STEP, "RUN {{ bazel_inputs() }} \\\n", f"RUN {{{{ bazel_inputs() }}}} \\\n    {disk} \\\n"):
        error = compile_them(tiny).error(12, "DiskFullError")
        assert "No space left on device" in error["why"]
        assert "[binary_build " in error["what"]
    (tiny.folder / BUILD).write_text(good)
    goes_on(tiny)


def test_a_damaged_cache_is_dropped_and_the_build_tried_once_more(tiny: Checkout, tmp_path: Path) -> None:
    compile_them(tiny).built()
    in_caches(tiny, tmp_path / "damage", "disk", DAMAGE)
    tiny.record_file(V1, "compile").unlink()
    with tiny.edited(f"{MAIN[: -len('main.cc')]}BUILD", "cc_binary", "# looked at again\ncc_binary"):
        outcome = compile_them(tiny).built()
        assert outcome.retried == ["Bazel cannot use its disk cache; once more without it"]
    goes_on(tiny)


def test_a_damaged_cache_that_another_build_holds_is_emptied_under_it(tiny: Checkout, tmp_path: Path) -> None:
    compile_them(tiny).built()
    with cache_held(tiny, tmp_path / "held", "disk") as holder:
        in_caches(tiny, tmp_path / "damage", "disk", DAMAGE)
        tiny.record_file(V1, "compile").unlink()
        with tiny.edited(BUILD, "cc_binary", "# looked at once more\ncc_binary"):
            outcome = compile_them(tiny).built()
        told = "Bazel cannot use its disk cache, and another build uses it; once more, with its entries removed"
        assert outcome.retried == [told]
        assert holder.poll() is None, "the mount was in use for all that time"
    goes_on(tiny)


def test_a_cache_that_is_damaged_again_is_told(tiny: Checkout) -> None:
    """Before each try of Bazel the disk cache gets the same damaged entries."""
    compile_them(tiny).built()
    tiny.record_file(V1, "compile").unlink()
    with tiny.edited(
        BUILD_STEP, "    /factory/bazel.sh build\n", f"    {{ {DAMAGE_ANEW}; }} && /factory/bazel.sh build\n"
    ):
        outcome = compile_them(tiny)
    error = outcome.error(19, "CacheCorruptError")
    assert outcome.retried == ["Bazel cannot use its disk cache; once more without it"]
    assert "./factory clean --caches" in error["remedy"]
    tiny.drop_caches()
    goes_on(tiny)


def test_a_bazel_below_the_minimum_is_refused_before_any_work(tiny: Checkout) -> None:
    with tiny.edited(MATRIX, "\nsource: model_server\n", "\n# upstream's own source\n"):
        outcome = tiny.build("--variant", V1)
        error = outcome.error(15, "BazelTooOldError")
        assert error["what"].startswith(f"{V1}: Bazel 4.2.3 is older than 6.5.0")
    goes_on(tiny)


@needs_root
def test_a_docker_without_buildx_is_told(tiny: Checkout) -> None:
    """In a mount namespace of its own, docker's plugins are not there."""
    tiny.record_file(V1, "compile").unlink(missing_ok=True)
    plugins = json.loads(docker("info", "--format", "{{json .ClientInfo.Plugins}}"))
    buildx = next(plugin for plugin in plugins if plugin["Name"] == "buildx")
    folders = {Path(path).parent for path in (buildx["Path"], *buildx.get("ShadowedPaths", ()))}
    hide = "; ".join(f"mount -t tmpfs none {folder}" for folder in folders)
    hidden = ["unshare", "--mount", "bash", "-euc", f'{hide}; exec "$@"', "bash"]
    factory = [sys.executable, "-m", "invoke", *tiny.line("compile", "--variant", V1)]
    with Running([*hidden, *factory], cwd=tiny.folder, env=tiny.environment()) as running:
        error = running.wait().error(26, "DockerCommandError")
    assert error["what"].startswith("docker has no buildx plugin")
    assert "./factory setup" in error["remedy"]
    goes_on(tiny)


def test_time_limits_end_a_variant_or_the_whole_run(tiny: Checkout) -> None:
    good = (tiny.folder / MAIN).read_text()
    (tiny.folder / MAIN).write_text(f"// {tiny.mark} limits\n{slow()}{good}")
    outcome = tiny.build("--variant", V1, "--variant-minutes", "0.1")
    assert "--variant-minutes" in outcome.error(14, "TimeLimitError")["what"]
    outcome = tiny.build("--variant", V1, "--variant", V3, "--max-minutes", "0.1")
    assert outcome.code == 14
    assert {result["status"] for result in outcome.results.values()} == {"cancelled"}
    assert "Error: the run was ended after 0.1 min, as --max-minutes says" in outcome.err
    assert wait_until(lambda: not processes_with(tiny.mark))
    (tiny.folder / MAIN).write_text(good)
    goes_on(tiny)


def test_ctrl_c_ends_all_that_work_at_once(tiny: Checkout) -> None:
    good = (tiny.folder / MAIN).read_text()
    compile_them(tiny).built()
    for variant in (V3, MKL_V3):
        shutil.rmtree(tiny.variant_folder(variant), ignore_errors=True)
    (tiny.folder / MAIN).write_text(f"// {tiny.mark} two\n{slow()}{good}")
    chosen = ("--variant", V3, "--variant", MKL_V3, "--parallel", "2")

    def compiling(variant: str) -> bool:
        return "tensorflow_model_server; " in tiny.compile_log(variant)

    with tiny.start(*tiny.line("build", *chosen)) as running:
        running.wait_for(lambda: V3 in running.printed()[0], "the first compile")
        running.wait_for(lambda: compiling(V3) or compiling(MKL_V3), "a compile")
        running.send(signal.SIGINT)
        outcome = running.wait(30)
    assert outcome.code == 130
    assert "Traceback" not in outcome.out + outcome.err
    assert {result["status"] for result in outcome.results.values()} == {"cancelled"}
    assert wait_until(lambda: not processes_with(str(tiny.folder)))
    assert tiny.containers() == []
    (tiny.folder / MAIN).write_text(good)
    goes_on(tiny)
