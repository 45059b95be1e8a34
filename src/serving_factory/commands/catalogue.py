"""`catalogue`: what upstream used, and whether a checkout of it still says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.distributions import retired_bases
from serving_factory.catalogue.facts import Flavour, FlavourFacts, GpuFacts, Release
from serving_factory.catalogue.host_programs import host_calls, uncovered
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import closest_release, releases
from serving_factory.catalogue.upstream_check import Difference, release_of
from serving_factory.catalogue.upstream_check import check_upstream as compare_upstream
from serving_factory.catalogue.upstream_flags import unlisted_flags
from serving_factory.commands.shared import print_json, width, write
from serving_factory.errors import UnknownNameError, UpstreamDiffersError, UsageError
from serving_factory.matrix.settings import Settings
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import Column, Section, count, page, table
from serving_factory.recipes.toolchain import toolchain_for

Facts = dict[str, object]
"""What JSON knows: texts, numbers, booleans, None, lists and such documents."""


def describe(release: Release) -> Facts:
    """Describe a release; what upstream has not is None, and what is unknown says so."""
    return {
        "release": release.tag,
        "date": release.date,
        "commit": release.commit,
        "tensorflow_commit": release.tensorflow_commit,
        "tensorflow_sha256": release.tensorflow_sha256,
        "bazel": release.bazel,
        "bazel_minimum": release.bazel_minimum,
        "bazel_sha256": release.bazel_sha256 or "unknown",
        "python": release.python,
        "bazel_python": release.bazel_python,
        "reported_version": release.reported or None,
        "bazelrc": release.bazelrc,
        "configs": {name: list(flags) for name, flags in release.configs.items()},
        "flavours": {flavour.value: _flavour(release.flavours.get(flavour)) for flavour in Flavour},
        "server": {
            "rest": release.server.rest,
            "model_status": release.server.model_status,
            "version_flag": release.server.version_flag,
            "grpc_health": release.server.grpc_health,
            "monitoring": release.server.monitoring,
            "integers_for_floats": release.server.integers_for_floats,
            "stamped": release.server.stamped,
            "models": dict(release.server.models),
            "half_plus_two": list(release.server.testdata),
            "flags": list(release.server.flags),
        },
    }


def _flavour(facts: FlavourFacts | None) -> Facts | None:
    if facts is None:
        return None
    retired = retired_bases().get(facts.base)
    return {
        "base": facts.base,
        "base_replacement": retired.replacement if retired else None,
        "base_last_patch": retired.last_patch if retired else None,
        "runtime_base": facts.runtime_base,
        "os": facts.os,
        "compiler": facts.compiler,
        "python": facts.python,
        "default_options": list(facts.default_options),
        "fixed_flags": list(facts.fixed_flags),
        **(_gpu(facts.gpu) if facts.gpu else {}),
    }


def _gpu(facts: GpuFacts) -> Facts:
    return {
        "cuda": facts.cuda,
        "toolkit": facts.toolkit,
        "minimum_driver": cudas()[facts.cuda].minimum_driver,
        "newest_gcc": cudas()[facts.cuda].newest_gcc,
        "cudnn": facts.cudnn,
        "nccl": facts.nccl,
        "nccl_from": facts.nccl_from.value,
        "tensorrt": facts.tensorrt,
        "tensorrt_packages": facts.tensorrt_packages,
        "capabilities": list(facts.capabilities),
        "capabilities_from": facts.capabilities_from.value,
        "config": facts.config,
    }


Document = Mapping[str, Any]
"""A release, as `invoke catalogue --json` prints it."""


def releases_table(documents: Sequence[Document], *, width: int | None = None) -> str:
    """All releases, a line each."""
    columns = [
        Column(name)
        for name in (
            "release",
            "date",
            "reports",
            "Bazel",
            "Python",
            "OS",
            "compiler",
            "mkl",
            "CUDA",
            "cuDNN",
            "TensorRT",
        )
    ]
    rows = []
    for document in documents:
        cpu, mkl, gpu = (document["flavours"][flavour] for flavour in ("cpu", "mkl", "gpu"))
        rows.append(
            (
                document["release"],
                document["date"],
                document["reported_version"] or "",
                document["bazel"],
                document["python"],
                cpu["os"],
                cpu["compiler"],
                "yes" if mkl else "",
                gpu["cuda"] if gpu else "",
                gpu["cudnn"] if gpu else "",
                (gpu["tensorrt"] or "") if gpu else "",
            )
        )
    count = "1 release" if len(rows) == 1 else f"{len(rows)} releases"
    return f"{table(columns, rows, width=width)}\n{count}. `./factory catalogue RELEASE` shows one in full.\n"


def release_page(document: Document) -> str:
    """All about one release."""
    sections = [
        Section("Release", _entries(document, leave_out=("configs", "flavours", "server"))),
        *(
            Section(f"Flavour {flavour}", _entries(facts) if facts else (("exists", "no"),))
            for flavour, facts in document["flavours"].items()
        ),
        Section("Server", _entries(document["server"], leave_out=("models",))),
        Section("Models to try it with", _entries(document["server"]["models"])),
        Section("Bazel configs", tuple((name, "\n".join(flags)) for name, flags in document["configs"].items())),
    ]
    return page(str(document["release"]), sections)


def differences_text(differences: Sequence[Mapping[str, Any]]) -> str:
    """What a checkout and the catalogue disagree on, a line each: file, line, fact, both values."""
    return "\n".join(
        f"{one['file']}{':' + str(one['line']) if one['line'] else ''}: {one['what']}: "
        f"the catalogue has {one['catalogue'] or 'nothing'}, upstream {one['upstream'] or 'nothing'}"
        for one in differences
    )


def _entries(document: Document, *, leave_out: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _text(value)) for name, value in document.items() if name not in leave_out)


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return " ".join(map(str, value)) or "none"
        case _:
            return str(value)


def show_catalogue(tag: str, *, json: bool) -> None:
    """Print one release, or all where no tag is given.

    Raises:
        UnknownNameError: there is no such release.
    """
    documents = [describe(one) for one in ([_release(tag)] if tag else releases().values())]
    if json:
        print_json(documents)
    elif tag:
        write(release_page(documents[0]))
    else:
        write(releases_table(documents, width=width()))


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
            why="" if json else differences_text(differences),
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
