"""dockerfiles/context/bazel.sh, with a Bazel of a few lines and control groups made of files."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving_factory.pipeline.failures import classify
from serving_factory.pipeline.stages.compile import read_measures

from .http_servers import QuietHandler, serving

SCRIPT = Path(__file__).parents[2] / "dockerfiles" / "context" / "bazel.sh"
REMOTE = "build:factory-remote --remote_cache=http://cache/{toolchain}\n"
KEPT = ('{"id":{"progress":{"opaqueCount":1}}}', '{"id":{"buildMetrics":{}}}', '{"id":{"buildToolLogs":{}}}')
WITH_OPTIONS = ("started", "optionsParsed", "unstructuredCommandLine", "structuredCommandLine", "workspaceStatus")

BAZEL = """\
#!/bin/bash
printf '%s\\n' "$@" > "$FACTORY_TEST_ROOT/arguments"
for option; do
    case $option in --bazelrc=*) cp "${option#*=}" "$FACTORY_TEST_ROOT/bazelrc-seen" ;; esac
done
[[ ! -e $FACTORY_TEST_ROOT/events ]] || cp "$FACTORY_TEST_ROOT/events" "$FACTORY_TEST_ROOT/factory/bazel-events.json"
[[ ! -e $FACTORY_TEST_ROOT/afterwards ]] || cp -r "$FACTORY_TEST_ROOT/afterwards/." "$FACTORY_TEST_ROOT"
[[ ! -d $FACTORY_TEST_ROOT/sys ]] || until [[ -s $FACTORY_TEST_ROOT/factory/measures/.peak ]]; do sleep 0.01; done
exit "$(cat "$FACTORY_TEST_ROOT/status")"
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A root folder for the script, with a fake Bazel in it."""

    root: Path

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, step: str = "build", **env: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "FACTORY_TEST_ROOT": str(self.root), "CC": "cc", "PATH": path, **env}
        return subprocess.run(
            ["bash", str(SCRIPT), step], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def arguments(self) -> list[str]:
        return (self.root / "arguments").read_text(encoding="utf-8").replace(str(self.root), "").splitlines()

    @property
    def bazelrc(self) -> str:
        return (self.root / "bazelrc-seen").read_text(encoding="utf-8")

    @property
    def secret_option(self) -> str:
        return "--bazelrc=/dev/shm/factory-bazelrc"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(tmp_path)
    for folder in ("dev/shm", "run/inputs", "cache/repository", "cache/disk", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    made.write("status", "0")
    made.write("bin/bazel", BAZEL)
    (tmp_path / "bin/bazel").chmod(0o755)
    made.write("factory/bazel.conf", "target=//:server\nevent_file=--build_event_json_file\ndisk_cache=--disk_cache\n")
    made.write("factory/bazelrc", "startup \nbuild \n")
    made.write("factory/toolchain-id", "0123456789abcdef\n")
    made.write("etc/os-release", 'NAME=x\nPRETTY_NAME="Some Linux 12"\n')
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """Of something that answers."""
    with serving(QuietHandler) as server:
        yield server.server_port


def version_1(box: Box) -> None:
    held = "cache 900000\nrss 5\ntotal_cache 900000\ntotal_rss 7000000000\n"
    box.write("sys/fs/cgroup/memory/memory.stat", f"{held}hierarchical_memory_limit 8000000000\n")
    box.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    box.write("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    box.write("sys/fs/cgroup/cpuacct/cpuacct.usage", "61000000009\n")


def version_2(box: Box) -> None:
    box.write("sys/fs/cgroup/memory.stat", "anon 7000000000\nfile 900000\n")
    box.write("sys/fs/cgroup/memory.max", "8000000000\n")
    box.write("sys/fs/cgroup/memory.events", "low 0\noom 4\noom_kill 3\n")
    box.write("sys/fs/cgroup/cpu.stat", "usage_usec 61000000\nuser_usec 5\n")


def network(box: Box, *, received: int | None, opened: int, folder: str = "") -> None:
    """Have the container's network statistics; without a network, it has but the loopback, on which much goes on."""
    lines = ["Inter-|   Receive      |  Transmit", " face |bytes    packets |bytes    packets"]
    lines.append(f"    lo: {opened * 5_000_000} 4405779    0 1936526046 4405779    0")
    lines += [] if received is None else [f"  eth0:{received} 409041    0 16708087  198526    0"]
    box.write(f"{folder}proc/net/dev", "\n".join(lines) + "\n")
    names = "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens"
    box.write(f"{folder}proc/net/snmp", f"Ip: Forwarding\nIp: 1\nTcp: {names}\nTcp: 1 200 120000 -1 {opened} 94314\n")


@pytest.mark.parametrize("groups", [version_1, version_2])
def test_what_the_run_took_is_written_down(box: Box, groups: Callable[[Box], None]) -> None:
    groups(box)
    network(box, received=1_000, opened=2)
    network(box, received=1_000_008_000, opened=3, folder="afterwards/")
    assert box.run("fetch").returncode == 0
    assert read_measures(box.root / "factory" / "measures" / "fetch") == {
        "bytes_fetched": 1_000_007_000,
        "remote": 0,
        "cpu_microseconds": 61_000_000,
        "peak_memory_bytes": 7_000_000_000,
    }
    assert sorted(path.name for path in (box.root / "factory" / "measures").iterdir()) == ["fetch"]


def test_without_control_groups_and_network_statistics_the_rest_is_known(box: Box) -> None:
    box.run()
    assert read_measures(box.root / "factory" / "measures" / "build") == {"remote": 0}


def test_without_a_connection_nothing_was_fetched(box: Box) -> None:
    """What machines on a network say to all of them comes in anyway."""
    network(box, received=1_000, opened=2)
    network(box, received=1_420, opened=2, folder="afterwards/")
    box.run()
    assert read_measures(box.root / "factory" / "measures" / "build")["bytes_fetched"] == 0


def test_without_a_network_nothing_was_fetched(box: Box) -> None:
    network(box, received=None, opened=0)
    network(box, received=None, opened=9, folder="afterwards/")
    box.run()
    assert read_measures(box.root / "factory" / "measures" / "build")["bytes_fetched"] == 0


def test_it_ends_as_bazel_ends_and_reports_the_memory(box: Box) -> None:
    version_1(box)
    box.write("status", "37")
    done = box.run()
    assert done.returncode == 37
    line = "exit_code 37 peak_memory_bytes 7000000000 memory_limit_bytes 8000000000 oom_kills 3"
    assert done.stderr.splitlines() == [f"factory: {line}"]
    log = f"gcc: fatal error: Killed signal terminated program cc1plus\n{done.stderr}"
    details = {"peak": "7000000000", "limit": "8000000000", "kills": "3"}
    assert classify(log, exit_code=37).details == details, "what the script prints is read"


def test_the_toolchain_is_described_beside_its_folder(box: Box) -> None:
    box.run()
    compiler, system = (box.root / "cache/disk/0123456789abcdef.toolchain").read_text(encoding="utf-8").splitlines()
    assert compiler
    assert system == "Some Linux 12"


def test_events_that_hold_options_are_not_kept(box: Box) -> None:
    secret = [f'{{"id":{{"{name}":{{}}}},"x":"--remote_header=a=planted"}}' for name in WITH_OPTIONS]
    box.write("events", "".join(f"{line}\n" for pair in zip(secret, (*KEPT, *KEPT), strict=False) for line in pair))
    box.run()
    text = (box.root / "factory/bazel-events.json").read_text(encoding="utf-8")
    assert "planted" not in text
    assert set(text.splitlines()) == set(KEPT)


def test_bazels_log_that_holds_options_does_not_stay(box: Box) -> None:
    box.write("factory/bazel/0a1b/java.log.host.root.log.java.20261121-034655.26", "--remote_header=a=planted")
    box.write("factory/bazel/0a1b/execroot/java.log", "a source's own")
    (box.root / "factory/bazel/0a1b/java.log").symlink_to("java.log.host.root.log.java.20261121-034655.26")
    box.run()
    assert [path.name for path in (box.root / "factory/bazel/0a1b").iterdir()] == ["execroot"]
    assert (box.root / "factory/bazel/0a1b/execroot/java.log").exists()


DISK_CACHE = "--disk_cache=/cache/disk/0123456789abcdef"
FETCH = ["--color=no", "--curses=no", "--show_progress_rate_limit=2", "--symlink_prefix=/factory/bazel-"]


def test_each_step_gets_the_options_of_the_image(box: Box) -> None:
    box.write("factory/bazelrc", "startup --host_jvm_args=-Xmx2g --x\nbuild --config=mkl\nbuild -c opt\nbuild *\n")
    box.write(
        "factory/bazel.conf", (box.root / "factory/bazel.conf").read_text() + "runtime_targets='@a//:all @b//:all'\n"
    )
    begin = ["--batch", "--output_user_root=/factory/bazel", "--host_jvm_args=-Xmx2g", "--x", "build"]
    options = ["--config=mkl", "-c", "opt", "*"]
    box.run("fetch", COPTS="--copt=-mavx", BAZEL_RESOURCES="--jobs=3")
    targets = ["//:server", "@a//:all", "@b//:all"]
    repositories = ["--repository_cache=/cache/repository"]
    assert box.arguments == [*begin, "--nobuild", *repositories, *FETCH, *options, *targets]
    box.run("build", COPTS="--copt=-mavx --copt=-mfma", BAZEL_RESOURCES="--jobs=3 --local_ram_resources=5")
    arguments = box.arguments
    assert arguments[: len(begin) + 2] == [*begin, *repositories, DISK_CACHE]
    assert "--build_event_json_file=/factory/bazel-events.json" in arguments
    own = ["--jobs=3", "--local_ram_resources=5", "--symlink_prefix=/factory/bazel-"]
    assert arguments[-10:] == [*own, *options, "--copt=-mavx", "--copt=-mfma", "//:server"]


def test_a_preflight_gets_the_same(box: Box, tmp_path: Path) -> None:
    for name in ("bazel.sh", "inputs.sh"):
        box.write(f"own/{name}", (SCRIPT.parent / name).read_text(encoding="utf-8"))
    box.write("own/preflight.sh", '#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (box.root / "own/preflight.sh").chmod(0o755)
    box.write("factory/bazelrc", "startup --x\nbuild -c opt\n")
    box.write("run/secrets/bazelrc", REMOTE)
    environment = {**os.environ, "FACTORY_TEST_ROOT": str(box.root)}
    command = ["bash", str(box.root / "own/bazel.sh"), "preflight"]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert out.replace(str(tmp_path), "").splitlines() == [
        "/preflight", "bazel", box.secret_option, "--batch", "--output_user_root=/factory/bazel", "--x", "--",
        "--repository_cache=/cache/repository", "--", "--symlink_prefix=/factory/bazel-", "-c", "opt", "//:server",
    ]  # fmt: skip


def test_inputs_that_are_there_are_used(box: Box) -> None:
    box.write("inputs/distdir/a.tar.gz", "")
    for name in ("zlib", "com_google_absl"):
        box.write(f"inputs/overrides/{name}/WORKSPACE", "")
    box.write("inputs/overrides/a file", "")
    box.write("run/secrets/truststore", "store")
    box.write("run/secrets/network", "export https_proxy=http://p:1\n")
    box.write("factory/bazel.conf", "target=//:server\nrepository_cache=--experimental_repository_cache\n")
    box.run("fetch")
    arguments = box.arguments
    assert [word for word in arguments if word.startswith("--host_jvm_args=")] == [
        "--host_jvm_args=-Djdk.http.auth.tunneling.disabledSchemes=",
        "--host_jvm_args=-Djavax.net.ssl.trustStore=/run/secrets/truststore",
        "--host_jvm_args=-Djavax.net.ssl.trustStoreType=jks",
        "--host_jvm_args=-Djavax.net.ssl.trustStorePassword=changeit",
    ]
    assert arguments[arguments.index("--nobuild") + 1 :][:4] == [
        "--experimental_repository_cache=/cache/repository",
        "--distdir=/inputs/distdir",
        "--override_repository=com_google_absl=/inputs/overrides/com_google_absl",
        "--override_repository=zlib=/inputs/overrides/zlib",
    ]


def test_empty_folders_are_no_inputs_and_a_bazel_may_have_no_disk_cache(box: Box) -> None:
    for name in ("distdir", "overrides"):
        (box.root / "inputs" / name).mkdir(parents=True)
    box.write("factory/bazel.conf", "target=//:server\nevent_file=--build_event_json_file\n")
    assert box.run().returncode == 0
    assert not [word for word in box.arguments if word.startswith(("--distdir", "--override", "--disk_cache"))]


def test_the_bazelrc_stays_in_the_tmpfs_and_not_for_long(box: Box) -> None:
    box.write("run/secrets/bazelrc", "build --jobs=3\nbuild --x={toolchain}\n")
    box.run("fetch")
    assert box.arguments[:2] == [box.secret_option, "--batch"]
    assert box.bazelrc == "build --jobs=3\nbuild --x=0123456789abcdef\n"
    assert list((box.root / "dev/shm").iterdir()) == []


def test_a_remote_cache_that_answers_is_used_in_the_build_only(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n{REMOTE}")
    box.run("fetch")
    assert "--" not in box.bazelrc
    box.run()
    assert box.bazelrc.splitlines()[1:] == [
        "build:factory-remote --remote_cache=http://cache/0123456789abcdef",
        "build --config=factory-remote",
    ]
    assert DISK_CACHE in box.arguments
    assert read_measures(box.root / "factory/measures/build")["remote"] == 1


def test_one_that_does_not_answer_is_reported_once_and_left_out(box: Box) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 9\n# factory-remote-alone\n{REMOTE}")
    done = box.run()
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["factory: no remote: 127.0.0.1:9 does not answer"]
    assert "--config" not in box.bazelrc
    assert DISK_CACHE in box.arguments


def test_all_that_is_remote_must_answer(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote 127.0.0.1 9\n{REMOTE}")
    done = box.run()
    assert done.stderr.splitlines() == ["factory: no remote: 127.0.0.1:9 does not answer"]
    assert "--config" not in box.bazelrc


def test_one_that_went_away_in_the_middle_is_reported_once(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        remote = subprocess.Popen(["sleep", "60"], pass_fds=[listening.fileno()])
    gone = f"while (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.01; done"
    box.write("bin/bazel", BAZEL.replace("exit ", f"kill {remote.pid}; {gone}\nexit "))
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n{REMOTE}")
    done = box.run()
    remote.wait(10)
    assert done.returncode == 0
    assert "--config" in box.bazelrc
    assert done.stderr.splitlines() == [f"factory: no remote: 127.0.0.1:{port} does not answer"]
    assert read_measures(box.root / "factory/measures/build")["remote"] == 1


@pytest.mark.parametrize("code", [2, 34, 37, 38])
def test_one_that_bazel_cannot_begin_with_is_left_out(box: Box, port: int, code: int) -> None:
    refuses = 'grep -q -- --config= "$FACTORY_TEST_ROOT/bazelrc-seen" && exit '
    box.write("bin/bazel", BAZEL.replace("exit ", f"{refuses}{code}\nexit "))
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote-alone\n{REMOTE}")
    done = box.run()
    assert done.returncode == 0
    again = f"factory: no remote: Bazel ended with exit code {code}, and begins again without it"
    assert done.stderr.splitlines() == [again]
    assert DISK_CACHE in box.arguments
    assert read_measures(box.root / "factory/measures/build")["remote"] == 0


@pytest.mark.parametrize(("code", "remote"), [(1, True), (2, False)])
def test_other_ends_are_ends(box: Box, port: int, code: int, remote: bool) -> None:  # noqa: FBT001
    box.write("status", str(code))
    box.write("bin/bazel", BAZEL.replace("exit ", 'echo ran >> "$FACTORY_TEST_ROOT/runs"\nexit '))
    if remote:
        box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n{REMOTE}")
    assert box.run().returncode == code
    assert (box.root / "runs").read_text() == "ran\n"


def test_the_disk_cache_gives_way_where_bazel_cannot_have_both(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote-alone\n{REMOTE}")
    box.run()
    assert "--config" in box.bazelrc
    assert DISK_CACHE not in box.arguments


def test_files_that_options_name_are_there_while_bazel_runs(box: Box) -> None:
    box.write("bin/bazel", BAZEL.replace("exit ", 'cat "$FACTORY_TEST_ROOT/dev/shm/factory-tls_client_key" >&2\nexit '))
    box.write("run/secrets/bazelrc", "# factory-file tls_client_key c29tZSBrZXkK\nbuild --jobs=1\n")
    assert box.run().stderr == "some key\n"
    assert box.bazelrc == "build --jobs=1\n"
    assert list((box.root / "dev/shm").iterdir()) == []
