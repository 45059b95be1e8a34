"""What fills the inputs of a build without a network: mirrors, archives, folders in repositories' places."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.docker.git import ArchiveFormat, commit_of, write_archive
from serving_factory.errors import OverrideError
from serving_factory.pipeline.offline.fill import Filled, Filler, Result, archives_in
from serving_factory.pipeline.offline.mirrors import Address, Mirror, archive_address, find_mirrors, mirrors_for
from serving_factory.pipeline.offline.overrides import Labels, Top, _version, make_override, override_from_git
from serving_factory.pipeline.offline.unpacking import unpack
from serving_factory.pipeline.preflight import Declared, Missing, declared_repositories
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load, tree


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
            Address(host="github.com", owner="google", name="re2", ref="v1.2", form=ArchiveFormat.TAR_GZ),
        ),
        (
            "https://mirror.example.com/github.com/a/b/archive/release/1.2.zip",
            Address(host="github.com", owner="a", name="b", ref="release/1.2", form=ArchiveFormat.ZIP),
        ),
        (
            "https://github.com/a/b/archive/refs/tags/v1.tar.gz",
            Address(host="github.com", owner="a", name="b", ref="v1", form=ArchiveFormat.TAR_GZ),
        ),
        (
            "https://codeload.github.com/a/b/zip/0123abc",
            Address(host="github.com", owner="a", name="b", ref="0123abc", form=ArchiveFormat.ZIP),
        ),
        (
            "https://mirror.example.com/gitlab.com/libeigen/eigen/-/archive/0123abc/eigen-0123abc.tar.gz",
            Address(
                host="gitlab.com",
                owner="libeigen",
                name="eigen",
                ref="0123abc",
                form=ArchiveFormat.TAR_GZ,
                file="eigen-0123abc",
            ),
        ),
        ("https://github.com/a/b/releases/download/v1/b.tar.gz", None),
        ("https://zlib.net/zlib-1.2.11.tar.gz", None),
    ],
)
def test_addresses_of_archives(url: str, address: Address | None) -> None:
    assert archive_address(url) == address


def test_mirrors_are_found_by_name_and_commits_by_the_mirror_that_has_them(
    mirrors: tuple[Path, str], found: list[Mirror]
) -> None:
    folder, commit = mirrors
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


@pytest.fixture(scope="module")
def found(mirrors: tuple[Path, str]) -> list[Mirror]:
    return list(find_mirrors(mirrors[0], pytest.fail))


@pytest.fixture
def fill(found: list[Mirror], tmp_path: Path) -> Callable[..., Filled]:
    tree(tmp_path / "source")
    for name in ("archives", "overrides"):
        (tmp_path / name).mkdir()
    bazel = {"distdir": "archives", "overrides": "overrides"}
    matrix = load(tmp_path, document(source="source", bazel=bazel))
    recipe = recipe_for(matrix.variants[0], matrix)

    def one(
        what: Missing,
        *,
        archives: Mapping[str, Path] | None = None,
        declared: Mapping[str, Declared] | None = None,
        overrides: bool = False,
    ) -> Filled:
        return Filler(
            recipe=recipe,
            matrix="",
            mirrors=found,
            archives=archives or {},
            overrides=overrides,
            declared=declared or {},
            progress=lambda _text: None,
        ).fill(what)

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
        (missing("alpha", ALPHA, "0" * 64), "is pinned", "inputs override alpha --from "),
        (missing("alpha", ALPHA.replace("v1.0", "v7")), "there is no v7 in ", "remote update"),
        (missing("gamma", ALPHA.replace("alpha", "gamma")), "no mirror of anyone/gamma", "git clone --mirror"),
        (
            missing("zlib", "https://zlib.net/zlib-1.2.tar.gz", "1" * 64),
            "no git mirror makes an archive",
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
    assert f"{mirrors[0]}/beta/.git#v1.0" in filled.next_step


def test_with_overrides_a_folder_takes_the_place_of_what_differs(
    fill: Callable[..., Filled], mirrors: tuple[Path, str], tmp_path: Path
) -> None:
    text = (
        f'http_archive(name = "alpha", urls = ["{ALPHA}"], build_file_content = "srcs = [\'a.h\']", patch_cmds = ["x"])'
    )
    (declared,) = declared_repositories(text)
    filled = fill(missing("alpha", ALPHA, "0" * 64), declared={"alpha": declared}, overrides=True)
    assert (filled.result, filled.source.rpartition("#")[2]) == (Result.OVERRIDDEN, mirrors[1])
    assert filled.notes == {"absent": ("a.h",), "not_followed": ("patch_cmds",)}
    assert (tmp_path / "overrides" / "alpha" / "version").is_file()
    again = fill(missing("alpha", ALPHA, "0" * 64), declared={"alpha": declared}, overrides=True)
    assert again.result is Result.LEFT
    assert "is pinned; no folder can take its place: " in again.why


def test_what_only_the_cache_has_says_so_when_it_is_left(fill: Callable[..., Filled]) -> None:
    one = replace(missing("zlib", "https://zlib.net/zlib-1.2.tar.gz"), problem="cached here", cached=True)
    assert fill(one).why == "cached here; no git mirror makes an archive of this address"
    assert fill(replace(one, urls=())).why == "cached here"


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


def labels_in(folder: Path, **more: str) -> Labels:
    """Labels of sources that have the files that RULE names, and more."""
    files = {
        "tensorflow/third_party/lib.BUILD": BUILD,
        "tree/WORKSPACE": "",
        "tree/third_party/lib.patch": PATCH,
        "tree/third_party/extra.h": "extra\n",
        **more,
    }
    sources(folder, files)
    bazel = {"overrides": {"org_tensorflow": "tensorflow"}}
    matrix = load(folder, document(source="tree", bazel=bazel))
    return Labels(recipe_for(matrix.variants[0], matrix), {})


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return labels_in(tmp_path_factory.mktemp("labels"))


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


def bring(files: Mapping[str, str]) -> Callable[[Path], None]:
    def bring_them(folder: Path) -> None:
        sources(folder, files)

    return bring_them


def in_folder(name: str) -> dict[str, str]:
    return {f"{name}/{file}": text for file, text in LIB.items()}


def test_the_rule_is_followed(tmp_path: Path, labels: Labels) -> None:
    made = make_override(rule(), bring(in_folder("lib-1.0")), tmp_path / "o" / "lib", labels)
    there = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert there == {"one.c", "BUILD.bazel", "WORKSPACE", "include/extra.h"}
    assert (made.folder / "one.c").read_text() == "two\n"
    assert "external/gen.c" in (made.folder / "BUILD.bazel").read_text()
    assert [name for name, _ in made.followed] == [
        *("strip_prefix", "delete", "delete", "patch_file", "build_file", "link_files")
    ]
    assert made.not_followed == (("patch_cmds", "commands are not run: ['sed -i s/a/b/ c']"),)
    assert made.absent == ("external/gen.c", "config.h")


def test_another_folder_is_taken_and_printed(tmp_path: Path, labels: Labels) -> None:
    made = make_override(rule(), bring(in_folder("lib-1.0.dfsg")), tmp_path / "o", labels)
    assert ("strip_prefix", "lib-1.0.dfsg, where the rule says lib-1.0") in made.followed


def test_another_version_is_taken_and_warned_of(tmp_path: Path, labels: Labels) -> None:
    made = make_override(rule(), bring(in_folder("lib-1.1")), tmp_path / "o", labels)
    (message,) = (text for name, text in made.not_followed if name == "strip_prefix")
    assert message.startswith("lib-1.1, where the rule says lib-1.0: ")


def test_out_of_git_without_what_the_mirror_does_not_have(tmp_path: Path, labels: Labels) -> None:
    commit = repository(tmp_path / "git", **{"one.c": "one\n", "NOTES": "n"})
    blob = git(tmp_path / "git", "rev-parse", f"{commit}:NOTES")
    (tmp_path / "git" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    made = override_from_git(rule(), tmp_path / "git" / ".git", commit, tmp_path / "o", labels)
    assert made.left_out == ("NOTES",)
    assert (made.folder / "one.c").read_text() == "two\n"


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        (RULE, {"one.c": "three\n"}, "//third_party:lib.patch does not fit these sources"),
        (
            RULE.replace(":lib.BUILD", ":other.BUILD"),
            LIB,
            "other.BUILD cannot be read: the repository org_tensorflow has no",
        ),
        (RULE.replace('"docs"', '"../x"'), LIB, "what the rule deletes leads out of the repository: ../x"),
        (RULE.replace('"include/extra.h"', '"../../extra.h"'), LIB, "link_files leads out of the repository"),
        (RULE.replace('"lib-1.0"', '".."'), LIB, "strip_prefix leads out of the repository"),
    ],
)
def test_what_does_not_fit_leaves_nothing(
    tmp_path: Path, text: str, files: dict[str, str], message: str, labels: Labels
) -> None:
    with pytest.raises(OverrideError) as caught:
        make_override(
            rule(text), bring({f"lib-1.0/{name}": text for name, text in files.items()}), tmp_path / "o", labels
        )
    assert message in caught.value.what
    assert not list(tmp_path.iterdir())


def test_a_repository_that_is_not_there_yet_is_named(tmp_path: Path, labels: Labels) -> None:
    without = replace(labels.recipe, inputs=replace(labels.recipe.inputs, overrides=()))
    with pytest.raises(OverrideError, match="the repository org_tensorflow is not there yet"):
        make_override(
            rule(RULE.replace('patch_file = "//third_party:lib.patch",', "")),
            bring(LIB),
            tmp_path / "o",
            replace(labels, recipe=without),
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


def test_what_is_no_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no archive")
    with pytest.raises(OverrideError, match="cannot be unpacked"):
        unpack(tmp_path / "a", tmp_path / "out")


# --- what must not go wrong -------------------------------------------------------------------------------------------


def test_a_folder_that_is_there_stays(tmp_path: Path, labels: Labels) -> None:
    made = make_override(rule(), bring(in_folder("lib-1.0")), tmp_path / "lib", labels)
    (made.folder / "by-hand").touch()
    with pytest.raises(OverrideError, match="is there already"):
        make_override(rule(), bring(in_folder("lib-1.0")), tmp_path / "lib", labels)
    assert (made.folder / "by-hand").exists()


@pytest.mark.parametrize("name", ["..", "-x", ".git"])
def test_a_name_that_is_none_makes_nothing(tmp_path: Path, name: str, labels: Labels) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(OverrideError, match="not the name of an external repository"):
        make_override(rule(), bring(LIB), tmp_path / "below" / name, labels)
    assert [path.name for path in tmp_path.rglob("*")] == ["below"]


def test_only_a_top_folder_that_the_rule_has_is_taken_off(tmp_path: Path) -> None:
    plain = rule(RULE.replace('strip_prefix = "lib-1.0",', "").replace("one.c", "fft/one.c"))
    text = labels_in(tmp_path / "own", **{"tree/third_party/lib.patch": PATCH.replace("/one.c", "/fft/one.c")})
    made = make_override(plain, bring({"fft/one.c": "one\n"}), tmp_path / "as-it-is", text)
    assert (made.folder / "fft" / "one.c").exists()
    made = make_override(plain, bring({"lib-9/fft/one.c": "one\n"}), tmp_path / "of-a-package", text, top=Top.ANY)
    assert (made.folder / "fft" / "one.c").exists()


def test_what_a_rule_does_not_say_in_plain_words_is_reported(tmp_path: Path, labels: Labels) -> None:
    calls = RULE.replace('"//third_party:lib.patch"', 'clean_dep("//third_party:lib.patch")')
    calls = calls.replace('["sed -i s/a/b/ c"]', "commands()").replace(
        "delete =", 'patch_args = ["-p1", "-F3"],\n  delete ='
    )
    made = make_override(rule(calls), bring(in_folder("lib-1.0")), tmp_path / "o", labels)
    assert (made.folder / "one.c").read_text() == "two\n", "a label in a function is a label"
    assert made.not_followed == (("patch_args", "-F3"), ("patch_cmds", "not a literal: commands()"))


def test_links_of_the_sources_are_not_written_through(tmp_path: Path, labels: Labels) -> None:
    other = tmp_path / "other"
    other.write_text("mine")

    def linked(folder: Path) -> None:
        sources(folder, in_folder("lib-1.0"))
        for name in ("BUILD.bazel", "WORKSPACE"):
            (folder / "lib-1.0" / name).symlink_to(other)

    made = make_override(rule(), linked, tmp_path / "o", labels)
    assert other.read_text() == "mine"
    assert not (made.folder / "BUILD.bazel").is_symlink()


def test_a_mirror_without_what_a_build_reads_makes_no_folder(tmp_path: Path, labels: Labels) -> None:
    commit = repository(tmp_path / "git", **{"one.c": "one\n", "config.h": "x\n"})
    blob = git(tmp_path / "git", "rev-parse", f"{commit}:config.h")
    (tmp_path / "git" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(OverrideError, match="1 of the files that a build reads"):
        override_from_git(rule(), tmp_path / "git" / ".git", commit, tmp_path / "o", labels)
    assert not (tmp_path / "o").exists()


def test_a_partial_clone_is_a_mirror_without_its_files(tmp_path: Path, labels: Labels) -> None:
    files = {f"{number}.bin": str(number) for number in range(1700)}  # more than a pipe holds
    commit = repository(tmp_path / "git", **{"one.c": "one\n", "NOTES": "n", **files})
    git(tmp_path / "git", "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial.git"
    git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", f"file://{tmp_path}/git", str(partial))
    git(partial, "-c", "fetch.negotiationAlgorithm=noop", "cat-file", "-p", f"{commit}:one.c")
    git(partial, "config", "remote.origin.url", str(tmp_path / "gone"))
    made = override_from_git(rule(), partial, commit, tmp_path / "o", labels)
    assert len(made.left_out) == 1701
    assert (made.folder / "one.c").read_text() == "two\n"


@pytest.mark.parametrize("name", ["/victim", "../victim", "../../victim"])
def test_a_zip_touches_nothing_outside(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o600)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        one = zipfile.ZipInfo(str(victim) if name == "/victim" else name)
        one.external_attr = 0o100777 << 16
        zipped.writestr(one, "theirs")
    with pytest.raises(OverrideError, match="a member of the archive leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine", 0o600)


@pytest.mark.parametrize(("target", "fits"), [("plain", True), ("../../victim", False), ("/etc/passwd", False)])
def test_links_in_a_zip_are_links_within_it(tmp_path: Path, target: str, *, fits: bool) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        one = zipfile.ZipInfo("top/link")
        one.external_attr = 0o120777 << 16
        zipped.writestr(one, target)
    if fits:
        unpack(tmp_path / "a.zip", tmp_path / "out")
        assert (tmp_path / "out" / "top" / "link").readlink() == Path(target)
    else:
        with pytest.raises(OverrideError, match="a link of the archive leads out"):
            unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "name", "target", "message"),
    [
        (tarfile.REGTYPE, "../victim", "", "a member of the archive leads out"),
        (tarfile.REGTYPE, "/victim", "", "a member of the archive leads out"),
        (tarfile.SYMTYPE, "top/link", "../../victim", "a link of the archive leads out"),
        (tarfile.SYMTYPE, "top/link", "/etc/passwd", "a link of the archive leads out"),
        (tarfile.LNKTYPE, "top/link", "../victim", "a link of the archive leads out"),
        (tarfile.FIFOTYPE, "top/pipe", "", "neither file, folder nor link"),
    ],
)
def test_a_tar_file_touches_nothing_outside(tmp_path: Path, kind: bytes, name: str, target: str, message: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        one = tarfile.TarInfo(name)
        one.type, one.linkname = kind, target
        tar.addfile(one)
    (tmp_path / "out").mkdir()
    with pytest.raises(OverrideError, match=message):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "out"}


def test_a_member_behind_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("link/victim"))
    with pytest.raises(OverrideError, match="leads out"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_hard_link_of_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch(0o640)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, target in (("a/b/x", tarfile.SYMTYPE, "../../victim"), ("h", tarfile.LNKTYPE, "a/b/x")):
            one = tarfile.TarInfo(name)
            one.type, one.linkname, one.mode = kind, target, 0o755
            tar.addfile(one)
    with pytest.raises(OverrideError, match="is of something that is no file"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert victim.stat().st_mode & 0o777 == 0o640


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, target in (("a", "b"), ("b", "a")):
            one = tarfile.TarInfo(name)
            one.type, one.linkname = tarfile.SYMTYPE, target
            tar.addfile(one)
    with pytest.raises(OverrideError):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_link_that_another_link_leads_out_is_refused(tmp_path: Path, kind: str) -> None:
    links = {"a/b/x": "d/../../../victim", "a/b/d": "../.."}
    archive = tmp_path / "archive"
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for name, target in links.items():
                one = tarfile.TarInfo(name)
                one.type, one.linkname = tarfile.SYMTYPE, target
                tar.addfile(one)
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, target in {"a/b/x": "d/../..", "a/b/d": "../..", "a/b/x/victim": "theirs"}.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o100644 if target == "theirs" else 0o120777) << 16
                zipped.writestr(info, target)
    with pytest.raises(OverrideError, match="leads out"):
        unpack(archive, tmp_path / "out" / "top")
    assert not (tmp_path / "victim").exists()
    assert not (tmp_path / "out" / "victim").exists()


@pytest.mark.parametrize(
    ("theirs", "same"),
    [("zlib-1.2.11.dfsg2", True), ("zlib-1.2.11+dfsg1", True), ("z2-1.02.11", True), ("zlib-1.2.13", False)],
)
def test_what_is_another_version(theirs: str, *, same: bool) -> None:
    assert (_version(theirs) == _version("zlib-1.2.11")) is same


def test_modes_of_a_tar_file_are_plain_ones(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, mode in (("run", 0o4777), ("locked", 0o000), ("top", 0o000)):
            one = tarfile.TarInfo(name)
            one.mode, one.uid, one.type = mode, 4242, tarfile.DIRTYPE if name == "top" else tarfile.REGTYPE
            tar.addfile(one)
        one = tarfile.TarInfo("top/again")
        one.type, one.linkname, one.mode = tarfile.LNKTYPE, "run", 0o4777
        tar.addfile(one)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"run": 0o755, "again": 0o755, "locked": 0o600, "top": 0o700}
    assert (tmp_path / "out" / "run").stat().st_uid == os.getuid()


@pytest.mark.parametrize("damage", ["xz", "gz", "password", "truncated"])
def test_damaged_archives_are_reported(tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "a"
    match damage:
        case "xz":
            archive.write_bytes(lzma.compress(b"x" * 9999)[:-20] + b"0" * 20)
        case "gz":
            archive.write_bytes(gzip.compress(b"x" * 99999)[:60] + b"0" * 20)
        case "password":
            with zipfile.ZipFile(archive, "w") as zipped:
                zipped.writestr("a", "a")
            data = bytearray(archive.read_bytes())
            data[6] |= 1
            data[data.index(b"PK\x01\x02") + 8] |= 1
            archive.write_bytes(data)
        case _:
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(__file__, "a")
            archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(OverrideError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")


def test_a_mirror_of_somebody_else_is_not_meant_by_a_tag(fill: Callable[..., Filled], found: list[Mirror]) -> None:
    place = next(index for index, mirror in enumerate(found) if "beta" in mirror.names)
    mine = found[place]
    found[place] = replace(mine, owners=("theirs",))
    try:
        filled = fill(missing("beta", "https://github.com/ours/beta/archive/v1.0.tar.gz"))
        assert "may be a mirror of another repository than ours/beta" in filled.why
        assert fill(missing("beta", "https://github.com/theirs/beta/archive/v1.0.tar.gz")).result is Result.MADE
    finally:
        found[place] = mine


def test_an_archive_of_the_same_name_is_not_replaced(fill: Callable[..., Filled], tmp_path: Path) -> None:
    place = tmp_path / "archives" / "v1.0.tar.gz"
    place.write_text("another repository's")
    filled = fill(missing("alpha", ALPHA, "0" * 64))
    assert "is another archive of that name" in filled.why
    assert place.read_text() == "another repository's"


def test_a_mirror_that_git_does_not_read_is_passed_over(tmp_path: Path) -> None:
    repository(tmp_path / "good", a="a")
    broken = tmp_path / "broken.git"
    (broken / "objects").mkdir(parents=True)
    (broken / "HEAD").write_text("rubbish")
    message: list[str] = []
    assert [mirror.names for mirror in find_mirrors(tmp_path, message.append)] == [("good",)]
    assert len(message) == 1
    assert str(broken) in message[0]


def test_links_and_work_trees_are_mirrors_too(tmp_path: Path) -> None:
    repository(tmp_path / "elsewhere" / "alpha", a="a")
    git(tmp_path / "elsewhere" / "alpha", "worktree", "add", "--quiet", str(tmp_path / "mirrors" / "alpha"), "HEAD")
    (tmp_path / "mirrors" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mirrors" / "round").symlink_to(tmp_path / "mirrors")
    found = find_mirrors(tmp_path / "mirrors", pytest.fail)
    assert {mirror.folder for mirror in found} == {tmp_path / "mirrors/alpha", tmp_path / "elsewhere/alpha/.git"}
    assert all(names == ("alpha",) for names in (mirror.names for mirror in found))


def test_the_environment_of_a_hook_leads_nowhere(mirrors: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(mirrors[0] / "beta" / ".git"))
    assert commit_of(mirrors[0] / "work" / "alpha" / ".git", mirrors[1]) == mirrors[1]
