"""Everything that decides one variant, section by section, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from serving_factory.catalogue.facts import Release
from serving_factory.catalogue.levels import cpuinfo_names, level_facts
from serving_factory.catalogue.releases import UPSTREAM_TARGET, UPSTREAM_URL, releases
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.matrix.expand import uncertain_pairs
from serving_factory.matrix.matrix import (
    CATALOGUE,
    Matrix,
    base_origin,
    origin,
    release_origin,
    rules_about,
    variant_origins,
)
from serving_factory.matrix.problems import KeyPath, without_password
from serving_factory.matrix.tags import full_tags, indexes_of
from serving_factory.matrix.variant import Variant
from serving_factory.matrix.words import SLIM_OF
from serving_factory.recipes.pins import is_slim, runtime_base
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import Bazel


class Explained(NamedTuple):
    """One value; names are an API (docs/json.md). `of` distinguishes entries of one name."""

    name: str
    value: str | tuple[str, ...]
    origin: str = ""
    of: str = ""


Explanation = tuple[tuple[str, tuple[Explained, ...]], ...]  # Sections: a name, and what is explained


def explain_matrix(variant: Variant, matrix: Matrix, *, file_from: str) -> Explanation:
    """Explain what the matrix says of a variant, whether or not there is a recipe for it."""
    origins = variant_origins(matrix, variant)
    gpu = (
        Explained("cuda", variant.cuda or "", origins["cuda"]),
        Explained("capabilities", variant.capabilities or "TensorFlow's default", origins["capabilities"]),
        Explained("device_code", variant.device_code),
    )
    values = (
        Explained("id", variant.id),
        Explained("matrix_file", str(matrix.file), file_from),
        Explained("targets", matrix.targets_of(variant)),
        Explained("release", variant.release_name, origins["release"]),
        *((Explained("like", variant.release, origins["release"]),) if variant.own_release else ()),
        Explained("flavour", variant.flavour.value, origins["flavour"]),
        Explained("level", variant.level.value, origins["level"]),
        Explained("platform", variant.platform.value, origins["platform"]),
        *(gpu if variant.cuda else ()),
        Explained("copts", variant.all_copts, origins["copts"]),
    )
    sections = (
        ("variant", values),
        ("cpu", (*_cpu(variant), *_cpu_of_upstream(variant))),
        ("rules", tuple(Explained("rule", what, of=where) for where, what in rules_about(matrix, variant))),
        ("reported", tuple(_doubts(variant, matrix))),
        ("image", _image(variant, matrix)),
        ("resources", _resources(matrix)),
    )
    return tuple(section for section in sections if section[1])


def explain_upstream(variant: Variant, matrix: Matrix) -> Explanation:
    """Explain what would compile a variant that there is no recipe for: upstream's tools, or the matrix file's."""
    release = releases()[variant.release]
    facts, settings = release.flavours[variant.flavour], matrix.settings_of(variant)
    choice, chosen_bazel = settings.toolchain, settings.bazel
    bazel = ", ".join(filter(None, (chosen_bazel.version or release.bazel, chosen_bazel.package)))
    configs = tuple(f"--config={name}" for name in choice.configs.get(variant.flavour, facts.configs))
    compiler = choice.compiler or facts.compiler
    toolchain = (
        Explained("source", str(settings.source or UPSTREAM_URL), _chosen(matrix, release, "source")),
        Explained("base", choice.base or facts.base, _chosen(matrix, release, "toolchain", "base")),
        Explained("compiler", compiler, _chosen(matrix, release, "toolchain", "compiler")),
        Explained("bazel", bazel, _chosen(matrix, release, "bazel", "version")),
        Explained("configs", configs, _of_flavour("configs", variant, matrix)),
    )
    return (("toolchain", toolchain),)


def explain(recipe: Recipe, matrix: Matrix, *, devel_command: str) -> Explanation:
    """Explain a recipe."""
    return (
        ("compile", _compile(recipe, matrix)),
        ("toolchain", _toolchain(recipe, matrix)),
        ("inputs", _inputs(recipe, matrix)),
        ("lower_cpu", (Explained("image", recipe.lower_image or "none in this matrix"),)),
        ("devel_image", (Explained("command", devel_command),)),
    )


def _compile(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    variant, settings = recipe.variant, matrix.settings_of(recipe.variant)
    configs, flags = tuple(f"--config={name}" for name in recipe.toolchain.configs), recipe.toolchain.flags
    options = {"options": settings.bazel.options, "startup_options": settings.bazel.startup_options}
    return (
        Explained("source", str(recipe.source), _chosen(matrix, recipe.release, "source")),
        Explained("bazel_target", UPSTREAM_TARGET),
        Explained("configs", configs, _of_flavour("configs", variant, matrix)),
        *([Explained("flags", flags, _of_flavour("flags", variant, matrix))] if flags else []),
        Explained("copts", variant.all_copts),
        *(
            Explained(f"bazel_{key}", tuple(given), _chosen(matrix, recipe.release, "bazel", key))
            for key, given in options.items()
            if given
        ),
        Explained("key", recipe.compile_key),
    )


def _toolchain(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    toolchain, release = recipe.toolchain, recipe.release
    name, _, pinned = toolchain.base.partition("@")
    stand_in: KeyPath = ("network", "base_images", name)
    base_from = _chosen(matrix, release, "toolchain", "base")
    if pinned and name in matrix.lock.bases:
        base_from += f"; its digest: {matrix.lock.file}"
    bazel = f"{toolchain.bazel.version}, {_bazel_from(toolchain.bazel)}"
    packages_from = f"{CATALOGUE}, release {release.tag}, base and compiler"
    more = release_origin(matrix, release.tag, ("toolchain", "packages"), otherwise="")
    return (
        Explained("base", toolchain.base, base_from),
        Explained("base_image_used", recipe.base.image, origin(matrix, stand_in, otherwise="as named")),
        Explained("compiler", toolchain.compiler, _chosen(matrix, release, "toolchain", "compiler")),
        *_python(recipe, matrix),
        *_cuda(recipe, matrix),
        *_tensorrt(recipe, matrix),
        *_compat(recipe, matrix),
        Explained("bazel", bazel, _chosen(matrix, release, "bazel", "version")),
        Explained("packages", tuple(toolchain.packages), f"{packages_from}; {more}" if more else packages_from),
        *(Explained("fix", fix.why, f"{CATALOGUE}, glibc of the base", of=fix.script) for fix in toolchain.fixes),
    )


def _python(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """What Bazel's rules run with; nothing where Bazel brings its own."""
    path, otherwise = ("toolchain", "python"), f"{CATALOGUE}, release and base"
    source = release_origin(matrix, recipe.release.tag, path, otherwise=otherwise)
    python = recipe.toolchain.python
    return (Explained("python", python.version, source),) if python else ()


def _cuda(recipe: Recipe, matrix: Matrix) -> Iterator[Explained]:
    """Where a gpu build gets CUDA, and what compiles device code where that is a compiler of its own."""
    gpu = recipe.toolchain.gpu
    if gpu:
        given = recipe.inputs.cuda_folder or ("NVIDIA's Python wheels" if gpu.local else "")
        usual = "NVIDIA's apt repositories" if gpu.cuda.packages else "Bazel's downloads"
        yield Explained("cuda_from", str(given or usual), _chosen(matrix, recipe.release, "toolchain", "cuda"))
        if gpu.device_compiler:
            source = _chosen(matrix, recipe.release, "toolchain", "device_compiler")
            yield Explained("device_compiler", gpu.device_compiler, source)


def _tensorrt(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """Whether TensorRT is compiled in; nothing where upstream has none."""
    gpu = recipe.toolchain.gpu
    if gpu is None or gpu.tensorrt is None:
        return ()
    left_out = dict(recipe.build_args).get("TENSORRT") == "0"
    value = "left out" if left_out else gpu.tensorrt_version
    return (Explained("tensorrt", value, _chosen(matrix, recipe.release, "toolchain", "tensorrt")),)


def _compat(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """Which package of NVIDIA's serves older drivers; nothing without."""
    package = recipe.toolchain.gpu.compat if recipe.toolchain.gpu else None
    return (
        (Explained("cuda compat", package, _chosen(matrix, recipe.release, "toolchain", "cuda_compat")),)
        if package
        else ()
    )


def _bazel_from(bazel: Bazel) -> str:
    if bazel.package:
        return bazel.package
    if bazel.given:
        return "the file that the matrix names"
    return f"release asset sha256:{bazel.sha256}" if bazel.sha256 else "release asset, its checksum unknown"


def _cpu(variant: Variant) -> tuple[Explained, ...]:
    """What the level asks of a CPU, in Linux' words and in the psABI's; and the one flag that means the same."""
    facts, source = level_facts(variant.level), f"{CATALOGUE}, level {variant.level}"
    found = [Explained("linux_flags", facts.cpuinfo or "nothing beyond x86-64", source)]
    if facts.psabi:
        found.append(Explained("psabi_features", tuple(facts.psabi), source))
    if facts.march_since:
        since = " and ".join(f"{name} {version}" for name, version in facts.march_since.items())
        found.append(Explained("march", f"{facts.march}, from {since} on", source))
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
        source = ", ".join(f"{flag.flag} in {flag.files[0]}" for flag in added.values())
        yield Explained("upstream_adds", tuple(added), f"{CATALOGUE}, {source}")


def _inputs(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """The inputs that are in use; passwords are blotted out."""
    network, inputs = matrix.network, recipe.inputs
    unused = f"Bazel {recipe.toolchain.bazel.version} has no downloader config: not used"
    rules = network.downloader_config and (inputs.downloader_config or unused)
    entries: list[tuple[str, str, object, KeyPath]] = [
        ("bazel_binary", "", inputs.bazel, ("bazel", "binary")),
        ("bazel_mirror", "", network.bazel_mirror, ("network", "bazel_mirror")),
        ("distdir", "", inputs.distdir, ("bazel", "distdir")),
        *(("override", name, folder, ("bazel", "overrides", name)) for name, folder in inputs.overrides),
        *(("patches", str(index + 1), folder, ("patches", index)) for index, folder in enumerate(inputs.patches)),
        ("downloader_config", "", rules, ("network", "downloader_config")),
        ("apt", "", network.apt_folder or network.apt_mirror, ("network", "apt", "mirror")),
        ("apt_snapshot", "", network.apt.snapshot, ("network", "apt", "snapshot")),
        ("pip_index", "", network.pip_index, ("network", "pip_index")),
        *(("git_mirror", url, to, ("network", "git_mirrors", url)) for url, to in network.git_mirrors.items()),
        ("http_proxy", "", network.proxies.http, ("network", "proxies", "http")),
        ("https_proxy", "", network.proxies.https, ("network", "proxies", "https")),
        ("no_proxy", "", network.proxies.no, ("network", "proxies", "no")),
        ("ca_certificates", "", network.ca_certificates, ("network", "ca_certificates")),
        ("network", "", "none" if network.offline else None, ("network", "offline")),
    ]
    return tuple(
        Explained(name, without_password(str(value)), release_origin(matrix, recipe.release.tag, path), of)
        for name, of, value, path in entries
        if value is not None
    )


def _image(variant: Variant, matrix: Matrix) -> tuple[Explained, ...]:
    images, settings = matrix.images, matrix.settings_of(variant)
    slim = SLIM_OF if is_slim(variant, settings) else ""
    upgrades = matrix.lock.upgrades(runtime_base(variant, settings))
    tags = _names(images.repository, full_tags(images, variant, binary="BINARY", image="IMAGE"))
    aliases = _names(images.repository, matrix.aliases_of(variant))
    holding = [one.tag for one in indexes_of(images, matrix.candidates) if variant in one.variants]
    labels = [
        Explained("label", value, origin(matrix, ("image", "labels")), of=name)
        for name, value in sorted(images.labels.items())
    ]
    return (
        Explained("full_tags", tags, origin(matrix, ("image", "tags"))),
        Explained("aliases", aliases, origin(matrix, ("image", "aliases"))),
        Explained("indexes", _names(images.repository, holding), origin(matrix, ("image", "indexes"))),
        Explained("user", str(images.user), origin(matrix, ("image", "user"))),
        Explained("base", f"{slim}{matrix.lock.pinned(runtime_base(variant, settings))}", base_origin(matrix, variant)),
        *([Explained("upgrades", upgrades, str(matrix.lock.file))] if upgrades else []),
        *labels,
    )


def _resources(matrix: Matrix) -> tuple[Explained, ...]:
    jobs, memory = matrix.resources.jobs, matrix.resources.memory
    return (
        Explained("jobs", str(jobs or "not limited"), origin(matrix, ("resources", "jobs"))),
        Explained("memory", memory or "not limited", origin(matrix, ("resources", "memory"))),
    )


def _chosen(matrix: Matrix, release: Release, *path: str) -> str:
    """Where the matrix chooses how a release is built, for all or for that one; else what upstream used holds."""
    return release_origin(matrix, release.tag, path, otherwise=f"{CATALOGUE}, release {release.tag}")


def _of_flavour(key: str, variant: Variant, matrix: Matrix) -> str:
    return _chosen(matrix, releases()[variant.release], "toolchain", key, variant.flavour.value)


def _doubts(variant: Variant, matrix: Matrix) -> Iterator[Explained]:
    """What was reported of the release's branch, and may or may not hold of the release: it is built all the same."""
    compiler = matrix.settings_of(variant).toolchain.compiler_of(releases()[variant.release].flavours[variant.flavour])
    for pair in uncertain_pairs(variant, compiler):
        yield Explained("doubt", f"it may not compile: {pair.reason}", " ".join(pair.references))


def _names(repository: str, tags: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{repository}:{tag}" for tag in tags)
