"""What fills the inputs of a build without a network: mirrors, archives, folders in repositories' places."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from serving_factory.engine.git import ArchiveFormat, write_archive
from serving_factory.errors import OverrideError
from serving_factory.line.preflight_report import Declared, Missing, declared_repositories
from serving_factory.line.vault.fill import Filled, Filler, Result, archives_in
from serving_factory.line.vault.mirrors import Address, archive_address, find_mirrors, mirrors_for
from serving_factory.line.vault.override import Labels, Override, make_override, override_from_git, unpack


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", "-C", str(folder), *names, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1.0")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Mirrors as people have them: bare and not, with an owner in the name, deeper, renamed; and alpha's commit."""
    folder = tmp_path_factory.mktemp("mirrors")
    commit = repository(folder / "work" / "alpha", version="1")
    git(folder, "clone", "--quiet", "--mirror", str(folder / "work" / "alpha"), str(folder / "somebody+alpha" / "repo"))
    git(folder / "somebody+alpha" / "repo", "remote", "remove", "origin")
    git(folder, "clone", "--quiet", "--mirror", str(folder / "work" / "alpha"), str(folder / "alpha-renamed.git"))
    git(folder / "alpha-renamed.git", "remote", "remove", "origin")
    repository(folder / "beta", version="2")
    return folder, commit


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "https://github.com/google/re2/archive/v1.2.tar.gz",
            Address(owner="google", name="re2", ref="v1.2", form=ArchiveFormat.TAR_GZ),
        ),
        (
            "https://mirror.example.com/github.com/a/b/archive/release/1.2.zip",
            Address(owner="a", name="b", ref="release/1.2", form=ArchiveFormat.ZIP),
        ),
        (
            "https://github.com/a/b/archive/refs/tags/v1.tar.gz",
            Address(owner="a", name="b", ref="v1", form=ArchiveFormat.TAR_GZ),
        ),
        (
            "https://codeload.github.com/a/b/zip/0123abc",
            Address(owner="a", name="b", ref="0123abc", form=ArchiveFormat.ZIP),
        ),
        ("https://github.com/a/b/releases/download/v1/b.tar.gz", None),
        ("https://zlib.net/zlib-1.2.11.tar.gz", None),
    ],
)
def test_addresses_of_archives(url: str, address: Address | None) -> None:
    assert archive_address(url) == address


def test_mirrors_are_found_by_name_and_commits_by_whoever_has_them(mirrors: tuple[Path, str]) -> None:
    folder, commit = mirrors
    found = find_mirrors(folder)
    assert {(mirror.folder.relative_to(folder).as_posix(), mirror.names[0]) for mirror in found} == {
        ("alpha-renamed.git", "alpha-renamed"),
        ("beta/.git", "beta"),
        ("somebody+alpha/repo", "alpha"),
        ("work/alpha/.git", "alpha"),
    }

    def places(name: str, ref: str) -> list[str]:
        return [mirror.folder.relative_to(folder).as_posix() for mirror, _ in mirrors_for(name, ref, found)]

    assert places("alpha", "v1.0") == ["somebody+alpha/repo", "work/alpha/.git"]
    assert places("alpha", commit) == ["somebody+alpha/repo", "work/alpha/.git", "alpha-renamed.git"]
    assert places("other-name", commit) == ["alpha-renamed.git", "somebody+alpha/repo", "work/alpha/.git"]
    assert places("alpha", "v9") == []
    assert places("gamma", "v1.0") == []


def missing(name: str, url: str, sha256: str | None = None, rule: str = "http_archive") -> Missing:
    return Missing(
        name=name, rule=rule, file=url.rpartition("/")[2], urls=(url,) if url else (), sha256=sha256, problem="gone"
    )


@pytest.fixture
def fill(mirrors: tuple[Path, str], tmp_path: Path) -> Callable[..., Filled]:
    def one(what: Missing, **more: Any) -> Filled:  # noqa: ANN401 - as Filler takes them
        values: dict[str, Any] = {"archives": {}, "declared": {}, "override": None, **more}
        filler = Filler(
            variant="1.9.1-cpu-v1",
            distdir=tmp_path / "archives",
            mirrors=find_mirrors(mirrors[0]),
            tell=lambda _text: None,
            **values,
        )
        (filled,) = filler.fill([what])
        return filled

    return one


ALPHA = "https://github.com/anyone/alpha/archive/v1.0.tar.gz"


def test_an_archive_is_made_where_it_is_the_pinned_one(
    fill: Callable[..., Filled], mirrors: tuple[Path, str], tmp_path: Path
) -> None:
    once = tmp_path / "once.tar.gz"
    alpha = mirrors[0] / "work" / "alpha"
    write_archive(alpha, mirrors[1], prefix="alpha-1.0/", form=ArchiveFormat.TAR_GZ, file=once)
    right = hashlib.sha256(once.read_bytes()).hexdigest()
    filled = fill(missing("alpha", ALPHA, right))
    assert (filled.result, filled.sha256) == (Result.MADE, right)
    assert (tmp_path / "archives" / "v1.0.tar.gz").read_bytes() == once.read_bytes()
    again = fill(missing("alpha", ALPHA, right))
    assert again == filled, "a second time changes nothing"


@pytest.mark.parametrize(
    ("what", "why", "next_step"),
    [
        (missing("alpha", ALPHA, "0" * 64), "is pinned", "vault override alpha --from "),
        (missing("alpha", ALPHA.replace("v1.0", "v7")), "there is no v7 in ", "remote update"),
        (missing("gamma", ALPHA.replace("alpha", "gamma")), "no mirror of anyone/gamma", "git clone --mirror"),
        (
            missing("zlib", "https://zlib.net/zlib-1.2.tar.gz", "1" * 64),
            "GitHub does not make it",
            f"sha256 {'1' * 64}",
        ),
        (missing("odd", ""), "gone", "bazel.log"),
    ],
)
def test_what_cannot_be_made_is_left_with_a_next_step(
    fill: Callable[..., Filled], tmp_path: Path, what: Missing, why: str, next_step: str
) -> None:
    filled = fill(what)
    assert filled.result is Result.LEFT
    assert why in filled.why
    assert next_step in filled.next_step
    assert not list((tmp_path / "archives").glob("*"))


def test_a_repository_that_bazel_clones(fill: Callable[..., Filled], mirrors: tuple[Path, str]) -> None:
    (declared,) = declared_repositories('git_repository(name = "b", remote = "https://x/beta.git", commit = "v1.0")')
    filled = fill(missing("b", "", rule="git_repository"), declared={"b": declared})
    assert "Bazel clones it" in filled.why
    assert f"--from {mirrors[0]}/beta/.git#" in filled.next_step


def test_with_overrides_a_folder_takes_the_place_of_what_differs(fill: Callable[..., Filled], tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def override(name: str, _mirror: Path, commit: str) -> Override:
        asked.append((name, commit))
        return Override(folder=tmp_path, followed=(), not_followed=(), absent=("a.h",), left_out=("big",))

    filled = fill(missing("alpha", ALPHA, "0" * 64), override=override)
    assert filled.result is Result.OVERRIDDEN
    assert filled.note == "left out: big; absent: a.h"
    assert [name for name, _ in asked] == ["alpha"]


def test_an_archive_from_elsewhere_is_taken_by_its_checksum(fill: Callable[..., Filled], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "download(1)").write_bytes(b"zlib")
    sha256 = hashlib.sha256(b"zlib").hexdigest()
    archives = archives_in(tmp_path / "elsewhere")
    filled = fill(missing("zlib", "https://zlib.net/zlib-1.2.tar.gz", sha256), archives=archives)
    assert filled.result is Result.COPIED
    assert (tmp_path / "archives" / "zlib-1.2.tar.gz").read_bytes() == b"zlib"


# --- overrides --------------------------------------------------------------------------------------------------------

PATCH = """\
--- a/one.c
+++ b/one.c
@@ -1 +1 @@
-one
+two
"""
RULE = """\
tf_http_archive(
  name = "lib",
  urls = ["https://a/lib-1.0.tar.gz"],
  sha256 = "00",
  strip_prefix = "lib-1.0",
  build_file = "@org_tensorflow//third_party:lib.BUILD",
  patch_file = "//third_party:lib.patch",
  delete = ["docs", "NOTES"],
  link_files = {"//third_party:extra.h": "include/extra.h"},
  patch_cmds = ["sed -i s/a/b/ c"],
)
"""
BUILD = (
    'cc_library(name = "lib", srcs = ["one.c", "%prefix%/gen.c", "config.h"])\ngenrule(name = "g", outs = ["made.h"])\n'
)


def labels(**more: str) -> Labels:
    files = {
        "org_tensorflow:third_party/lib.BUILD": BUILD,
        ":third_party/lib.patch": PATCH,
        ":third_party/extra.h": "extra\n",
        **more,
    }

    def tree(name: str) -> Callable[[PurePosixPath], bytes | None]:
        return lambda path: files[f"{name}:{path}"].encode() if f"{name}:{path}" in files else None

    return Labels(tree)


def rule(text: str = RULE) -> Declared:
    (found,) = declared_repositories(text)
    return found


def sources(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return folder


LIB = {"one.c": "one\n", "docs/a": "a", "NOTES": "n", "BUILD": "old"}


def in_folder(name: str) -> dict[str, str]:
    return {f"{name}/{file}": text for file, text in LIB.items()}


def test_the_rule_is_followed(tmp_path: Path) -> None:
    made = make_override(rule(), sources(tmp_path / "s", in_folder("lib-1.0")), tmp_path / "o" / "lib", labels())
    there = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert there == {"one.c", "BUILD.bazel", "WORKSPACE", "include/extra.h"}
    assert (made.folder / "one.c").read_text() == "two\n"
    assert "external/gen.c" in (made.folder / "BUILD.bazel").read_text()
    assert [name for name, _ in made.followed] == [
        *("strip_prefix", "delete", "delete", "patch_file", "build_file", "link_files"),
    ]
    assert made.not_followed == (("patch_cmds", "commands are not run: ['sed -i s/a/b/ c']"),)
    assert made.absent == ("external/gen.c", "config.h")


def test_another_version_is_taken_and_told(tmp_path: Path) -> None:
    made = make_override(rule(), sources(tmp_path / "s", in_folder("lib-1.1")), tmp_path / "o", labels())
    assert ("strip_prefix", "lib-1.1, where the rule says lib-1.0") in made.followed


def test_out_of_git_without_what_the_mirror_lacks(tmp_path: Path) -> None:
    commit = repository(tmp_path / "git", **{"one.c": "one\n", "NOTES": "n"})
    blob = git(tmp_path / "git", "rev-parse", f"{commit}:NOTES")
    (tmp_path / "git" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    made = override_from_git(rule(), tmp_path / "git" / ".git", commit, tmp_path / "o", labels())
    assert made.left_out == ("NOTES",)
    assert (made.folder / "one.c").read_text() == "two\n"


@pytest.mark.parametrize(
    ("text", "files", "told"),
    [
        (RULE, {"one.c": "three\n"}, "//third_party:lib.patch does not fit these sources"),
        (
            RULE.replace(":lib.BUILD", ":other.BUILD"),
            LIB,
            "other.BUILD cannot be read: the repository org_tensorflow has no",
        ),
        (RULE.replace('"docs"', '"../x"'), LIB, "the rule deletes ../x, which is not inside the repository"),
    ],
)
def test_what_does_not_fit_leaves_nothing(tmp_path: Path, text: str, files: dict[str, str], told: str) -> None:
    with pytest.raises(OverrideError) as caught:
        make_override(rule(text), sources(tmp_path / "s" / "lib-1.0", files).parent, tmp_path / "o", labels())
    assert told in caught.value.what
    assert not (tmp_path / "o").exists()


def test_a_repository_that_is_not_there_yet_is_named(tmp_path: Path) -> None:
    with pytest.raises(OverrideError, match="the repository org_tensorflow is not there yet"):
        make_override(
            rule(RULE.replace('patch_file = "//third_party:lib.patch",', "")),
            sources(tmp_path / "s", LIB),
            tmp_path / "o",
            Labels(lambda _name: None),
        )


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_keep_what_can_be_run(tmp_path: Path, kind: str) -> None:
    source = sources(tmp_path / "s", {"run.sh": "#!/bin/sh\n", "plain": "x"})
    (source / "run.sh").chmod(0o755)
    archive = tmp_path / "a"
    if kind == "tar":
        with tarfile.open(archive, "w:xz") as tar:
            tar.add(source, "top")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in ("run.sh", "plain"):
                zipped.write(source / name, f"top/{name}")
    unpack(archive, tmp_path / "out")
    assert os.access(tmp_path / "out" / "top" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "top" / "plain", os.X_OK)


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no archive")
    with pytest.raises(OverrideError, match="cannot be unpacked"):
        unpack(tmp_path / "a", tmp_path / "out")
