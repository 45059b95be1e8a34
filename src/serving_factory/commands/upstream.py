"""`catalogue`: what upstream used, and whether a checkout of it still says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from serving_factory.catalogue.closest import closest_release
from serving_factory.catalogue.describe import describe
from serving_factory.catalogue.host_programs import host_calls, uncovered
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Release, releases
from serving_factory.catalogue.upstream_check import Difference, release_of
from serving_factory.catalogue.upstream_check import check_upstream as compare_upstream
from serving_factory.catalogue.upstream_flags import unlisted_flags
from serving_factory.commands.shared import print_json, width, write
from serving_factory.errors import UnknownNameError, UpstreamDiffersError, UsageError
from serving_factory.matrix.settings import Settings
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.toolchain import toolchain_for
from serving_factory.ui import catalogue as ui_catalogue
from serving_factory.ui.text import count

__all__ = ["check_upstream", "show_catalogue"]


def show_catalogue(tag: str, *, json: bool) -> None:
    """Print one release, or all where no tag is given.

    Raises:
        UnknownNameError: there is no such release.
    """
    documents = [describe(one) for one in ([_release(tag)] if tag else releases().values())]
    if json:
        print_json(documents)
    elif tag:
        write(ui_catalogue.release_page(documents[0]))
    else:
        write(ui_catalogue.releases_table(documents, width=width()))


def check_upstream(folder: Path, tag: str, *, json: bool) -> None:
    """Compare a release with a checkout of tensorflow/serving, or with one of TensorFlow's sources.

    Of either, every program of the host that build rules call is looked for in the toolchains of the release, and every
    flag for CPU features in upstream_flags.yaml.

    Args:
        folder: the checkout.
        tag: the release; empty where the checkout tells.
        json: print the differences as JSON.

    Raises:
        UsageError: the folder is no such checkout.
        UpstreamDiffersError: they differ.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", remedy="name a checkout of tensorflow/serving, at the release's tag")
    is_tensorflow = (folder / "tensorflow" / "tensorflow.bzl").is_file()
    tag = tag or ("" if is_tensorflow else release_of(folder, releases()) or "")
    if not tag:
        raise UsageError(
            f"nothing in {folder} tells which release it is", remedy="name the release: catalogue RELEASE ..."
        )
    release, absent = _release(tag), ""
    found = list(_flag_differences(folder, release))
    if not is_tensorflow:
        compared = compare_upstream(folder, release)
        if not compared.read:
            raise UsageError(
                f"{folder} is no checkout of tensorflow/serving",
                why=f"it has none of {', '.join(compared.absent)}",
                remedy="name the checkout's root",
            )
        found += compared.differences
        absent = f"; not there to be compared: {', '.join(compared.absent)}" if compared.absent else ""
    differences = [asdict(one) for one in (*found, *_program_differences(folder, release))]
    if json:
        print_json(differences)
    if differences:
        raise UpstreamDiffersError(
            f"{folder} and the catalogue's entry of {tag} differ in {count(len(differences), 'place')}",
            why="" if json else ui_catalogue.differences_text(differences),
            remedy="look at each; docs/new-release.md tells how an entry is written",
        )
    if not json:
        write(f"{folder} is what the catalogue says of {tag}{absent}\n")


def _program_differences(folder: Path, release: Release) -> Iterator[Difference]:
    """Calls of programs that a toolchain of the release, as upstream's choices make it, does not serve."""
    calls = host_calls(folder)
    for flavour, facts in release.flavours.items():
        variant = Variant(
            release=release.tag, flavour=flavour, level=Level.V1, cuda=facts.gpu.cuda if facts.gpu else None
        )
        for one in uncovered(calls, toolchain_for(variant, release, Settings()).packages):
            yield Difference(
                file=one.call.file,
                line=one.call.line,
                what=f"{flavour}: host program",
                catalogue="",
                upstream=f"{one.call.program}: {one.why}",
            )


def _flag_differences(folder: Path, release: Release) -> Iterator[Difference]:
    for one in unlisted_flags(folder, release.version):
        yield Difference(file=one.file, line=one.line, what="flag for CPU features", catalogue="", upstream=one.flag)


def _release(tag: str) -> Release:
    found = releases().get(tag)
    if found is None:
        other = closest_release(tag, releases())
        raise UnknownNameError(
            f"no release is named {tag!r}; did you mean {other.tag!r}?",
            why=other.reason,
            remedy="`./factory catalogue` lists all releases",
        )
    return found
