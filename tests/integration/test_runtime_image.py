"""The runtime image and what fills it, on a real engine: init, launcher, entrypoint, collect.sh, the template.

A small C program stands for the server. It is linked to one library that the base has and to one that it lacks.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.model import Images
from serving_factory.recipes.recipe import render
from tests.unit.launchers import compiler_options

from .containers import LABEL, STOPS_WITHIN, container, docker, exit_code, run, stop, wait_for
from .pipeline import IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTEXT = Path(__file__).parents[2] / "dockerfiles" / "context"
BASE = "serving-factory/base:bookworm"
TOOLCHAIN = f"{IMAGES}/runtime-toolchain"
IMAGE = f"{IMAGES}/runtime-image"
INIT = "/usr/bin/tf_serving_init"
LAUNCHER = "/usr/bin/tensorflow_model_server"
HEALTH = "/usr/bin/tf_serving_health"

# libzstd as Debian has it now: a newer one than the base has would go along, which is a test of its own.
TOOLCHAIN_DOCKERFILE = f"""\
FROM {BASE}
RUN apt-get update && apt-get install -y --only-upgrade libzstd1
RUN dpkg-query -W -f '${{Package}} ${{Version}}\\n' | LC_ALL=C sort > /base-packages
RUN apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev libgomp1 libyaml-dev libzstd-dev
"""

# Like upstream's server: no signal handlers, --version anywhere among the arguments, REST on the port that is given.
SERVER = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>
#include <zstd.h>

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char request[4096];

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0)
            return printf("TensorFlow ModelServer: 0.1.2\nTensorFlow Library: 0.1.2\n") < 0;
        if (strncmp(argv[i], "--rest_api_port=", 16) == 0)
            address.sin_port = htons(atoi(argv[i] + 16));
    }
    for (int i = 1; i < argc; i++)
        puts(argv[i]);
    printf("yaml %s, zstd %s\n", yaml_get_version_string(), ZSTD_versionString());
    fflush(stdout);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0)
        return 1;
    for (;;) {
        int peer = accept(listener, 0, 0);
        if (read(peer, request, sizeof request) > 0)
            dprintf(peer, "HTTP/1.0 200 OK\r\n\r\n{\"model_version_status\": [{\"state\": \"AVAILABLE\"}]}");
        close(peer);
    }
}
"""


class Workshop:
    """A folder of this machine, and the toolchain image that works in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "server.c").write_text(SERVER)

    def sh(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        mounts = ("-v", f"{self.folder}:/work", "-v", f"{CONTEXT}:/context:ro", "-w", "/work")
        options = (*mounts, "--user", f"{os.geteuid()}:{os.getegid()}")
        done = run(TOOLCHAIN, "sh", "-euc", script, options=options)
        assert not check or done.returncode == 0, done.stderr
        return done

    def collect(self, *libraries: str, packages: str = "/base-packages") -> Path:
        """Runs collect.sh on the server; gives the artifact folder."""
        artifact = self.folder / "artifact"
        shutil.rmtree(artifact, ignore_errors=True)
        self.sh(f"/context/collect.sh server artifact {packages} {' '.join(libraries)}")
        return artifact


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The toolchain image (cached by the engine from run to run), with the server and the init compiled."""
    docker("buildx", "build", "--load", "--label", LABEL, "--tag", TOOLCHAIN, "-", text=TOOLCHAIN_DOCKERFILE)
    shop = Workshop(tmp_path_factory.mktemp("workshop"))
    shop.sh("cc -g -O2 -Wall -o server server.c -lyaml -lzstd")
    shop.sh(
        "cc -std=c99 -static -O2 -Wall -Wextra -Werror -s -o tf_serving_init /context/init.c"
        " && cc -static -O2 -Wall -Wextra -Werror -o /dev/null /context/init.c"
    )
    shop.sh(
        "mkdir -p launcher/usr/bin && cd launcher/usr/bin"
        f" && cc {' '.join(compiler_options())} -o tensorflow_model_server /context/launcher*.c"
        " && ln -s tensorflow_model_server tf_serving_health"
    )
    yield shop
    docker("image", "rm", TOOLCHAIN)


@pytest.fixture(scope="module")
def image(workshop: Workshop) -> Iterator[str]:
    """The runtime image of the server, made from the template without network."""
    artifact = workshop.collect("libgomp.so.1")
    programs = artifact / "rootfs" / "usr" / "bin"
    programs.mkdir()
    shutil.copy2(workshop.folder / "tf_serving_init", programs)
    for path in (programs / "tf_serving_init", programs, programs.parent):
        os.utime(path, (1, 1))
    folder = workshop.folder / "facts"
    folder.mkdir()
    facts = 'CPU_FLAGS="avx2 fma"\nFLAVOUR=cpu\nLEVEL=x86-64-v3\nLOWER_IMAGE=example/serving:0.1.2-cpu\n'
    # On whatever CPU the tests run, the image has to start; the test of the check brings a CPU of its own.
    (folder / "image.env").write_text(facts.replace("avx2 fma", "fpu"))
    (workshop.folder / "v3.env").write_text(facts)
    (folder / "image.json").write_text("{}\n")
    (folder / "image.json").chmod(0o600)
    (workshop.folder / "Dockerfile").write_text(dockerfile(BASE))
    build(workshop, "Dockerfile", IMAGE)
    yield IMAGE
    docker("image", "rm", IMAGE)


def build(workshop: Workshop, file: str, tag: str) -> None:
    folder = workshop.folder
    options = ("--load", "--no-cache", "--network=none", "--label", LABEL, "--tag", tag)
    names = ("artifact", "launcher", "facts")
    contexts = [word for name in names for word in ("--build-context", f"{name}={folder / name}")]
    docker("buildx", "build", *options, "--file", str(folder / file), *contexts, str(CONTEXT))


def layers(image: str) -> set[str]:
    return set(json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image).stdout))


def dockerfile(base: str) -> str:
    release = releases()["2.19.1"]
    served = {"flavour": Flavour.CPU, "base": base, "collects": False, "slim": None, "upgrades": (), "gpu": None}
    return render("runtime.Dockerfile.j2", release=release, images=Images(repository="a"), **served)


@contextmanager
def under_init(workshop: Workshop, script: str, *, options: Sequence[str] = ()) -> Iterator[str]:
    """Runs a shell script under the init, in a container of the plain base image."""
    mount = ("-v", f"{workshop.folder / 'tf_serving_init'}:{INIT}:ro", "--entrypoint", INIT)
    with container(BASE, "sh", "-c", script, options=(*mount, *options)) as name:
        yield name


# --- init ---


def test_each_signal_is_handed_on_once(workshop: Workshop) -> None:
    signals = ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"]
    traps = "\n".join(f"trap 'echo got {name}' {name}" for name in signals[:-1])
    script = f"{traps}\ntrap 'echo got TERM; exit 3' TERM\necho ready\nwhile :; do sleep 0.05; done"
    with under_init(workshop, script) as name:
        wait_for(name, "ready")
        for signal in signals:
            docker("kill", "--signal", signal, name)
            wait_for(name, f"got {signal}")
        assert exit_code(name) == 3
        assert docker("logs", name).stdout.splitlines() == ["ready", *(f"got {signal}" for signal in signals)]


@pytest.mark.parametrize(
    "options", [(), ("--init",), ("--pid=host",)], ids=["PID 1", "under --init", "PID of the host"]
)
def test_a_program_without_handlers_stops_at_once(workshop: Workshop, options: Sequence[str]) -> None:
    with under_init(workshop, "echo ready; exec sleep 60", options=options) as name:
        wait_for(name, "ready")
        assert stop(name) < STOPS_WITHIN
        assert exit_code(name) == 128 + 15


def test_without_the_init_the_same_program_sits_out_the_grace_period() -> None:
    """The fault that the init is there for: if this fails, it is not needed any more."""
    with container(BASE, "sh", "-c", "echo ready; exec sleep 60") as name:
        wait_for(name, "ready")
        start = time.monotonic()
        docker("stop", "--time", "1", name)
        assert time.monotonic() - start >= 1
        assert exit_code(name) == 128 + 9


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -USR1 $$", 138), ("kill -KILL $$", 137)]
)
def test_it_ends_as_its_program_ends(workshop: Workshop, script: str, code: int) -> None:
    with under_init(workshop, script) as name:
        assert exit_code(name) == code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 64, "usage: tf_serving_init PROGRAM"),
        (["/nowhere/server"], 127, "cannot run /nowhere/server: No such file or directory"),
        (["/etc/passwd"], 126, "cannot run /etc/passwd: Permission denied"),
    ],
)
def test_what_cannot_be_run_is_told(workshop: Workshop, arguments: list[str], code: int, said: str) -> None:
    init = [str(workshop.folder / "tf_serving_init"), *arguments]
    done = subprocess.run(init, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == code
    assert said in done.stderr


@pytest.mark.parametrize("options", [(), ("--init",)], ids=["PID 1", "under --init"])
def test_orphans_come_to_the_init_and_are_reaped(workshop: Workshop, options: Sequence[str]) -> None:
    script = """
        orphan=$(sh -c 'sleep 0.5 >/dev/null & echo $!')
        read -r _ _ _ parent _ <"/proc/$orphan/stat"
        echo "comes to the init: $([ "$parent" = "$PPID" ] && echo yes)"
        while [ -e "/proc/$orphan" ] && [ "${turn:=0}" -lt 60 ]; do turn=$((turn + 1)); sleep 0.05; done
        echo "zombies: $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ')"
    """
    with under_init(workshop, script, options=options) as name:
        assert exit_code(name) == 0
        assert docker("logs", name).stdout.splitlines() == ["comes to the init: yes", "zombies: 0"]


def test_blocked_and_ignored_signals_are_not_inherited(workshop: Workshop) -> None:
    """A parent that blocks all signals and ignores SIGCHLD does not make the init deaf."""
    script = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    init = str(workshop.folder / "tf_serving_init")
    command = [sys.executable, "-c", script, init, "sh", "-c", "grep SigBlk /proc/self/status; exit 5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 5
    assert done.stdout.split() == ["SigBlk:", "0" * 16]


def test_ctrl_c_on_a_terminal_arrives_once(workshop: Workshop) -> None:
    script = "trap 'echo got INT' INT; trap 'echo end; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    init = str(workshop.folder / "tf_serving_init")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(init, [init, "sh", "-c", script])  # noqa: S606  the child of a fork has nothing else to do
    shown = b""
    try:
        while b"ready" not in shown:
            shown += os.read(terminal, 1024)
        os.write(terminal, b"\x03")
        while b"got INT" not in shown:
            shown += os.read(terminal, 1024)
        time.sleep(0.3)
        os.kill(pid, 10)
        while b"end" not in shown:
            shown += os.read(terminal, 1024)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    finally:
        os.close(terminal)
    assert shown.count(b"got INT") == 1


# --- the image ---


def test_the_server_runs_with_all_its_libraries(image: str) -> None:
    with container(image, "--enable_batching") as name:
        wait_for(name, "yaml 0.2")
        assert docker("logs", name).stdout.splitlines()[:5] == [
            "--port=8500",
            "--rest_api_port=8501",
            "--model_name=model",
            "--model_base_path=/models/model",
            "--enable_batching",
        ]
        assert "there is no model at /models/model yet" in docker("logs", name).stderr
        assert stop(name) < STOPS_WITHIN
        assert exit_code(name) == 143


def test_it_answers_about_itself(image: str) -> None:
    done = run(image, "--version")
    assert done.stdout == "TensorFlow ModelServer: 0.1.2\nTensorFlow Library: 0.1.2\n"
    assert done.stderr == ""


LOCKED_DOWN = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=12345", "--network=none")


@pytest.mark.parametrize("options", [(), LOCKED_DOWN], ids=["plain", "locked down"])
def test_it_becomes_healthy(image: str, options: Sequence[str]) -> None:
    with container(image, options=(*options, "--health-interval=0.2s", "-e", "TF_SERVING_REST_PORT=8601")) as name:
        for _ in range(100):
            health = json.loads(docker("inspect", "--format", "{{json .State.Health}}", name).stdout)
            if health["Status"] == "healthy":
                break
            time.sleep(0.1)
        assert health["Log"][-1]["Output"] == "model is AVAILABLE\n"
        assert stop(name) < STOPS_WITHIN
        assert exit_code(name) == 143


def test_a_cpu_without_the_level_ends_with_a_sentence(image: str, workshop: Workshop) -> None:
    cpuinfo = workshop.folder / "cpuinfo"
    cpuinfo.write_text("model name\t: Intel(R) Xeon(R) CPU X5660\nflags\t\t: fpu sse2 ssse3 popcnt\n")
    facts = workshop.folder / "v3.env"
    mounts = (f"{cpuinfo}:/proc/cpuinfo:ro", f"{facts}:/usr/share/serving-factory/image.env:ro")
    done = run(image, "--version", options=[word for mount in mounts for word in ("-v", mount)])
    assert done.returncode == 78
    assert "(Intel(R) Xeon(R) CPU X5660) lacks: avx2 fma. Use example/serving:0.1.2-cpu instead." in done.stderr


def test_its_configuration_keeps_the_contract(image: str) -> None:
    (details,) = json.loads(docker("image", "inspect", image).stdout)
    config = details["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [INIT, "/usr/bin/tf_serving_entrypoint.sh"]
    assert config["Cmd"] is None
    assert config["StopSignal"] == "SIGTERM"
    assert sorted(config["ExposedPorts"]) == ["8500/tcp", "8501/tcp"]
    assert set(config["Env"]) > {"MODEL_NAME=model", "MODEL_BASE_PATH=/models"}
    assert config["Healthcheck"]["Test"] == ["CMD", HEALTH]
    assert config["WorkingDir"] == "/"


def test_anyone_may_read_it_and_it_brings_certificates(image: str) -> None:
    script = "cd /models && cat /usr/share/serving-factory/image.* && wc -l </etc/ssl/certs/ca-certificates.crt"
    done = run(image, "-c", script, options=("--entrypoint=sh", "--user=12345:0"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 1000


def test_its_libraries_are_the_same_layer_on_another_base(image: str, workshop: Workshop) -> None:
    """So that a new base image does not push them again: file times are fixed, and whole folders are copied."""
    other = f"{IMAGE}-other"
    (workshop.folder / "Dockerfile.other").write_text(dockerfile(TOOLCHAIN))
    build(workshop, "Dockerfile.other", other)
    try:
        assert (layers(image) & layers(other)) - layers(BASE)
    finally:
        docker("image", "rm", other)


def test_the_template_is_hadolint_clean(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(dockerfile("debian:bookworm-slim"))
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=places)
    assert hadolint is not None
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


# --- collect.sh ---


def files(artifact: Path) -> list[str]:
    return sorted(str(path.relative_to(artifact / "rootfs")) for path in (artifact / "rootfs").rglob("*.so*"))


def test_only_what_the_base_lacks_goes_along(workshop: Workshop) -> None:
    artifact = workshop.collect()
    facts = artifact / "facts"
    libraries = "usr/lib/x86_64-linux-gnu/"
    assert files(artifact) == [f"{libraries}libyaml-0.so.2", f"{libraries}libyaml-0.so.2.0.9"]
    assert (artifact / "rootfs" / libraries / "libyaml-0.so.2").is_symlink()
    base = (facts / "base-libraries").read_text().splitlines()
    assert {"libc.so.6", "libzstd.so.1", "libstdc++.so.6"} <= set(base)
    assert not {"libyaml-0.so.2", "libgomp.so.1"} & set(base)
    assert base == sorted(base)
    packages = [line.partition("=")[0] for line in (facts / "packages").read_text().splitlines()]
    assert packages == ["ca-certificates", "libyaml-0-2"]
    for package in packages:
        assert (artifact / "rootfs/usr/share/doc" / package / "copyright").stat().st_size > 0
        status = (artifact / "rootfs/var/lib/dpkg/status.d" / package).read_text()
        assert status.startswith(f"Package: {package}\nStatus: install ok installed\n")


def test_the_facts_are_what_the_tools_say(workshop: Workshop) -> None:
    facts = workshop.collect() / "facts"
    told = {path.name: path.read_text() for path in facts.iterdir()}
    assert told["version"] == "TensorFlow ModelServer: 0.1.2\nTensorFlow Library: 0.1.2\n"
    assert told["version.exit"] == "0\n"
    assert told["compiler"].startswith("gcc (Debian ")
    assert told["bazel"] == ""
    assert told["os-release"] == "Debian GNU/Linux 12 (bookworm)\n"
    assert told["glibc"].startswith("ldd (Debian GLIBC ")
    assert "libyaml-0.so.2 => /lib/x86_64-linux-gnu/libyaml-0.so.2\n" in told["ldd"]
    assert "0x" not in told["ldd"]


def test_the_binary_is_split_from_its_debug_information(workshop: Workshop) -> None:
    artifact = workshop.collect()
    sections = workshop.sh("readelf -SW artifact/tensorflow_model_server artifact/tensorflow_model_server.debug").stdout
    binary, debug = sections.split("File: artifact/tensorflow_model_server.debug")
    assert ".debug_info" not in binary
    assert ".symtab" not in binary
    assert ".gnu_debuglink" in binary
    assert ".debug_info" in debug
    assert os.access(artifact / "tensorflow_model_server", os.X_OK)


def test_the_same_inputs_give_the_same_bytes(workshop: Workshop) -> None:
    collect = "/context/collect.sh server {0} /base-packages libgomp.so.1"
    tar = "tar --numeric-owner --sort=name -C {0} -c . | sha256sum"
    script = " && ".join(f"{collect} && {tar}".format(folder) for folder in ("first", "second"))
    first, second = workshop.sh(script).stdout.splitlines()
    assert first == second


def test_another_binary_of_the_same_size_is_not_mistaken_for_the_old_one(workshop: Workshop) -> None:
    """BuildKit takes a context's file of the same size and time for unchanged, whatever is in it."""
    dockerfile = workshop.folder / "Dockerfile.copy"
    dockerfile.write_text("FROM scratch\nCOPY --from=artifact tensorflow_model_server /\n")
    nothing = workshop.folder / "nothing"
    nothing.mkdir()
    found = []
    for version in ("0.1.2", "0.1.3"):
        source = SERVER.replace("0.1.2", version)
        (workshop.folder / "next.c").write_text(source)
        workshop.sh("cc -O2 -o next next.c -lyaml -lzstd && rm -rf next-artifact")
        workshop.sh("/context/collect.sh next next-artifact /base-packages")
        artifact, output = workshop.folder / "next-artifact", workshop.folder / "copied"
        docker(
            *("buildx", "build", "--output", str(output), "--build-context", f"artifact={artifact}"),
            *("--file", str(dockerfile), str(nothing)),
        )
        found.append((output / "tensorflow_model_server").read_bytes())
    assert len(found[0]) == len(found[1])
    assert b"ModelServer: 0.1.2" in found[0]
    assert b"ModelServer: 0.1.3" in found[1]


def test_what_is_opened_at_run_time_goes_along_too(workshop: Workshop) -> None:
    artifact = workshop.collect("libgomp.so.1")
    assert "usr/lib/x86_64-linux-gnu/libgomp.so.1" in files(artifact)
    # The licence of libgomp1 is that of gcc-12-base, whose folder it links to.
    assert (artifact / "rootfs/usr/share/doc/gcc-12-base/copyright").is_file()


def test_a_library_from_elsewhere_lands_where_the_loader_looks_and_the_drivers_stay_away(workshop: Workshop) -> None:
    workshop.sh(
        "mkdir -p own && cc -shared -o own/libcuda.so.1 -x c /dev/null && cp own/libcuda.so.1 own/libcudart.so.12"
    )
    artifact = workshop.collect("$PWD/own/libcuda.so.1", "$PWD/own/libcudart.so.12")
    assert "usr/lib/x86_64-linux-gnu/libcudart.so.12" in files(artifact)
    assert not [name for name in files(artifact) if "libcuda.so" in name]


def test_a_server_that_is_linked_to_the_driver_tells_its_version_all_the_same(workshop: Workshop) -> None:
    workshop.sh(
        "rm -rf stubs linked && mkdir stubs && echo 'int cuInit(int f){return f;}' >cu.c"
        " && cc -shared -Wl,-soname,libcuda.so.1 -o stubs/libcuda.so cu.c"
        " && echo 'int cuInit(int); int main(void){return cuInit(0);}' >linked.c"
        " && cc -o linked linked.c stubs/libcuda.so"
    )
    for stub, exits in (("", "127"), ("DRIVER_STUB=$PWD/stubs/libcuda.so", "0")):
        workshop.sh(f"rm -rf out && {stub} /context/collect.sh linked out /base-packages")
        artifact = workshop.folder / "out"
        assert (artifact / "facts/version.exit").read_text().strip() == exits
        assert "libcuda.so.1 => not found" in (artifact / "facts/ldd").read_text(), "the stub is for one question"
        assert not [name for name in files(artifact) if "libcuda.so" in name]


def test_a_newer_library_than_the_base_has_goes_along_but_not_the_c_library(workshop: Workshop) -> None:
    workshop.sh("sed -E 's/^(libzstd1|libc6) .*/\\1 0.1/' /base-packages >old-packages")
    artifact = workshop.collect(packages="old-packages")
    assert "usr/lib/x86_64-linux-gnu/libzstd.so.1" in files(artifact)
    assert not [name for name in files(artifact) if "libc.so" in name]
    workshop.sh("cut -d' ' -f1 /base-packages >names")
    assert "usr/lib/x86_64-linux-gnu/libzstd.so.1" not in files(workshop.collect(packages="names"))


def test_a_library_of_no_package_goes_where_the_loader_looks(workshop: Workshop) -> None:
    workshop.sh("echo 'int f(void){return 1;}' >own.c && cc -shared -o libown.so own.c")
    assert "usr/lib/x86_64-linux-gnu/libown.so" in files(workshop.collect("/work/libown.so"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "usage: collect.sh"),
        ("absent out /base-packages", "there is no binary at"),
        ("server out /nowhere", "is absent or empty"),
        ("server . /base-packages", ". is not empty"),
        ("server out /base-packages libabsent.so.1", "libabsent.so.1, which the binary opens while it runs"),
    ],
)
def test_collect_fails_loudly(workshop: Workshop, arguments: str, said: str) -> None:
    done = workshop.sh(f"rm -rf out; /context/collect.sh {arguments}", check=False)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_library_that_is_not_found_is_written_down(workshop: Workshop) -> None:
    script = (
        "echo 'int g(void){return 1;}' >gone.c && cc -shared -o libgone.so gone.c"
        " && echo 'int g(void); int main(void){return g();}' >user.c && cc -o user user.c -L. -lgone && rm libgone.so"
        " && rm -rf out && /context/collect.sh user out /base-packages"
        " && cat out/facts/ldd out/facts/version.exit"
    )
    told = workshop.sh(script).stdout.splitlines()
    assert "libgone.so => not found" in told
    assert told[-1] == "127"
