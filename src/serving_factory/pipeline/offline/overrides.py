"""Folders that take the place of external repositories, made as the repository's rule would have made it."""

from __future__ import annotations

import ast
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from serving_factory.catalogue.starlark import parse_starlark
from serving_factory.docker import process
from serving_factory.docker.git import ArchiveFormat, missing_files, write_archive
from serving_factory.errors import OverrideError
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.offline.mirrors import shortened
from serving_factory.pipeline.offline.unpacking import inside, readable, unpack
from serving_factory.pipeline.preflight import Declared
from serving_factory.recipes.recipe import Recipe

_LABEL = re.compile(r"(?:@+(?P<repository>[^/]*))?//(?P<package>[^:]*)(?::(?P<name>.+))?")
# Attributes that only say where an archive comes from, or nothing that changes a file.
_WORDS = """
branch commit generator_function generator_location generator_name git_commit init_submodules name netrc remote
repository sha256 shallow_since strip_prefix system_build_file system_link_files tag type url urls verbose visibility
"""
_NOT_ABOUT_FILES = frozenset(_WORDS.split())
# The attributes that `_Steps` follows
_STEPS = {"delete", "patch_args", "patch_file", "patches", "build_file", "build_file_content"}
_STEPS |= {"link_files", "additional_build_files", "workspace_file", "workspace_file_content"}
_NAMELESS = ("", "org_tensorflow")
_PREFIX = ("%prefix%", "external")  # what TensorFlow's rule writes into its BUILD files
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*")
_READ_BY_BAZEL = re.compile(r"(?:^|/)(?:BUILD|BUILD\.bazel|WORKSPACE|[^/]+\.bzl)$")
_SOURCE = re.compile(r"[\w./+-]+\.(?:c|cc|cpp|cxx|h|hh|hpp|inc|in|S|s|asm|proto|tab|def)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What was made."""

    folder: Path
    followed: tuple[tuple[str, str], ...]  # what was done, as the rule's attributes say: attribute and effect
    not_followed: tuple[tuple[str, str], ...]  # attributes that were not: attribute and reason
    absent: tuple[str, ...]  # files that the BUILD file names and the sources do not have
    left_out: tuple[str, ...] = ()  # files that the git mirror does not have


@dataclass(frozen=True, slots=True)
class Labels:
    """Reads the files that rules name by label, as the sources of a variant mean them."""

    recipe: Recipe
    declared: Mapping[str, Declared]

    def read(self, label: str) -> bytes:
        """Read the file that a label names; OverrideError if its repository is not there, or has no such file."""
        match = _LABEL.fullmatch(label)
        repository, package, name = match.group("repository", "package", "name") if match else ("", "", label)
        path = PurePosixPath(package, name or package.rpartition("/")[2])
        # A rule that takes a label for a text means its own repository by `//`, as TensorFlow's do.
        trees = [tree for one in ([repository] if repository else _NAMELESS) if (tree := self._tree(one))]
        for place, prefix in trees:
            content = _content(place, PurePosixPath(prefix, path))
            if content is not None:
                return content
        where = f"the repository {repository}" if repository else "the source tree"
        raise OverrideError(
            f"{label} cannot be read: {where} {f'has no file {path}' if trees else 'is not there yet'}",
            remedy="fill that one first (./factory inputs fill), and make this override again",
        )

    def _tree(self, repository: str) -> tuple[Path, str] | None:
        """The folder or the archive with a repository's files, and the folder in it; empty means the main one."""
        recipe = self.recipe
        if not repository:
            if isinstance(recipe.source, Path):
                return recipe.source, ""
            raise OverrideError(
                f"{recipe.variant.id}: the sources are at {recipe.source}, where a label's file cannot be read",
                remedy="name a checkout at `source:` in the matrix file",
            )
        if folder := dict(recipe.inputs.overrides).get(repository):
            return folder, ""
        rule, distdir = self.declared.get(repository), recipe.inputs.distdir
        if rule and distdir:
            for url in rule.urls:
                place = distdir / url.rpartition("/")[2]
                if place.is_file() and rule.sha256 in {None, file_digest(place)}:  # as Bazel finds it
                    return place, str(rule.attributes.get("strip_prefix") or "")
        return None


def _content(tree: Path, name: PurePosixPath) -> bytes | None:
    if tree.is_dir():
        return (tree / name).read_bytes() if (tree / name).is_file() else None
    with readable(tree), suppress(KeyError):
        if zipfile.is_zipfile(tree):
            with zipfile.ZipFile(tree) as zipped:
                return zipped.read(str(name))
        with tarfile.open(tree) as tar:
            member = tar.extractfile(str(name))
            return member.read() if member else None
    return None


def override_from_git(declared: Declared, mirror: Path, commit: str, place: Path, labels: Labels) -> Override:
    """Make the folder out of a commit of a git repository; files that are missing there are left out."""
    left_out = missing_files(mirror, commit)

    def bring(folder: Path) -> None:
        archive = folder.with_name("commit.tar.gz")
        write_archive(mirror, commit, prefix="", form=ArchiveFormat.TAR_GZ, file=archive, without=left_out)
        unpack(archive, folder)

    return make_override(declared, bring, place, labels, top=Top.NONE, left_out=left_out)


class Top(StrEnum):
    """Whether the sources lie in a folder of their own, as in an archive."""

    NONE = "none"
    DECLARED = "declared"
    ANY = "any"  # the one that is there: what packs the sources is not what the rule says


def make_override(
    declared: Declared,
    bring: Callable[[Path], None],
    place: Path,
    labels: Labels,
    *,
    top: Top = Top.DECLARED,
    left_out: Sequence[str] = (),
) -> Override:
    """Make the folder `place`, whole or not at all; one that is there already is not replaced."""
    # `bring` makes a folder with the sources at the place that it is given, without the files `left_out`.
    if not _NAME.fullmatch(place.name):
        raise OverrideError(f"{place.name!r} is not the name of an external repository")
    if place.exists() or place.is_symlink():
        raise OverrideError(
            f"{place} is there already, and is not replaced",
            remedy="remove it first; what was changed in it by hand is then lost",
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that one rename is enough; a name with a dot is no override.
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.partial-", dir=place.parent) as scratch:
        sources = Path(scratch, "sources")
        bring(sources)
        steps = _Steps(declared, labels)
        root = steps.strip(sources, top)
        steps.delete(root)
        steps.patch(root)
        build = steps.build_file(root)
        steps.link(root)
        steps.workspace_file(root)
        absent = tuple(_absent(build, root))
        if read := [name for name in left_out if name in absent or _READ_BY_BAZEL.search(name)]:
            raise OverrideError(
                f"{len(read)} of the files that a build reads are missing in the git repository",
                why=shortened(read),
                remedy="take a mirror that has them: this may be one without large files, or a part of one",
            )
        root.rename(place)
    return Override(
        folder=place,
        followed=tuple(steps.followed),
        not_followed=tuple(steps.not_followed()),
        absent=absent,
        left_out=tuple(left_out),
    )


def _version(name: str) -> list[int]:
    """The last number in a folder's name, such as [1, 2, 11]; without what Debian adds where it left files out."""
    numbers = re.findall(r"\d+(?:\.\d+)*", re.sub(r"[+.]dfsg\.?\d*", "", name))
    return [int(part) for part in numbers[-1].split(".")] if numbers else []


@dataclass(slots=True)
class _Steps:
    """What a rule does with the files of an archive, attribute by attribute."""

    declared: Declared
    labels: Labels
    followed: list[tuple[str, str]] = field(default_factory=list)
    _passed_over: list[tuple[str, str]] = field(default_factory=list)

    def _text(self, name: str) -> str:
        found = self.declared.attributes.get(name)
        return found if isinstance(found, str) else ""

    def _texts(self, name: str) -> list[str]:
        found = self.declared.attributes.get(name) or []
        return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]

    def strip(self, sources: Path, top: Top) -> Path:
        """The folder in the archive that the repository is: `strip_prefix`, or that by another name."""
        prefix = self._text("strip_prefix")
        if top is Top.NONE:
            return sources
        if prefix and (found := inside(sources, prefix, "strip_prefix")).is_dir():
            self.followed.append(("strip_prefix", prefix))
            return found
        there = list(sources.iterdir())
        if (prefix or top is Top.ANY) and len(there) == 1 and there[0].is_dir():
            difference = f"{there[0].name}, where the rule says {prefix or 'nothing'}"
            if prefix and _version(there[0].name) != _version(prefix):
                difference += ": what is compiled with it may refuse another version"
                self._passed_over.append(("strip_prefix", difference))
            else:
                self.followed.append(("strip_prefix", difference))
            return there[0]
        return sources

    def delete(self, root: Path) -> None:
        for name in self._texts("delete"):
            place = inside(root, name, "what the rule deletes")
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            self.followed.append(("delete", name))

    def patch(self, root: Path) -> None:
        options = self._texts("patch_args")
        strip = next((one for one in options if one.startswith("-p")), "")
        if others := [one for one in options if not one.startswith("-p")]:
            self._passed_over.append(("patch_args", " ".join(others)))
        for name, given in (("patch_file", "-p1"), ("patches", "-p0")):
            for label in self._texts(name):
                _apply(self.labels.read(label), root, strip or given, label)
                self.followed.append((name, label))

    def build_file(self, root: Path) -> str:
        """Add the BUILD file, and give it; where the rule has none, that of the sources."""
        label, content = self._text("build_file"), self._text("build_file_content")
        if label:
            content = self.labels.read(label).decode("utf-8", errors="replace").replace(*_PREFIX)
        if not content:
            found = next((root / name for name in ("BUILD.bazel", "BUILD") if (root / name).is_file()), None)
            return found.read_text(encoding="utf-8", errors="replace") if found else ""
        if (root / "BUILD").is_file():
            (root / "BUILD").unlink()
        _write(root / "BUILD.bazel", content.encode())
        self.followed.append(("build_file", label or "as the rule has it"))
        return content

    def link(self, root: Path) -> None:
        """Copy what the rule links into the repository."""
        for name in ("link_files", "additional_build_files"):
            given = self.declared.attributes.get(name)
            for label, to in given.items() if isinstance(given, dict) else ():
                _write(inside(root, str(to), name), self.labels.read(str(label)))
                self.followed.append((name, f"{label} as {to}"))

    def workspace_file(self, root: Path) -> None:
        """Add the WORKSPACE file that the rule gives it, or one that is empty: Bazel takes no folder without one."""
        label, content = self._text("workspace_file"), self._text("workspace_file_content")
        if label or content:
            _write(root / "WORKSPACE", self.labels.read(label) if label else content.encode())
        elif not (root / "WORKSPACE").is_file():
            _write(root / "WORKSPACE", b"")

    def not_followed(self) -> Iterator[tuple[str, str]]:
        yield from self._passed_over
        for name, value in self.declared.attributes.items():
            if value and name not in _STEPS | _NOT_ABOUT_FILES:
                what = "commands are not run" if name.startswith("patch_cmds") else "unknown here"
                yield name, f"{what}: {value}"
        for name, text in self.declared.unread.items():
            if name not in _NOT_ABOUT_FILES:
                yield name, f"not a literal: {text}"


def _write(place: Path, content: bytes) -> None:
    """Write a file again, and not through a link that the sources have there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.write_bytes(content)


def _apply(patch: bytes, root: Path, strip: str, label: str) -> None:
    lines: list[str] = []
    with tempfile.NamedTemporaryFile(suffix=".patch") as file:
        file.write(patch)
        file.flush()
        argv = ["patch", strip, "--batch", "--forward", "--no-backup-if-mismatch"]
        argv += [f"--directory={root}", f"--input={file.name}"]
        try:
            code = process.run(argv, on_line=lines.append)
        except FileNotFoundError:
            raise OverrideError("there is no `patch` command", remedy="install the package patch") from None
    if code != 0:
        raise OverrideError(
            f"{label} does not fit these sources",
            why="\n".join(lines),
            remedy="take the version of the sources that the rule names",
        )


def _absent(build: str, root: Path) -> Iterator[str]:
    """Source files that a BUILD file names, and that are neither there nor made by a rule of it."""
    made: set[str] = set()
    named: dict[str, None] = {}
    for block in parse_starlark(build):
        for node in ast.walk(block):
            if isinstance(node, ast.keyword) and node.arg in {"out", "outs", "exclude"}:
                made |= set(_constants(node.value))
        named |= dict.fromkeys(_constants(block))
    for name in named:
        if _SOURCE.fullmatch(name) and name not in made and not (root / name).exists():
            yield name


def _constants(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value.removeprefix(":")
