"""Everything that decides one variant, in the order in which a reader asks for it, and where each value comes from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving_factory.catalogue.facts import Release
from serving_factory.catalogue.levels import cpuinfo_names, level_facts
from serving_factory.catalogue.releases import UPSTREAM_TARGET, UPSTREAM_URL, releases
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.matrix.expand import uncertain_pairs
from serving_factory.matrix.matrix import (
    CATALOGUE,
    Matrix,
    alias_tags,
    full_tags,
    origin,
    release_origin,
    rules_about,
    variant_origins,
)
from serving_factory.matrix.problems import KeyPath, without_password
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import Bazel

Explained = tuple[str, str, str]
"""A name, a value, and where it comes from; empty where it follows from the others."""

Explanation = tuple[tuple[str, tuple[Explained, ...]], ...]
"""Sections: a title, and what is explained."""


def explain_matrix(variant: Variant, matrix: Matrix, *, file_from: str) -> Explanation:
    """Explain what the matrix says of a variant, whether or not there is a recipe for it.

    Args:
        variant: one of the matrix.
        matrix: the matrix.
        file_from: where the name of the matrix file comes from.
    """
    origins = variant_origins(matrix, variant)
    gpu = (
        ("cuda", variant.cuda or "", origins["cuda"]),
        ("capabilities", " ".join(variant.capabilities) or "TensorFlow's default", origins["capabilities"]),
    )
    values = (
        ("id", variant.id, ""),
        ("matrix file", str(matrix.file), file_from),
        ("targets", ", ".join(matrix.targets_of(variant)), ""),
        ("release", variant.release, origins["release"]),
        ("flavour", variant.flavour.value, origins["flavour"]),
        ("level", variant.level.value, origins["level"]),
        ("platform", variant.platform.value, origins["platform"]),
        *(gpu if variant.cuda else ()),
        ("copts", " ".join(variant.all_copts) or "none", origins["copts"]),
    )
    rules = tuple((where, what, "") for where, what in rules_about(matrix, variant))
    sections = (
        ("Variant", values),
        ("CPU", (*_cpu(variant), *_cpu_of_upstream(variant))),
        ("Rules", rules),
        ("Reported", tuple(_doubts(variant, matrix))),
        ("Image", _image(variant, matrix)),
        ("Resources", _resources(matrix)),
    )
    return tuple(section for section in sections if section[1])


def explain_upstream(variant: Variant, matrix: Matrix) -> Explanation:
    """Explain what would compile a variant that there is no recipe for: upstream's tools, or the matrix file's."""
    release = releases()[variant.release]
    facts, settings = release.flavours[variant.flavour], matrix.settings_of(release.tag)
    choice, chosen_bazel = settings.toolchain, settings.bazel
    bazel = ", ".join(filter(None, (chosen_bazel.version or release.bazel, chosen_bazel.package)))
    configs = choice.configs.get(variant.flavour, facts.configs)
    return (
        (
            "Toolchain",
            (
                ("source", str(settings.source or UPSTREAM_URL), _chosen(matrix, release, "source")),
                ("base", choice.base or facts.base, _chosen(matrix, release, "toolchain", "base")),
                ("compiler", choice.compiler or facts.compiler, _chosen(matrix, release, "toolchain", "compiler")),
                ("Bazel", bazel, _chosen(matrix, release, "bazel", "version")),
                ("configs", _configs(configs), _configs_origin(variant, matrix)),
            ),
        ),
    )


def explain(recipe: Recipe, matrix: Matrix, *, context: Path) -> Explanation:
    """Explain a recipe.

    Args:
        recipe: the recipe.
        matrix: the matrix that its variant is of.
        context: the folder in which the compile stage writes the devel Dockerfile and its files.
    """
    return (
        ("Compile", _compile(recipe, matrix)),
        ("Toolchain", _toolchain(recipe, matrix)),
        ("Inputs", _inputs(recipe, matrix)),
        ("On a lesser CPU", (("use", recipe.lower_image or "no image of this matrix", ""),)),
        ("Devel image", (("made by, after compile", _devel_command(recipe, context), ""),)),
    )


def _compile(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    variant, settings = recipe.variant, matrix.settings_of(recipe.release.tag)
    options = {"options": settings.bazel.options, "startup_options": settings.bazel.startup_options}
    return (
        ("source", str(recipe.source), _chosen(matrix, recipe.release, "source")),
        ("Bazel target", UPSTREAM_TARGET, ""),
        ("configs", _configs(recipe.toolchain.configs), _configs_origin(variant, matrix)),
        ("copts", " ".join(variant.all_copts) or "none", ""),
        *(
            (f"Bazel's {key.replace('_', ' ')}", " ".join(given), _chosen(matrix, recipe.release, "bazel", key))
            for key, given in options.items()
            if given
        ),
        ("key", recipe.compile_key, ""),
    )


def _toolchain(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    toolchain, release = recipe.toolchain, recipe.release
    name, _, pinned = toolchain.base.partition("@")
    stand_in: KeyPath = ("network", "base_images", name)
    base_from = _chosen(matrix, release, "toolchain", "base")
    if pinned and name in matrix.lock.bases:
        base_from += f"; its digest: {matrix.lock.file}"
    return (
        ("base", toolchain.base, base_from),
        ("base image used", recipe.base_image, origin(matrix, stand_in, otherwise="as named")),
        ("compiler", toolchain.compiler, _chosen(matrix, release, "toolchain", "compiler")),
        *_python(recipe, matrix),
        *_tensorrt(recipe, matrix),
        (
            "Bazel",
            f"{toolchain.bazel.version}, {_bazel_from(toolchain.bazel)}",
            _chosen(matrix, release, "bazel", "version"),
        ),
        ("packages", " ".join(toolchain.packages), _packages_origin(recipe, matrix)),
        *((f"fix {fix.script}", fix.why, f"{CATALOGUE}, glibc of the base") for fix in toolchain.fixes),
    )


def _python(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """What Bazel's rules run with; nothing where Bazel brings its own."""
    python = recipe.toolchain.python
    if python is None:
        return ()
    base = f"{CATALOGUE}, release and base"
    told = release_origin(matrix, recipe.release.tag, ("toolchain", "python"), otherwise=base)
    return (("Python", python.version, told),)


def _tensorrt(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """Whether TensorRT is compiled in; nothing where upstream has none."""
    gpu = recipe.toolchain.gpu
    if gpu is None or gpu.tensorrt is None:
        return ()
    left_out = dict(recipe.build_args).get("TENSORRT") == "0"
    value = "left out" if left_out else gpu.tensorrt_version
    return (("TensorRT", value, _chosen(matrix, recipe.release, "toolchain", "tensorrt")),)


def _bazel_from(bazel: Bazel) -> str:
    if bazel.package:
        return bazel.package
    if bazel.given:
        return "the file that the matrix names"
    return f"release asset sha256:{bazel.sha256}" if bazel.sha256 else "release asset, its checksum unknown"


def _cpu(variant: Variant) -> tuple[Explained, ...]:
    """What the level asks of a CPU, in Linux' words and in the psABI's; and the one flag that means the same."""
    facts, told = level_facts(variant.level), f"{CATALOGUE}, level {variant.level}"
    found = [("must have", " ".join(facts.cpuinfo) or "nothing beyond x86-64", told)]
    if facts.psabi:
        found.append(("in the psABI's words", " ".join(facts.psabi), told))
    if facts.march_since:
        since = " and ".join(f"{name} {version}" for name, version in facts.march_since.items())
        found.append(("in one flag", f"{facts.march}, from {since} on", told))
    return tuple(found)


def _cpu_of_upstream(variant: Variant) -> Iterator[Explained]:
    """What the flags of upstream's own BUILD files add to the level."""
    allowed = level_facts(variant.level).features
    added = {
        " ".join(names) + (f" in {', '.join(flag.namespaces)}" if flag.namespaces else ""): flag
        for flag in upstream_flags(releases()[variant.release].version)
        if (names := cpuinfo_names(flag.features - allowed))
    }
    if added:
        told = ", ".join(f"{flag.flag} in {flag.files[0]}" for flag in added.values())
        yield "upstream's sources add", "; ".join(added), f"{CATALOGUE}, {told}"


def _inputs(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """The inputs that are in use; passwords are blotted out."""
    network, inputs = matrix.network, recipe.inputs
    entries: list[tuple[str, object, KeyPath]] = [
        ("Bazel binary", inputs.bazel, ("bazel", "binary")),
        ("Bazel mirror", network.bazel_mirror, ("network", "bazel_mirror")),
        ("distdir", inputs.distdir, ("bazel", "distdir")),
        *((f"override {name}", folder, ("bazel", "overrides", name)) for name, folder in inputs.overrides),
        *((f"patches {index + 1}", folder, ("patches", index)) for index, folder in enumerate(inputs.patches)),
        ("downloader config", network.downloader_config, ("network", "downloader_config")),
        ("apt", network.apt_folder or network.apt_mirror, ("network", "apt", "mirror")),
        ("apt snapshot", network.apt_snapshot, ("network", "apt", "snapshot")),
        ("pip index", network.pip_index, ("network", "pip_index")),
        *((f"git {url}", to, ("network", "git_mirrors", url)) for url, to in network.git_mirrors.items()),
        ("proxy for http", network.http_proxy, ("network", "proxies", "http")),
        ("proxy for https", network.https_proxy, ("network", "proxies", "https")),
        ("no proxy for", network.no_proxy, ("network", "proxies", "no")),
        ("certificates", network.ca_certificates, ("network", "ca_certificates")),
        ("network", "none" if network.offline else None, ("network", "offline")),
    ]
    unused = f"Bazel {recipe.toolchain.bazel.version} knows no such rules: not used"
    return tuple(
        (
            name,
            unused
            if value is network.downloader_config is not inputs.downloader_config
            else without_password(str(value)),
            release_origin(matrix, recipe.release.tag, path),
        )
        for name, value, path in entries
        if value is not None
    )


def _image(variant: Variant, matrix: Matrix) -> tuple[Explained, ...]:
    images = matrix.images
    tags = _names(images.repository, full_tags(images, variant, binary="BINARY"))
    aliases = _names(images.repository, alias_tags(images, variant, matrix.targets_of(variant)))
    labels = "\n".join(f"{name}={value}" for name, value in images.labels)
    return (
        ("full tags", tags, origin(matrix, ("image", "tags"))),
        ("aliases", aliases or "none", origin(matrix, ("image", "aliases"))),
        ("labels", labels or "the factory's own alone", origin(matrix, ("image", "labels"))),
    )


def _resources(matrix: Matrix) -> tuple[Explained, ...]:
    jobs, memory = matrix.resources.jobs, matrix.resources.memory
    return (
        ("jobs", str(jobs or "not limited"), origin(matrix, ("resources", "jobs"))),
        ("memory", memory or "not limited", origin(matrix, ("resources", "memory"))),
    )


def _configs(names: Sequence[str]) -> str:
    return " ".join(f"--config={name}" for name in names) or "none"


def _chosen(matrix: Matrix, release: Release, *path: str) -> str:
    """Where the matrix chooses how a release is built, for all or for that one; else what upstream used holds."""
    return release_origin(matrix, release.tag, path, otherwise=f"{CATALOGUE}, release {release.tag}")


def _configs_origin(variant: Variant, matrix: Matrix) -> str:
    return _chosen(matrix, releases()[variant.release], "toolchain", "configs", variant.flavour.value)


def _packages_origin(recipe: Recipe, matrix: Matrix) -> str:
    base = f"{CATALOGUE}, release {recipe.release.tag}, base and compiler"
    more = release_origin(matrix, recipe.release.tag, ("toolchain", "packages"), otherwise="")
    return f"{base}; {more}" if more else base


def _doubts(variant: Variant, matrix: Matrix) -> Iterator[Explained]:
    """What was reported of the release's branch, and may or may not hold of the release: it is built all the same."""
    compiler = matrix.settings_of(variant.release).toolchain.compiler_of(
        releases()[variant.release].flavours[variant.flavour]
    )
    for pair in uncertain_pairs(variant, compiler):
        yield (f"may not {pair.fails}", pair.reason, " ".join(pair.references))


def _devel_command(recipe: Recipe, context: Path) -> str:
    """The command that turns the devel Dockerfile into an image to work in."""
    options = [
        *("--build-arg=" + "=".join(pair) for pair in recipe.build_args),
        *("--build-context=" + "=".join(pair) for pair in recipe.contexts(context.parent / "inputs")),
        *(["--network=none"] if recipe.inputs.offline else ()),
    ]
    tag = f"serving-factory/devel:{recipe.variant.id}"
    return shlex.join(
        ["docker", "buildx", "build", "--target=binary_build", "--load", f"--tag={tag}", *options, str(context)]
    )


def _names(repository: str, tags: Sequence[str]) -> str:
    return "\n".join(f"{repository}:{tag}" for tag in tags)
