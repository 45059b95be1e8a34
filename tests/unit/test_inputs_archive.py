"""`inputs archive`: archives as a code host serves them, from real git repositories."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.commands.inputs import inputs
from serving_factory.commands.shared import Asked, Checkout, InputsOptions
from serving_factory.docker.git import ArchiveFormat, commit_of, missing_files, write_archive
from serving_factory.errors import GitError, PinnedDiffersError, UsageError
from serving_factory.pipeline.offline.mirrors import Address, make_archive, mirror_of

from .matrices import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEN = "2018-07-04T12:00:00+0000"  # in Los Angeles it is 5 in the morning


@dataclass(frozen=True)
class Mirror:
    """A bare mirror, and the one commit in it."""

    folder: Path
    commit: str


def git(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}
    names = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], capture_output=True, text=True, env=env, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    work = tmp_path_factory.mktemp("mirror") / "re2"
    work.mkdir()
    git(work, "init", "--quiet")
    (work / ".gitattributes").write_text("version export-subst\nnotes export-ignore\n")
    (work / "version").write_text("commit $Format:%H$\n")
    (work / "notes").write_text("for this repository\n")
    (work / "run.sh").write_text("#!/bin/sh\n" + "echo much the same\n" * 5000)
    (work / "run.sh").chmod(0o755)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "one")
    git(work, "tag", "v1.2")
    git(work, "tag", "--annotate", "-m", "more", "release/1.2+more")
    git(work, "branch", "feature/x")
    folder = work.parent / "mirrored"
    git(work.parent, "clone", "--quiet", "--mirror", str(work), str(folder))
    return Mirror(folder, git(work, "rev-parse", "HEAD"))


def options(**more: Any) -> InputsOptions:  # noqa: ANN401 - as InputsOptions takes them
    return InputsOptions(asked=Asked(checkout=Checkout(ROOT, ROOT / "build")), **more)


def make(
    mirror: Mirror, ref: str, output: Path, *, form: ArchiveFormat = ArchiveFormat.TAR_GZ, pinned: str | None = None
) -> tuple[Path, str]:
    made = make_archive(mirror.folder, Address(name="re2", ref=ref, form=form), output=output, pinned=pinned)
    return made.file, made.folder


# --- the host's rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "folder"),
    [
        ("v1.2", "re2-1.2/"),
        ("V1.2", "re2-1.2/"),
        ("1.2", "re2-1.2/"),
        ("version1", "re2-version1/"),
        ("release/1.2", "re2-release-1.2/"),
        ("a/b/v1", "re2-a-b-v1/"),
        ("1.2+more", "re2-1.2-more/"),
        ("1.2--rc", "re2-1.2-rc/"),
        (COMMIT, f"re2-{COMMIT}/"),
        (COMMIT[:7], f"re2-{COMMIT}/"),
        ("abcdef0", "re2-abcdef0/"),
    ],
)
def test_the_folder_is_named_as_the_host_names_it(ref: str, folder: str) -> None:
    assert Address(name="re2", ref=ref, form=ArchiveFormat.ZIP).folder(COMMIT) == folder


def test_the_file_has_the_base_name_of_the_url() -> None:
    assert Address(name="re2", ref="v1.2", form=ArchiveFormat.TAR_GZ).file_name == "v1.2.tar.gz"
    assert Address(name="re2", ref="release/1.2", form=ArchiveFormat.ZIP).file_name == "1.2.zip"


def test_gitlab_names_folder_and_file_alike(mirror: Mirror, tmp_path: Path) -> None:
    address = Address(name="re2", ref="v1.2", form=ArchiveFormat.TAR_GZ, file="re2-v1.2")
    made = make_archive(mirror.folder, address, output=tmp_path, pinned=None)
    assert (made.file.name, made.folder) == ("re2-v1.2.tar.gz", "re2-v1.2/")


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "folder", "name"),
    [
        ("v1.2", "re2-1.2", "v1.2.tar.gz"),
        ("release/1.2+more", "re2-release-1.2-more", "1.2+more.tar.gz"),
        ("feature/x", "re2-feature-x", "x.tar.gz"),
        ("main", "re2-main", "main.tar.gz"),
    ],
)
def test_a_tar_gz_is_git_archive_through_gzip(mirror: Mirror, tmp_path: Path, ref: str, folder: str, name: str) -> None:
    file, message = make(mirror, ref, tmp_path / "out")
    assert (file.name, message) == (name, f"{folder}/")
    with tarfile.open(file) as archive:
        assert archive.getnames() == [folder, *(f"{folder}/{name}" for name in (".gitattributes", "run.sh", "version"))]
        assert archive.getmember(f"{folder}/run.sh").mode == 0o775
        version = archive.extractfile(f"{folder}/version")
        assert version
        assert version.read().decode() == f"commit {mirror.commit}\n"
    tar = subprocess.run(
        ["git", "-C", mirror.folder, "archive", "--format=tar", f"--prefix={folder}/", mirror.commit],
        capture_output=True,
        check=True,
    ).stdout
    assert gzip.decompress(file.read_bytes()) == tar
    packed = subprocess.run(["gzip", "-cn"], input=tar, capture_output=True, check=True).stdout
    assert file.read_bytes() == packed


def test_it_can_go_to_the_current_folder(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = Address(name="re2", ref="v1.2", form=ArchiveFormat.TAR_GZ)
    make_archive(mirror.folder, address, output=Path(), pinned=None)
    assert (tmp_path / "v1.2.tar.gz").is_file()


def test_a_commit_can_be_given_in_part(mirror: Mirror, tmp_path: Path) -> None:
    file, folder = make(mirror, mirror.commit[:8], tmp_path)
    assert (file.name, folder) == (f"{mirror.commit[:8]}.tar.gz", f"re2-{mirror.commit}/")


def test_a_zip_has_the_times_of_los_angeles(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    file, _ = make(mirror, "v1.2", tmp_path, form=ArchiveFormat.ZIP)
    with zipfile.ZipFile(file) as archive:
        assert archive.comment.decode() == mirror.commit
        assert {one.date_time for one in archive.infolist()} == {(2018, 7, 4, 5, 0, 0)}


def test_a_zip_needs_to_know_the_zone(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.docker.git._HOST_ZONE", "America/Nowhere")
    with pytest.raises(GitError, match="has no time zone"):
        make(mirror, "v1.2", tmp_path, form=ArchiveFormat.ZIP)


def test_what_a_user_has_set_changes_no_byte(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make(mirror, "v1.2", tmp_path / "plain")[0].read_bytes()
    (tmp_path / ".gitconfig").write_text(
        f'[tar]\numask = 0077\n[tar "tar.gz"]\ncommand = gzip -9\n[core]\nautocrlf = true\n'
        f"attributesFile = {tmp_path / 'attributes'}\n"
    )
    (tmp_path / "attributes").write_text("run.sh export-ignore\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GZIP", "-9")
    assert make(mirror, "v1.2", tmp_path / "set")[0].read_bytes() == plain


def test_what_git_does_not_know_is_reported(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(GitError, match=r"has no ref v9\.9"):
        make(mirror, "v9.9", tmp_path)
    with pytest.raises(GitError, match="git failed in") as caught:
        commit_of(tmp_path, "v1.2")
    assert "not a git repository" in caught.value.why
    with pytest.raises(GitError, match="git failed in"):
        write_archive(mirror.folder, "0" * 40, prefix="a/", form=ArchiveFormat.ZIP, file=tmp_path / "a.zip")


def test_a_machine_without_git_is_reported(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitError, match="The git command is missing"):
        commit_of(mirror.folder, "v1.2")


@pytest.mark.parametrize(
    ("origin", "name", "owners"),
    [
        ("https://code.example.com/google/re2.git", "re2", ("google",)),
        ("https://code.example.com/google/re2/", "re2", ("google",)),
        ("git@code.example.com:google/re2.git", "re2", ("google",)),
        ("/mirrors/re2/.git", "re2", ("mirrors",)),
        ("", "somewhere", ()),
    ],
)
def test_the_origin_gives_the_name_and_the_owner(
    tmp_path: Path, origin: str, name: str, owners: tuple[str, ...]
) -> None:
    folder = tmp_path / "somewhere.git"
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare")
    if origin:
        git(folder, "remote", "add", "origin", origin)
    found = mirror_of(folder)
    assert (found.names[0], found.owners) == (name, owners)


# --- the command ------------------------------------------------------------------------------------------------------


def sha256_of(mirror: Mirror, folder: Path, ref: str) -> str:
    return hashlib.sha256(make(mirror, ref, folder)[0].read_bytes()).hexdigest()


def run(mirror: Mirror, *refs: str, output: Path, pinned: tuple[str, ...] = (), repository: str = "") -> None:
    words = ("archive", str(mirror.folder), *refs)
    inputs(words, options(output=str(output), pinned=pinned, repository=repository, json=True))


def test_an_archive_that_is_the_pinned_one_is_kept(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = sha256_of(mirror, tmp_path / "once", "v1.2")
    run(mirror, "v1.2", "main", output=tmp_path / "out", pinned=(f"v1.2=sha256:{right}",))
    first, second = json.loads(capsys.readouterr().out)["archives"]
    assert first == {
        "ref": "v1.2",
        "commit": mirror.commit,
        "file": str(tmp_path / "out" / "v1.2.tar.gz"),
        "folder": "re2-1.2/",
        "size": (tmp_path / "out" / "v1.2.tar.gz").stat().st_size,
        "sha256": right,
        "pinned": right,
        "matches": True,
    }
    assert (second["pinned"], second["matches"]) == (None, None)


def test_an_archive_that_is_not_the_pinned_one_is_not_kept(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = sha256_of(mirror, tmp_path / "once", "main")
    with pytest.raises(PinnedDiffersError, match="1 archive of 2") as caught:
        run(mirror, "v1.2", "main", output=tmp_path / "out", pinned=(f"v1.2.tar.gz={'0' * 64}", f"main={right}"))
    assert f"pinned is {'0' * 64}, made was" in caught.value.why
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["main.tar.gz"]
    assert [one["matches"] for one in json.loads(capsys.readouterr().out)["archives"]] == [False, True]


def test_pins_come_from_a_preflight_report(mirror: Mirror, tmp_path: Path) -> None:
    entry = {
        "file": "v1.2.tar.gz",
        "sha256": "1" * 64,
        "urls": ["https://code.example.com/google/re2/archive/v1.2.tar.gz"],
    }
    other = {**entry, "sha256": "2" * 64, "urls": ["https://code.example.com/google/re3/archive/v1.2.tar.gz"]}
    unpinned = {**entry, "sha256": None, "urls": ["https://code.example.com/google/re2/archive/v1.3.tar.gz"]}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"missing": [entry, other, unpinned]}))
    with pytest.raises(PinnedDiffersError) as caught:
        run(mirror, "v1.2", output=tmp_path, pinned=(str(report),))
    assert f"pinned is {'1' * 64}" in caught.value.why


def report_of(folder: Path, *addresses: tuple[str, str | None]) -> str:
    missing = [{"file": url.rpartition("/")[2], "sha256": sha256, "urls": [url]} for url, sha256 in addresses]
    file = folder / "report.json"
    file.write_text(json.dumps({"missing": missing}), encoding="utf-8")
    return str(file)


def without_origin(mirror: Mirror, place: Path) -> Mirror:
    """The mirror as somebody may have it: in a folder of another name, and with no word of where it is from."""
    shutil.copytree(mirror.folder, place)
    git(place, "remote", "remove", "origin")
    return Mirror(place, mirror.commit)


def test_a_report_gives_the_name_and_the_kind_of_an_archive(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = without_origin(mirror, tmp_path / "xyz" / "repo")
    right = sha256_of_zip(mirror, tmp_path / "once", "v1.2")
    report = report_of(tmp_path, ("https://github.com/google/re2/archive/v1.2.zip", right))
    run(bare, "v1.2", output=tmp_path / "out", pinned=(report,))
    (made,) = json.loads(capsys.readouterr().out)["archives"]
    assert (made["folder"], made["matches"]) == ("re2-1.2/", True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v1.2.zip"]


def sha256_of_zip(mirror: Mirror, folder: Path, ref: str) -> str:
    return hashlib.sha256(make(mirror, ref, folder, form=ArchiveFormat.ZIP)[0].read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("more", "refs", "message"),
    [
        ({}, ["main"], "the report has no archive of main"),
        ({"repository": "re3"}, ["v1.2"], "--repository is re3, but the report has v1.2 of re2"),
        ({"as_zip": True}, ["v1.2"], "--zip is given, but the report has v1.2 as tar.gz"),
    ],
)
def test_what_a_report_contradicts_is_refused(
    mirror: Mirror, tmp_path: Path, more: dict[str, Any], refs: list[str], message: str
) -> None:
    report = report_of(tmp_path, ("https://github.com/google/re2/archive/v1.2.tar.gz", "1" * 64))
    with pytest.raises(UsageError) as caught:
        inputs(("archive", str(mirror.folder), *refs), options(output=str(tmp_path / "out"), pinned=(report,), **more))
    assert caught.value.what == message
    assert not (tmp_path / "out").exists()


def test_a_mirror_without_some_files_names_them(mirror: Mirror, tmp_path: Path) -> None:
    holed = without_blob(mirror, tmp_path / "holed", "run.sh")
    assert missing_files(holed.folder, mirror.commit) == ("run.sh",)
    with pytest.raises(GitError, match=r"has no content for 1 of v1\.2's files") as caught:
        make(holed, "v1.2", tmp_path / "out")
    assert caught.value.why == "run.sh"
    assert "inputs override" in caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


def without_blob(mirror: Mirror, place: Path, name: str) -> Mirror:
    """A copy of the mirror without the content of a file, as mirrors without large files do."""
    shutil.copytree(mirror.folder, place)  # of a local clone, whose objects are in no pack
    blob = git(place, "rev-parse", f"{mirror.commit}:{name}")
    (place / "objects" / blob[:2] / blob[2:]).unlink()
    return Mirror(place, mirror.commit)


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (("archive", "x", "y"), {"mirrors": "m"}, "`inputs archive` does not take --mirrors"),
        (("fill", "x"), {"as_zip": True}, "`inputs fill` does not take --zip"),
        (("override", "x"), {"archives": "a"}, "`inputs override` does not take --archives"),
        (("packages", "x"), {"source": "a"}, "`inputs packages` does not take --from"),
        (("fill", "x"), {}, "`inputs fill` needs --mirrors or --archives"),
        (("fill", "x"), {"mirrors": "/nowhere"}, "--mirrors must be a folder, got '/nowhere'"),
        (("override", "x"), {"source": "a", "debian_source": "b"}, "`inputs override` needs one place for the sources"),
        (("override", "x"), {"source": "a"}, "`inputs override` needs a variant, whose sources declare the repository"),
    ],
)
def test_options_of_another_word_are_refused(words: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        inputs(words, options(**more))
    assert caught.value.what == message


def test_the_catalogue_pins_tensorflow(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = releases()["1.9.1"]
    assert release.tensorflow_sha256
    here = {"1.9.1": replace(release, tensorflow_commit=mirror.commit)}
    monkeypatch.setattr("serving_factory.commands.inputs.releases", lambda: here)
    with pytest.raises(PinnedDiffersError) as caught:
        run(mirror, mirror.commit, output=tmp_path, repository="tensorflow")
    assert f"pinned is {release.tensorflow_sha256}" in caught.value.why
    capsys.readouterr()
    run(mirror, mirror.commit, output=tmp_path)
    assert json.loads(capsys.readouterr().out)["archives"][0]["pinned"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "`inputs` needs a command"),
        (("archive",), "`inputs archive` takes GIT_DIR REF..., got no word"),
        (("archive", "somewhere"), "`inputs archive` takes GIT_DIR REF..., got somewhere"),
        (("unpack", "a", "b"), "`inputs unpack a b` is no command"),
        (("archive", "/nowhere", "v1"), "/nowhere is no git repository"),
    ],
)
def test_what_makes_no_sense_is_reported(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        inputs(words, options(output=str(tmp_path)))
    assert caught.value.what == message


@pytest.mark.parametrize("text", [None, "[]", '{"missing": [{}]}', "no json", "\xff"])
def test_a_pin_that_is_none_is_reported(mirror: Mirror, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "v1.2=0123"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="must be NAME=SHA256 or a preflight"):
        run(mirror, "v1.2", output=tmp_path, pinned=(str(file),))
