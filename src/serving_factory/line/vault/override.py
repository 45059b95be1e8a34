"""A folder that takes an external repository's place, as the repository's rule would have made it.

Where an archive's bytes cannot be had, its content often can: as a distribution's source package, or from a git mirror.
`--override_repository` then asks for no checksum. What the rule does with an archive is done here: it strips a folder,
deletes, patches, and adds a BUILD file that the declaring repository has for it.
"""

from __future__ import annotations

import ast
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from serving_factory.catalogue.starlark import parse_starlark
from serving_factory.engine import process
from serving_factory.engine.git import ArchiveFormat, missing_files, write_archive
from serving_factory.errors import OverrideError
from serving_factory.line.preflight_report import Declared

__all__ = ["Labels", "Override", "make_override", "override_from_git", "unpack"]

_LABEL = re.compile(r"(?:@+(?P<repository>[^/]*))?//(?P<package>[^:]*)(?::(?P<name>.+))?")
# What only says where an archive comes from, or nothing that changes a file.
_WORDS = """
branch commit generator_function generator_location generator_name git_commit init_submodules name netrc remote
repository sha256 shallow_since strip_prefix system_build_file system_link_files tag type url urls verbose visibility
"""
_NOT_ABOUT_FILES = frozenset(_WORDS.split())
_NAMELESS = ("", "org_tensorflow")
_PREFIX = ("%prefix%", "external")  # what TensorFlow's rule writes into its BUILD files
_SOURCE = re.compile(r"[\w./+-]+\.(?:c|cc|cpp|cxx|h|hh|hpp|inc|in|S|s|asm|proto|tab|def)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What was made.

    Args:
        folder: the folder.
        followed: what was done, as the rule's attributes say: attribute and effect.
        not_followed: attributes that were not: attribute and reason.
        absent: files that the BUILD file names and the sources lack.
        left_out: files that the git mirror lacks.
    """

    folder: Path
    followed: tuple[tuple[str, str], ...]
    not_followed: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """Reads files of repositories, as rules name them.

    Args:
        tree: repository's name, empty for the main one -> gives a file of it by its path, or None.
    """

    tree: Callable[[str], Callable[[PurePosixPath], bytes | None] | None]

    def read(self, label: str) -> bytes:
        """Read the file that a label names.

        Raises:
            OverrideError: its repository is not there, or has no such file.
        """
        match = _LABEL.fullmatch(label)
        repository, package, name = match.group("repository", "package", "name") if match else ("", "", label)
        path = PurePosixPath(package, name or package.rpartition("/")[2])
        # A rule that takes a label for a text means its own repository by `//`, as TensorFlow's do.
        trees = [tree for one in ([repository] if repository else _NAMELESS) if (tree := self.tree(one))]
        content = next((found for read in trees if (found := read(path)) is not None), None)
        if content is None:
            where = f"the repository {repository}" if repository else "the source tree"
            raise OverrideError(
                f"{label} cannot be read: {where} {f'has no file {path}' if trees else 'is not there yet'}",
                remedy="fill that one first (./factory vault fill), and make this override again",
            )
        return content


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file into a folder.

    Raises:
        OverrideError: it is neither, or is damaged.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)  # noqa: S202 - it keeps everything within the folder
                for one in zipped.infolist():
                    if (mode := one.external_attr >> 16) & stat.S_IXUSR:
                        Path(folder, one.filename).chmod(mode & 0o777)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise OverrideError(
            f"{archive} cannot be unpacked", why=str(error), remedy="name a tar file, packed in any way, or a zip file"
        ) from None


def override_from_git(declared: Declared, mirror: Path, commit: str, place: Path, labels: Labels) -> Override:
    """Make the folder out of a git repository; files that this lacks are left out.

    Args:
        declared: how the repository is declared.
        mirror: the git repository.
        commit: the full id.
        place: where the folder goes; replaced as a whole.
        labels: reads the files that the rule names.

    Raises:
        GitError: git refuses.
        OverrideError: a file that the rule names cannot be read, or a patch does not fit.
    """
    absent = missing_files(mirror, commit)
    with tempfile.TemporaryDirectory(prefix="serving-factory-override-") as scratch:
        archive, sources = Path(scratch, "commit.tar.gz"), Path(scratch, "sources")
        write_archive(mirror, commit, prefix="", form=ArchiveFormat.TAR_GZ, file=archive, without=absent)
        unpack(archive, sources)
        made = make_override(declared, sources, place, labels, stripped=True)
    return replace(made, left_out=absent)


def make_override(
    declared: Declared, sources: Path, place: Path, labels: Labels, *, stripped: bool = False
) -> Override:
    """Make the folder.

    Args:
        declared: how the repository is declared.
        sources: a folder with the unpacked sources, which is used up.
        place: where the folder goes; replaced as a whole.
        labels: reads the files that the rule names.
        stripped: whether the sources are in no folder of an archive, as out of git.

    Raises:
        OverrideError: a file that the rule names cannot be read, or a patch does not fit.
    """
    steps = _Steps(declared.attributes, labels)
    root = sources if stripped else steps.strip(sources)
    steps.delete(root)
    steps.patch(root)
    build = steps.build_file(root)
    steps.link(root)
    if not (root / "WORKSPACE").exists():
        (root / "WORKSPACE").write_text(steps.workspace(), encoding="utf-8")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.move(root, place)
    return Override(
        folder=place,
        followed=tuple(steps.followed),
        not_followed=tuple(steps.not_followed()),
        absent=tuple(_absent(build, place)),
    )


@dataclass(slots=True)
class _Steps:
    """What a rule does with the files of an archive, attribute by attribute."""

    attributes: Mapping[str, object]
    labels: Labels
    followed: list[tuple[str, str]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def _text(self, name: str) -> str:
        self._known.add(name)
        found = self.attributes.get(name)
        return found if isinstance(found, str) else ""

    def _texts(self, name: str) -> list[str]:
        self._known.add(name)
        found = self.attributes.get(name)
        if isinstance(found, str):
            return [found] if found else []
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def strip(self, sources: Path) -> Path:
        """The folder in the archive that the repository is; `strip_prefix`, or whatever stands alone at its top."""
        prefix = self._text("strip_prefix")
        if prefix and (sources / prefix).is_dir():
            self.followed.append(("strip_prefix", prefix))
            return sources / prefix
        inside = list(sources.iterdir())
        if len(inside) == 1 and inside[0].is_dir():
            told = f"{inside[0].name}, where the rule says {prefix}" if prefix else inside[0].name
            self.followed.append(("strip_prefix", told))
            return inside[0]
        return sources

    def delete(self, root: Path) -> None:
        for name in self._texts("delete"):
            place = root / name
            if not place.resolve().is_relative_to(root.resolve()):
                raise OverrideError(f"the rule deletes {name}, which is not inside the repository")
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            self.followed.append(("delete", name))

    def patch(self, root: Path) -> None:
        strip = next((one for one in self._texts("patch_args") if one.startswith("-p")), "")
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
        (root / "BUILD.bazel").write_text(content, encoding="utf-8")
        self.followed.append(("build_file", label or "as the rule has it"))
        return content

    def link(self, root: Path) -> None:
        """Copy what the rule links into the repository."""
        for name in ("link_files", "additional_build_files"):
            self._known.add(name)
            given = self.attributes.get(name)
            for label, to in given.items() if isinstance(given, dict) else ():
                place = root / str(to)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self.labels.read(str(label)))
                self.followed.append((name, f"{label} as {to}"))

    def workspace(self) -> str:
        """The WORKSPACE file that the rule gives it, or one that is empty: Bazel takes no folder without one."""
        label, content = self._text("workspace_file"), self._text("workspace_file_content")
        return self.labels.read(label).decode("utf-8", errors="replace") if label else content

    def not_followed(self) -> Iterator[tuple[str, str]]:
        for name, value in self.attributes.items():
            if value and name not in self._known and name not in _NOT_ABOUT_FILES:
                what = "commands are not run" if name.startswith("patch_cmds") else "unknown here"
                yield name, f"{what}: {value}"


def _apply(patch: bytes, root: Path, strip: str, label: str) -> None:
    lines: list[str] = []
    with tempfile.NamedTemporaryFile(suffix=".patch") as file:
        file.write(patch)
        file.flush()
        argv = [
            "patch",
            strip,
            "--batch",
            "--forward",
            "--no-backup-if-mismatch",
            f"--directory={root}",
            f"--input={file.name}",
        ]
        try:
            code = process.run(argv, on_line=lines.append)
        except FileNotFoundError:
            raise OverrideError("the patch command is not there", remedy="install the package patch") from None
    if code != 0:
        raise OverrideError(
            f"{label} does not fit these sources",
            why="\n".join(lines),
            remedy="take the version of the sources that the rule names",
        )


def _absent(build: str, root: Path) -> Iterator[str]:
    """Source files that a BUILD file names in plain words, and that are neither there nor made by a rule of it."""
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
