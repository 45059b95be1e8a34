"""dockerfiles/templates/devel/bazel.sh, with a Bazel of a few lines and control groups made of files."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving_factory.pipeline.failures import classify
from serving_factory.pipeline.stages.compile import read_measures

SCRIPT = Path(__file__).parents[2] / "dockerfiles" / "templates" / "devel" / "bazel.sh"
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
sleep 0.3
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

    def run(self, step: str = "build", *options: str) -> subprocess.CompletedProcess[str]:
        argv = ["bash", str(SCRIPT), step, str(self.root / "bazel"), *(options or ("build", "//:all"))]
        environment = {**os.environ, "FACTORY_TEST_ROOT": str(self.root), "CC": "cc"}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def arguments(self) -> list[str]:
        return (self.root / "arguments").read_text(encoding="utf-8").splitlines()

    @property
    def bazelrc(self) -> str:
        return (self.root / "bazelrc-seen").read_text(encoding="utf-8")

    @property
    def secret_option(self) -> str:
        return f"--bazelrc={self.root}/dev/shm/factory-bazelrc"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(tmp_path)
    for folder in ("dev/shm", "cache/repository", "cache/disk", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    made.write("status", "0")
    made.write("bazel", BAZEL)
    (tmp_path / "bazel").chmod(0o755)
    made.write("factory/toolchain-id", "0123456789abcdef\n")
    made.write("etc/os-release", 'NAME=x\nPRETTY_NAME="Some Linux 12"\n')
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """Of something that answers."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_it_ends_as_bazel_ends_and_tells_the_memory(box: Box) -> None:
    version_1(box)
    box.write("status", "37")
    done = box.run()
    assert done.returncode == 37
    told = "exit_code 37 peak_memory_bytes 7000000000 memory_limit_bytes 8000000000 oom_kills 3"
    assert done.stderr.splitlines() == [f"factory: {told}"]
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


def test_without_a_bazelrc_bazel_runs_as_it_was_asked_to(box: Box) -> None:
    asked = ("--batch", "build", "--disk_cache=/d", "a b")
    box.run("build", *asked)
    assert box.arguments == list(asked)


def test_the_bazelrc_stays_in_the_tmpfs_and_not_for_long(box: Box) -> None:
    box.write("run/secrets/bazelrc", "build --jobs=3\nbuild --x={toolchain}\n")
    box.run("fetch", "--batch", f"--bazelrc={box.root}/run/secrets/bazelrc", "build")
    assert box.arguments == [box.secret_option, "--batch", "build"]
    assert box.bazelrc == "build --jobs=3\nbuild --x=0123456789abcdef\n"
    assert list((box.root / "dev/shm").iterdir()) == []


def test_a_remote_cache_that_answers_is_used_in_the_build_only(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n{REMOTE}")
    box.run("fetch")
    assert "--" not in box.bazelrc
    box.run("build", "build", "--disk_cache=/d")
    assert box.bazelrc.splitlines()[1:] == [
        "build:factory-remote --remote_cache=http://cache/0123456789abcdef",
        "build --config=factory-remote",
    ]
    assert "--disk_cache=/d" in box.arguments
    assert read_measures(box.root / "factory/measures/build")["remote"] == 1


def test_one_that_does_not_answer_is_told_once_and_left_out(box: Box) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 9\n# factory-remote-alone\n{REMOTE}")
    done = box.run("build", "build", "--disk_cache=/d")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["factory: no remote: 127.0.0.1:9 does not answer"]
    assert "--config" not in box.bazelrc
    assert "--disk_cache=/d" in box.arguments


def test_all_that_is_remote_must_answer(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote 127.0.0.1 9\n{REMOTE}")
    done = box.run()
    assert done.stderr.splitlines() == ["factory: no remote: 127.0.0.1:9 does not answer"]
    assert "--config" not in box.bazelrc


def test_one_that_went_away_in_the_middle_is_told_once(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        remote = subprocess.Popen(["sleep", "60"], pass_fds=[listening.fileno()])
    box.write("bazel", BAZEL.replace("exit ", f"kill {remote.pid}; sleep 0.2\nexit "))
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
    box.write("bazel", BAZEL.replace("exit ", f"{refuses}{code}\nexit "))
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote-alone\n{REMOTE}")
    done = box.run("build", "build", "--disk_cache=/d")
    assert done.returncode == 0
    again = f"factory: no remote: Bazel ended with exit code {code}, and begins again without it"
    assert done.stderr.splitlines() == [again]
    assert "--disk_cache=/d" in box.arguments
    assert read_measures(box.root / "factory/measures/build")["remote"] == 0


@pytest.mark.parametrize(("code", "remote"), [(1, True), (2, False)])
def test_other_ends_are_ends(box: Box, port: int, code: int, remote: bool) -> None:  # noqa: FBT001
    box.write("status", str(code))
    box.write("bazel", BAZEL.replace("sleep", 'echo ran >> "$FACTORY_TEST_ROOT/runs"\nsleep'))
    if remote:
        box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n{REMOTE}")
    assert box.run().returncode == code
    assert (box.root / "runs").read_text() == "ran\n"


def test_the_disk_cache_gives_way_where_bazel_cannot_have_both(box: Box, port: int) -> None:
    box.write("run/secrets/bazelrc", f"# factory-remote 127.0.0.1 {port}\n# factory-remote-alone\n{REMOTE}")
    box.run("build", "build", "--disk_cache=/d", "//:all")
    assert box.arguments == [box.secret_option, "build", "//:all"]


def test_files_that_options_name_are_there_while_bazel_runs(box: Box) -> None:
    box.write("bazel", BAZEL.replace("exit ", 'cat "$FACTORY_TEST_ROOT/dev/shm/factory-tls_client_key" >&2\nexit '))
    box.write("run/secrets/bazelrc", "# factory-file tls_client_key c29tZSBrZXkK\nbuild --jobs=1\n")
    assert box.run().stderr == "some key\n"
    assert box.bazelrc == "build --jobs=1\n"
    assert list((box.root / "dev/shm").iterdir()) == []
