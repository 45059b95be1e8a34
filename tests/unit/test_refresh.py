"""`refresh`: what an image holds, what of it is outdated, and what that changes; the engine and apt are played."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from serving_factory.commands import refresh as refreshing
from serving_factory.commands.refresh import compared_table, locked_with, refresh
from serving_factory.commands.shared import Asked, Checkout, RunOptions
from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.errors import EngineError, FactoryError, FetchError, NotBuiltError, OutdatedError, PackageError
from serving_factory.matrix.lockfile import Lock, read_lock
from serving_factory.pipeline import outdated as outdated_module
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.outdated import Compared, Outdated, compare_images
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import stage
from serving_factory.proofs.described import Package, packages_in

from .fake_compile import IMAGE, FakeDocker
from .matrices import ROOT, write

STATUS = b"""\
Package: libssl3
Status: install ok installed
Source: openssl
Version: 3.0.16-1

Package: libgcc-s1
Status: install ok installed
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+b1

Package: removed
Status: deinstall ok config-files
Version: 1

Package: broken
Status: install ok half-installed
Version: 1
"""
COPIED = b"Package: libssl3\nStatus: install ok installed\nSource: openssl\nVersion: 3.0.17-1\n"
NEWER = Outdated(package="libssl3", installed="3.0.16-1", available="3.0.18-1", cves=("CVE-2026-1234",))


def test_what_was_copied_counts_before_what_the_base_has() -> None:
    files = {"/var/lib/dpkg/status": STATUS, "/var/lib/dpkg/status.d/libssl3": COPIED}
    gcc = Package("libgcc-s1", "12.2.0-14+b1", "12.2.0-14")
    assert packages_in(files) == (gcc, Package("libssl3", "3.0.17-1", "3.0.17-1"))
    assert packages_in({"/var/lib/dpkg/status": STATUS})[1].version == "3.0.16-1"
    assert packages_in({"/var/lib/dpkg/status.d/libssl3.md5sums": b"0 usr/lib/libssl.so.3\n"}) == ()


def compared(variant: str, *outdated: Outdated, unknown: tuple[str, ...] = ()) -> Compared:
    return Compared(variant=variant, image=IMAGE, base="ubuntu:20.04", packages=90, outdated=outdated, unknown=unknown)


def test_the_lock_keeps_the_available_versions_by_base() -> None:
    lock = Lock(bases={"ubuntu:20.04": "sha256:0"}, packages={"ubuntu:20.04": {"a": "1", "libssl3": "3.0.16-1"}})
    pinned = replace(compared("v", NEWER), base="ubuntu:20.04@sha256:0")
    made = locked_with([pinned, compared("w", NEWER)], lock)
    assert made == replace(lock, packages={"ubuntu:20.04": {"a": "1", "libssl3": "3.0.18-1"}})


def test_the_table_has_a_line_for_each_package() -> None:
    other = replace(NEWER, package="zlib1g", cves=None)
    lines = compared_table([compared("v", NEWER, other), compared("w", NEWER, unknown=("cuda",))]).splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["libssl3", "3.0.16-1", "3.0.18-1", "CVE-2026-1234", "all"],
        ["zlib1g", "3.0.16-1", "3.0.18-1", "no", "changelog", "v"],
    ]
    assert lines[-2:] == [
        "2 images: 2 to refresh.",
        "Not compared, as no source of the base's packages has them: cuda",
    ]
    assert compared_table([compared("v")]) == "1 image: all packages are as their distribution has them now.\n"


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """The distribution: what a comparison finds, and the builds that asked for it."""

    newer: str = "libssl3 3.0.16-1 3.0.18-1 CVE-2026-1234\n"
    unknown: str = "libgcc-s1\n"
    log: str = ""  # of a comparison that fails
    requests: list[BuildRequest] = field(default_factory=list)
    given: str = ""
    refreshed: list[RunOptions] = field(default_factory=list)

    def build(self, request: BuildRequest, log: Path, **_more: object) -> None:
        self.requests.append(request)
        self.given = Path(dict(request.contexts)["packages"], "packages").read_text(encoding="utf-8")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(self.log, encoding="utf-8")
        if self.log:
            raise BuildFailed(step="[work 3/3] RUN write_newer", tail=(self.log,), exit_code=1, text=self.log)
        assert request.output
        request.output.mkdir()
        for name in ("newer", "unknown"):
            (request.output / name).write_text(getattr(self, name), encoding="utf-8")

    def run_stage(self, name: str, options: RunOptions) -> None:
        assert name == "refresh"
        self.refreshed.append(options)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    distribution = Played()
    monkeypatch.setattr(outdated_module, "logged_build", distribution.build)
    monkeypatch.setattr(refreshing, "run_stage", distribution.run_stage)
    return distribution


@pytest.fixture
def packaged(tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A variant with an image, which has records of packages."""
    job = fake_docker.job(tmp_path)
    stages = [stage(name) for name in ("compile", "extract", "libraries", "inspect", "package")]
    PipelineRun([job], stages, lambda _event: None).run()
    fake_docker.engine.names[IMAGE] = IMAGE
    fake_docker.engine.files = {"/var/lib/dpkg/status": STATUS}
    monkeypatch.setattr(refreshing, "site_of", lambda _asked: job.site)
    return job


def options(job: Job, **more: object) -> RunOptions:
    folder = job.site.build.parent
    asked = Asked(checkout=Checkout(folder, folder / "build"), matrix=str(folder / "matrix.yaml"))
    return replace(RunOptions(asked=asked), **more)  # type: ignore[arg-type]


def test_a_check_names_what_is_outdated_and_changes_nothing(
    packaged: Job, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutdatedError, match="1 image of 1 holds packages") as caught:
        refresh(options(packaged, json=True), check=True)
    assert caught.value.exit_code == 74
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["outdated"] == [
        {"package": "libssl3", "installed": "3.0.16-1", "available": "3.0.18-1", "cves": ["CVE-2026-1234"]}
    ]
    assert (image["packages"], image["unknown"]) == (2, ["libgcc-s1"])
    assert not played.refreshed
    assert not read_lock(packaged.site.build.parent / "matrix.yaml").packages
    (request,) = played.requests
    assert dict(request.build_args)["BASE"] == "ubuntu:20.04"
    assert played.given == "libgcc-s1 12.2.0-14+b1 12.2.0-14\nlibssl3 3.0.16-1 3.0.16-1\n"


def test_a_refresh_locks_the_versions_and_makes_the_outdated_images_again(packaged: Job, played: Played) -> None:
    refresh(options(packaged), check=False)
    folder = packaged.site.build.parent
    assert read_lock(folder / "matrix.yaml").packages == {"ubuntu:20.04": {"libssl3": "3.0.18-1"}}
    (run,) = played.refreshed
    assert run.asked.variant == ("2.19.1-cpu-v3",)
    written = (folder / "matrix.lock").stat()
    refresh(options(packaged), check=False)
    assert (folder / "matrix.lock").stat().st_mtime_ns == written.st_mtime_ns, "it is as it would be written"


def test_where_nothing_is_outdated_nothing_is_done(
    packaged: Job, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.newer = ""
    refresh(options(packaged), check=True)
    refresh(options(packaged, json=True), check=False)
    assert not played.refreshed
    assert not (packaged.site.build.parent / "matrix.lock").exists()
    *_, line = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "compared"
    assert json.loads(line)["schema_version"] == 1


def test_one_question_serves_all_images_on_a_base(packaged: Job, played: Played) -> None:
    first, second = compare_images([packaged, packaged], lambda _text: None)
    assert first == second
    assert len(played.requests) == 1


def no_image(job: Job, _played: Played) -> None:
    job.site.engine.names.clear()  # type: ignore[attr-defined]  # the fake's


def no_packages(job: Job, _played: Played) -> None:
    job.site.engine.files.clear()  # type: ignore[attr-defined]


def another_base(job: Job, _played: Played) -> None:
    job.site.engine.files["/usr/share/serving-factory/image.json"] = b'{"base": "debian:trixie@sha256:0"}'  # type: ignore[attr-defined]


def no_record(job: Job, _played: Played) -> None:
    shutil.rmtree(job.folder)


def no_network(_job: Job, played: Played) -> None:
    played.log = "[work 3/3] W: Failed to fetch http://d/InRelease  Could not connect to d:80"


def no_trust(_job: Job, played: Played) -> None:
    played.log = "[work 3/3] W: Failed to fetch https://d/InRelease  Certificate verification failed: x"


def no_apt(_job: Job, played: Played) -> None:
    played.log = "[work 3/3] newer: this base has no apt-get"


FAULTS: Mapping[Callable[[Job, Played], None], tuple[type[FactoryError], str, str]] = {
    no_image: (EngineError, "no longer the image", "./factory package --variant 2.19.1-cpu-v3"),
    no_packages: (PackageError, "no records of packages", "image.base"),
    another_base: (NotBuiltError, "its image stands on debian:trixie, and the matrix file says", "./factory build"),
    no_record: (NotBuiltError, "2.19.1-cpu-v3", "./factory build"),
    no_network: (FetchError, "Could not connect", "network.apt"),
    no_trust: (FetchError, "Certificate verification failed", "SERVING_FACTORY_CA_CERTIFICATES"),
    no_apt: (PackageError, "this base has no apt-get", "refresh.log"),
}


@pytest.mark.parametrize("spoil", FAULTS)
def test_what_cannot_be_compared_is_one_clear_error(
    packaged: Job, played: Played, spoil: Callable[[Job, Played], None]
) -> None:
    kind, said, remedy = FAULTS[spoil]
    spoil(packaged, played)
    with pytest.raises(kind) as caught:
        refresh(options(packaged), check=True)
    assert said in str(caught.value)
    assert remedy in caught.value.remedy
    assert not played.refreshed


def test_variants_without_an_image_are_passed_over(
    packaged: Job, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = packaged.site.build.parent
    write(
        folder,
        (folder / "matrix.yaml").read_text(encoding="utf-8").replace("- x86-64-v3\n", "- x86-64-v3\n    - avx\n"),
    )
    refresh(options(packaged), check=False)
    assert [run.asked.variant for run in played.refreshed] == [("2.19.1-cpu-v3",)]
    assert "Note: 1 variant without an image: 2.19.1-cpu-avx\n" in capsys.readouterr().err


# --- newer.sh ---------------------------------------------------------------------------------------------------------

SCRIPT = ROOT / "dockerfiles" / "context" / "newer.sh"
POLICY = """\
libssl3:
  Installed: 3.0.16-1
  Candidate: 3.0.18-1
  Version table:
     3.0.18-1 500
        500 http://d/debian-security bookworm-security/main amd64 Packages
 *** 3.0.16-1 100
        100 /var/lib/dpkg/status
zlib1g:
  Installed: (none)
  Candidate: 1:1.2.13
  Version table:
     1:1.2.13 500
        500 file:/inputs/apt ./ Packages
vendors:
  Installed: 1
  Candidate: 1
  Version table:
 *** 1 100
        100 /var/lib/dpkg/status
"""
CHANGELOG = """\
openssl (3.0.18-1) bookworm-security; urgency=high

  * CVE-2026-1234: a fix. CVE-2026-1234 again.
  * CVE-2026-12345

 -- A Maintainer <a@b.c>  Sun, 01 Mar 2026 00:00:00 +0000

openssl (3.0.17-1) bookworm; urgency=medium

  * CVE-2025-0002

 -- A Maintainer <a@b.c>  Sun, 01 Mar 2025 00:00:00 +0000

openssl (3.0.16-1) bookworm; urgency=medium

  * CVE-2024-0003
"""


def script(command: str, *, text: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    argv = ["bash", "-euo", "pipefail", "-c", f"scratch={folder}; source {SCRIPT}; {command}"]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)


def test_candidates_are_what_a_source_has() -> None:
    assert script("candidates", text=POLICY).stdout == "libssl3 3.0.18-1\nzlib1g 1:1.2.13\n"


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg compares versions")
@pytest.mark.parametrize(
    ("since", "found"),
    [
        ("3.0.16-1", {"CVE-2026-1234", "CVE-2026-12345", "CVE-2025-0002"}),
        ("3.0.17-1", {"CVE-2026-1234", "CVE-2026-12345"}),
        ("3.0.16-2", {"CVE-2026-1234", "CVE-2026-12345", "CVE-2025-0002"}),
        ("3.0.18-1", set()),
    ],
)
def test_cves_are_those_of_entries_since(tmp_path: Path, since: str, found: set[str]) -> None:
    doc = tmp_path / "usr" / "share" / "doc"
    (doc / "libcrypto").mkdir(parents=True)
    (doc / "libcrypto" / "changelog.Debian.gz").write_bytes(gzip.compress(CHANGELOG.encode()))
    (doc / "libssl3").symlink_to("libcrypto")
    done = script(f"cves_since libssl3 {since}", folder=tmp_path)
    assert (done.returncode, set(done.stdout.split())) == (0, found), done.stderr


def test_without_a_changelog_no_cves_are_known(tmp_path: Path) -> None:
    assert script("cves_since libssl3 1", folder=tmp_path).stdout == "-\n"


def test_lists_that_were_not_fetched_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("libssl3 1 1\n")
    played = "apt_get() { echo 'W: Failed to fetch http://d/InRelease  Could not connect' >&2; }; dpkg() { :; }"
    present = "apt-get() { :; }"
    done = script(f"{played}; {present}; write_newer {tmp_path}/packages {tmp_path}/out")
    assert done.returncode != 0
    assert "newer: not all lists of packages were fetched" in done.stderr
