"""`catalogue`: what upstream used for each release, and whether a checkout agrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.distributions import retired_bases
from serving_factory.catalogue.facts import Flavour, FlavourFacts, Release
from serving_factory.catalogue.host_programs import host_calls, uncovered
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import closest_release, releases
from serving_factory.catalogue.upstream_check import Difference, release_of
from serving_factory.catalogue.upstream_check import check_upstream as compare_upstream
from serving_factory.catalogue.upstream_flags import unlisted_flags
from serving_factory.commands.shared import show, width
from serving_factory.errors import UnknownNameError, UpstreamDiffersError, UsageError
from serving_factory.matrix.settings import Settings
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import count, label, page, table
from serving_factory.recipes.toolchain import toolchain_for

Document = Mapping[str, Any]


def show_catalogue(tag: str, *, json: bool) -> None:
    """Print one release, or all where no tag is given."""
    documents = [describe(one) for one in ([_release(tag)] if tag else releases().values())]
    text = release_page(documents[0]) if tag else releases_table(documents, width=width())
    show({"releases": documents}, text, json=json)


def describe(release: Release) -> Document:
    """A release as `--json` prints it; what upstream does not have is None."""
    server = release.server
    of_release = ("date", "commit", "tensorflow_commit", "tensorflow_sha256", "bazel", "bazel_minimum")
    of_server = ("rest", "model_status", "version_flag", "grpc_health", "monitoring", "integers_for_floats", "stamped")
    return {
        "release": release.tag,
        **{name: getattr(release, name) for name in of_release},
        "bazel_sha256": release.bazel_sha256 or "unknown",
        "python": release.python,
        "bazel_python": release.bazel_python,
        "reported_version": release.reported or None,
        "bazelrc": release.bazelrc,
        "configs": [{"name": name, "flags": flags} for name, flags in release.configs.items()],
        "flavours": {flavour.value: _flavour(release.flavours.get(flavour)) for flavour in Flavour},
        "server": {
            **{name: getattr(server, name) for name in of_server},
            "models": dict(server.models),
            "half_plus_two": server.testdata,
            "flags": server.flags,
        },
    }


def _flavour(facts: FlavourFacts | None) -> Document | None:
    if facts is None:
        return None
    retired = retired_bases().get(facts.base)
    names = ("runtime_base", "os", "compiler", "python", "default_options", "fixed_flags")
    document: dict[str, Any] = {
        "base": facts.base,
        "base_replacement": retired.replacement if retired else None,
        "base_last_patch": retired.last_patch if retired else None,
        **{name: getattr(facts, name) for name in names},
    }
    if facts.gpu:
        cuda = cudas()[facts.gpu.cuda]
        document |= {**asdict(facts.gpu), "minimum_driver": cuda.minimum_driver, "newest_gcc": cuda.newest_gcc}
    return document


def releases_table(documents: Sequence[Document], *, width: int | None = None) -> str:
    """A line for each release."""
    names = ("release", "date", "reports", "Bazel", "Python", "OS", "compiler", "mkl", "CUDA", "cuDNN", "TensorRT")
    rows = []
    for document in documents:
        cpu, mkl, gpu = (document["flavours"][flavour] for flavour in ("cpu", "mkl", "gpu"))
        own = (document["release"], document["date"], document["reported_version"] or "", document["bazel"])
        of_gpu = [(gpu or {}).get(name) or "" for name in ("cuda", "cudnn", "tensorrt")]
        rows.append((*own, document["python"], cpu["os"], cpu["compiler"], "yes" if mkl else "", *of_gpu))
    more = "`./factory catalogue RELEASE` shows all facts of one"
    return f"{table(names, rows, width=width)}\n{count(len(rows), 'release')}. {more}.\n"


def release_page(document: Document) -> str:
    """All about one release."""
    flavours, server = document["flavours"], document["server"]
    sections = [
        ("Release", _entries(document, leave_out=("configs", "flavours", "server"))),
        *(
            (f"Flavour {flavour}", _entries(facts) if facts else (("exists", "no"),))
            for flavour, facts in flavours.items()
        ),
        ("Server", _entries(server, leave_out=("models",))),
        ("Models to test it with", _entries(server["models"])),
        ("Bazel configs", tuple((one["name"], "\n".join(one["flags"])) for one in document["configs"])),
    ]
    return page(str(document["release"]), sections)


def _entries(document: Document, *, leave_out: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    return tuple((label(name), _text(value)) for name, value in document.items() if name not in leave_out)


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case tuple() | list() | frozenset():
            return " ".join(map(str, value)) or "none"
        case _:
            return str(value)


def check_upstream(folder: Path, tag: str, *, json: bool) -> None:
    """Compare a release with a checkout of tensorflow/serving, or with one of TensorFlow's sources.

    Both are searched for programs of the host that build rules call and no toolchain of the release has, and for flags
    for CPU features that upstream_flags.yaml does not have. An empty tag stands for what the checkout says.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", remedy="name a checkout of tensorflow/serving, at the release's tag")
    is_tensorflow = (folder / "tensorflow" / "tensorflow.bzl").is_file()
    tag = tag or ("" if is_tensorflow else release_of(folder, releases()) or "")
    if not tag:
        raise UsageError(f"the release of {folder} is unknown", remedy="name the release: catalogue RELEASE ...")
    release = _release(tag)
    absent: tuple[str, ...] = ()
    differences = list(_flag_differences(folder, release))
    if not is_tensorflow:
        compared = compare_upstream(folder, release)
        if not compared.read:
            raise UsageError(
                f"{folder} is no checkout of tensorflow/serving",
                why=f"it has none of {', '.join(compared.absent)}",
                remedy="name the checkout's root",
            )
        differences += compared.differences
        absent = tuple(compared.absent)
    differences += _program_differences(folder, release)
    document = {"release": tag, "folder": folder, "differences": differences, "absent": absent}
    not_compared = f"; not compared, as the checkout does not have them: {', '.join(absent)}" if absent else ""
    text = "" if differences else f"{folder} agrees with the catalogue's entry of {tag}{not_compared}\n"
    show(document, text, json=json)
    if differences:
        raise UpstreamDiffersError(
            f"{folder} and the catalogue's entry of {tag} differ in {count(len(differences), 'place')}",
            why="" if json else differences_text(differences),
            remedy="check each difference; docs/new-release.md describes how to write an entry",
        )


def differences_text(differences: Sequence[Difference]) -> str:
    """A line for each difference: file, line, fact, both values."""
    return "\n".join(
        f"{one.file}{f':{one.line}' if one.line else ''}: {one.what}: "
        f"the catalogue has {one.catalogue or 'nothing'}, upstream {one.upstream or 'nothing'}"
        for one in differences
    )


def _program_differences(folder: Path, release: Release) -> Iterator[Difference]:
    """Calls of programs that are in no package of the release's toolchain, as upstream chose it."""
    calls = host_calls(folder)
    for flavour in release.flavours:
        for one in uncovered(calls, toolchain_for(any_variant(release, flavour), release, Settings()).packages):
            yield Difference(
                file=one.call.file,
                line=one.call.line,
                what=f"{flavour}: host program",
                catalogue="",
                upstream=f"{one.call.program}: {one.why}",
            )


def any_variant(release: Release, flavour: Flavour) -> Variant:
    """The plainest variant of a release and a flavour."""
    gpu = release.flavours[flavour].gpu
    return Variant(release=release.tag, flavour=flavour, level=Level.V1, cuda=gpu.cuda if gpu else None)


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
