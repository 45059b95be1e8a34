"""`catalogue`: what upstream used, and whether a checkout of it still says so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from serving_factory.catalogue.closest import closest_release
from serving_factory.catalogue.describe import describe
from serving_factory.catalogue.releases import Release, releases
from serving_factory.catalogue.upstream_check import check_upstream as compare_upstream
from serving_factory.catalogue.upstream_check import release_of
from serving_factory.commands.shared import print_json, width, write
from serving_factory.errors import UnknownNameError, UpstreamDiffersError, UsageError
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
    """Compare a release with a checkout of tensorflow/serving.

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
    tag = tag or release_of(folder, releases()) or ""
    if not tag:
        raise UsageError(
            f"nothing in {folder} tells which release it is", remedy="name the release: catalogue RELEASE ..."
        )
    found = compare_upstream(folder, _release(tag))
    if not found.read:
        raise UsageError(
            f"{folder} is no checkout of tensorflow/serving",
            why=f"it has none of {', '.join(found.absent)}",
            remedy="name the checkout's root",
        )
    differences = [asdict(one) for one in found.differences]
    if json:
        print_json(differences)
    if differences:
        raise UpstreamDiffersError(
            f"{folder} and the catalogue's entry of {tag} differ in {count(len(differences), 'place')}",
            why="" if json else ui_catalogue.differences_text(differences),
            remedy="look at each; docs/new-release.md tells how an entry is written",
        )
    if not json:
        absent = f"; not there to be compared: {', '.join(found.absent)}" if found.absent else ""
        write(f"{folder} is what the catalogue says of {tag}{absent}\n")


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
