"""The toolchain: what compiles a variant. Derived from the catalogue, unless the matrix says otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from packaging.version import Version

from serving_factory.catalogue.bazel import RemoteAbility, bazel_flag, bazel_reads, has_ability
from serving_factory.catalogue.cuda import cuda_in_image, cudas
from serving_factory.catalogue.distributions import (
    Distribution,
    DistributionPython,
    Wheel,
    build_packages,
    distributions,
)
from serving_factory.catalogue.facts import Flavour, FlavourFacts, GpuFacts, Release
from serving_factory.catalogue.fixes import Fix, fixes_for
from serving_factory.catalogue.libraries import (
    CudaPackages,
    TensorrtPackages,
    cuda_packages,
    cuda_wheels,
    mkl_libraries,
    opened_beginnings,
)
from serving_factory.errors import BazelTooOldError, RecipeError
from serving_factory.matrix.lockfile import EMPTY, Lock
from serving_factory.matrix.settings import WHEELS, BazelChoice, Settings, ToolchainChoice
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.pins import bazel_checksum


def bazel_numbers(version: str) -> tuple[int, ...]:
    """Read the numbers at a version's beginning: a distribution's `4.2.3+ds-1` counts as 4.2.3."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def check_bazel(variant: Variant, release: Release, version: str) -> None:
    """Refuse a Bazel that upstream's WORKSPACE of the release refuses."""
    if bazel_numbers(version) < bazel_numbers(release.bazel_minimum):
        raise BazelTooOldError(
            f"{variant.id}: Bazel {version} is older than {release.bazel_minimum}",
            why=f"{release.tag} accepts no older one; upstream built {release.tag} with Bazel {release.bazel}",
            remedy=f"leave `bazel: version` out of the matrix file to build with {release.bazel}, or name a later one",
        )


_PYTHON_3_SINCE = Version("2.2")
_CLANG = re.compile(r"clang-(\d+)")
_INPUT_OPTIONS = ("repository_cache", "distdir")
_NVIDIA = "https://developer.download.nvidia.com/compute"
_CAPABILITIES = "TF_CUDA_COMPUTE_CAPABILITIES="
_TENSORRT = "TF_NEED_TENSORRT="
# The repository rules of 2.18 and later take CUDA, cuDNN and NCCL of a folder (openxla/xla, docs/hermetic_cuda.md).
_LOCAL = tuple(f"--repo_env=LOCAL_{part}_PATH=/usr/local/cuda" for part in ("CUDA", "CUDNN", "NCCL"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bazel:
    """The Bazel that builds: a release asset, or an apt package of the base."""

    version: str
    sha256: str | None  # of the release asset; None with a package, and where neither the catalogue nor the lock has it
    package: str | None  # the apt package; None with a release asset
    given: bool  # whether the matrix names the file
    disk_cache: str | None  # its flag for the disk cache; None where it has none
    event_file: str  # its flag for the file of build events
    toplevel: bool  # whether it reads only the target's own outputs from its caches, unless it is asked for all
    old_spellings: tuple[tuple[str, str], ...]  # an option's usual name -> its flag, where that is another


@dataclass(frozen=True, slots=True, kw_only=True)
class Llvm:
    """A clang from LLVM's own apt repository."""

    version: str  # `17`
    suite: str  # the distribution's name there
    packages: tuple[str, ...]
    fingerprint: str = "6084F3CF814B57C1CF12EFD515CF4D18AF4F7421"  # of the repository's key


@dataclass(frozen=True, slots=True, kw_only=True)
class AptRepository:
    """A flat apt repository of a vendor."""

    name: str  # of its keyring here
    url: str
    key: str  # the file with its key, below the URL
    fingerprint: str  # of that key, 40 hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBuild:
    """What a gpu build has beyond any build: NVIDIA's packages and keys, capabilities, TensorRT."""

    version: str  # CUDA's, `12.2`
    cuda: CudaPackages  # NVIDIA's packages, or what Bazel downloads instead; no packages with another origin
    local: bool  # whether the matrix names another origin: the named context `cuda`
    wheels: tuple[Wheel, ...]  # what fills that one, where it is no folder
    opened: tuple[str, ...]  # how the names of libraries begin that the image gets of that one
    device_compiler: str | None  # the package that compiles device code apart; None where one compiler does all
    stub: bool  # whether the server is linked to the driver's library, of which CUDA has a stub
    repositories: tuple[AptRepository, ...]  # where packages come from; empty where Bazel brings CUDA
    capabilities: str  # upstream's compute capabilities, joined by commas; empty where TensorFlow's default applies
    capabilities_exported: bool  # whether cuda_configure reads them from the environment
    flags: tuple[str, ...]  # Bazel flags with capabilities and TensorRT, where a config has them
    environment: tuple[tuple[str, str], ...]
    tensorrt: TensorrtPackages | None  # None where it is not compiled in
    tensorrt_version: str  # `8.6.1`; empty without
    tensorrt_environment: bool  # whether TF_NEED_TENSORRT is read from the environment
    compat: str | None  # the package with NVIDIA's libraries for older drivers, where the matrix chooses it
    requirement: str  # which drivers NVIDIA's container runtime starts the image on, `cuda>=12.2 driver>=525.60.13`


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Everything that the compile stage needs beside the sources."""

    base: str  # the base image, as the Dockerfile names it
    distribution: Distribution
    packages: tuple[str, ...]  # of apt, sorted
    compiler: str  # `gcc-10`, `clang-17`, or `hermetic clang`, which Bazel downloads
    c_compiler: str  # the command that compiles the runtime image's init
    cc: str | None  # the command that Bazel is given; None where a config names the compiler or Bazel brings it
    llvm: Llvm | None
    python: DistributionPython | None  # what Bazel's rules run with; None where Bazel brings its own
    wheel: Wheel | None  # numpy, where the distribution has none for that Python
    bazel: Bazel
    configs: tuple[str, ...]  # Bazel configs of the flavour, in order
    flags: tuple[str, ...]  # other Bazel flags that every build of the flavour must have
    libraries: tuple[str, ...]  # paths below which collect.sh finds what the server needs beyond its loader's
    fixes: tuple[Fix, ...]
    gpu: GpuBuild | None

    @property
    def pip(self) -> str:
        """The apt package that brings pip, for the devel image."""
        return (self.python or list(self.distribution.pythons.values())[-1]).pip

    @property
    def hermetic(self) -> bool:
        """Whether Bazel downloads the compiler."""
        return self.cc is None and self.llvm is None

    @property
    def compiler_command(self) -> str:
        """What collect.sh asks for its version, where Bazel is given no compiler."""
        return self.compiler if self.llvm else self.c_compiler

    @property
    def python_command(self) -> str:
        """The Python that `python` stands for: of Bazel's rules, or of scripts where Bazel brings its own."""
        return self.python.command if self.python else self.distribution.tools

    @property
    def compiler_links(self) -> tuple[tuple[str, str], ...]:
        """Names by which programs look for a compiler -> the toolchain's command, where the base's own is another."""
        # With a clang, gcc stays gcc: what calls it by name gives it gcc's own flags.
        if self.llvm:
            return (("cc", self.compiler), ("c++", self.compiler.replace("clang", "clang++")))
        if self.cc in {None, "gcc"}:
            return ()
        cxx = self.c_compiler.replace("gcc", "g++")
        return (("cc", self.c_compiler), ("gcc", self.c_compiler), ("c++", cxx), ("g++", cxx))

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """What comes from the Python package index."""
        return (*([self.wheel] if self.wheel else []), *(self.gpu.wheels if self.gpu else ()))

    @property
    def wants_future(self) -> bool:
        """Whether the Python module `future` is installed."""
        return self.python is not None and self.python.future in self.packages


def toolchain_for(variant: Variant, release: Release, settings: Settings, lock: Lock = EMPTY) -> Toolchain:
    """Derive the toolchain of a variant; what the lock pins is named by content."""
    choice = settings.toolchain
    facts: FlavourFacts = release.flavours[variant.flavour]
    base = choice.base or facts.os
    distribution = _distribution(variant, base)
    compiler = choice.compiler or facts.compiler_package or "hermetic clang"
    clang = _CLANG.fullmatch(compiler)
    is_gcc = clang is None and compiler != "hermetic clang"
    c_compiler = compiler if is_gcc else "gcc"
    llvm = None
    if clang:
        packages_of = tuple(f"{name}-{clang[1]}" for name in ("clang", "lld", "llvm"))
        llvm = Llvm(version=clang[1], suite=distribution.llvm, packages=packages_of)
    bazel = _bazel(variant, release, settings.bazel, lock)
    python = _python(variant, release, distribution, choice.python)
    packages = {
        *distribution.packages,
        *build_packages(release, variant.flavour, distribution),
        c_compiler,
        c_compiler.replace("gcc", "g++"),
        *_python_packages(variant, release, distribution, python),
        *choice.packages,
        *filter(None, [bazel.package]),
    }
    return Toolchain(
        base=lock.pinned(base),
        distribution=distribution,
        packages=tuple(sorted(packages)),
        compiler=compiler,
        c_compiler=c_compiler,
        cc=compiler if is_gcc else None,
        llvm=llvm,
        python=python,
        wheel=python.numpy if python and isinstance(python.numpy, Wheel) else None,
        bazel=bazel,
        configs=choice.configs.get(variant.flavour, facts.configs),
        flags=choice.flags.get(variant.flavour, facts.plain_flags),
        libraries=_libraries(release) if variant.flavour is Flavour.MKL else (),
        fixes=fixes_for(release.version, distribution.glibc),
        gpu=gpu_build(release, distribution, choice, upstream=settings.source is None)
        if variant.flavour is Flavour.GPU
        else None,
    )


def check_buildable(variant: Variant, toolchain: Toolchain) -> None:
    """Refuse a toolchain whose Bazel has no known checksum, unless the matrix names the file."""
    bazel = toolchain.bazel
    if bazel.package or bazel.sha256 or bazel.given:
        return
    raise RecipeError(
        f"{variant.id}: the checksum of Bazel {bazel.version} is not known",
        why="nothing is downloaded without a checksum",
        remedy="let `./factory lock` find it out, or name the file in the matrix file: "
        f'bazel: {{version: "{bazel.version}", binary: FILE}}',
    )


def is_buildable(variant: Variant, release: Release, settings: Settings, lock: Lock = EMPTY) -> bool:
    """Whether a variant can be built as the matrix chooses."""
    try:
        toolchain = toolchain_for(variant, release, settings, lock)
        check_buildable(variant, toolchain)
        if settings.source is None:
            check_bazel(variant, release, toolchain.bazel.version)
    except (RecipeError, BazelTooOldError):
        return False
    return True


def _distribution(variant: Variant, base: str) -> Distribution:
    found = distributions().get(base.partition("@")[0])
    if found is None:
        raise RecipeError(
            f"{variant.id}: no package list is known for the base image {base}",
            why=f"known bases: {', '.join(distributions())}",
            remedy="name one of them at toolchain.base in the matrix file",
        )
    return found


def _python(
    variant: Variant, release: Release, distribution: Distribution, chosen: str | None
) -> DistributionPython | None:
    """The Python that Bazel's rules run with, before Bazel brings its own."""
    if chosen is None and release.bazel_python is not None:
        return None
    required = chosen or ("2.7" if release.version < _PYTHON_3_SINCE else list(distribution.pythons)[-1])
    # "3" is the distribution's own Python 3.
    named = [version for version in distribution.pythons if version == required or version.startswith(f"{required}.")]
    found = distribution.pythons[named[-1]] if named else None
    if found is None:
        raise RecipeError(
            f"{variant.id}: {distribution.name} has no Python {required}",
            why=f"it has {', '.join(distribution.pythons)}; {release.tag} was built with Python {release.python}",
            remedy="name another base at toolchain.base, or one of these at toolchain.python, in the matrix file",
        )
    return found


def _python_packages(
    variant: Variant, release: Release, distribution: Distribution, python: DistributionPython | None
) -> tuple[str, ...]:
    if python is None:
        return (distribution.tools,)
    packages = python.packages if isinstance(python.numpy, Wheel) else (*python.packages, python.numpy)
    if not Version("1.14") <= release.version < _PYTHON_3_SINCE:
        return packages
    if python.future is None:
        raise RecipeError(
            f"{variant.id}: {distribution.name} has no `future` for Python {python.version}",
            why=f"the scripts of TensorFlow {release.series} import it",
            remedy=f'take toolchain.python: "{list(distribution.pythons)[-1]}" in the matrix file',
        )
    return (*packages, python.future)


def _libraries(release: Release) -> tuple[str, ...]:
    places = {"external": "/factory/bazel/*/external/", "bin": "/factory/bazel-bin/"}
    split = (library.partition("/") for library in mkl_libraries(release.version))
    return tuple(places[kind] + path for kind, _, path in split)


def _bazel(variant: Variant, release: Release, choice: BazelChoice, lock: Lock) -> Bazel:
    version = choice.version or release.bazel
    for option, given in (("distdir", choice.distdir), ("override_repository", choice.overridden)):
        if given and bazel_flag(option, version) is None:
            raise RecipeError(
                f"{variant.id}: Bazel {version} has no --{option}",
                remedy='name a later one in the matrix file, such as bazel: {version: "0.17.2"}',
            )
    if not bazel_reads(release.bazelrc, version):
        raise RecipeError(
            f"{variant.id}: Bazel {version} does not read {release.bazelrc}, where {release.tag} has its flags",
            why="Bazel reads tools/bazel.rc until 0.17 and .bazelrc since 0.18",
            remedy=f"leave bazel.version out for upstream's {release.bazel}, or name one from that side of 0.18",
        )
    return Bazel(
        version=version,
        sha256=None if choice.package else bazel_checksum(version, lock),
        package=choice.package,
        given=choice.binary is not None,
        disk_cache=bazel_flag("disk_cache", version),
        event_file=bazel_flag("build_event_json_file", version) or "",
        toplevel=has_ability(Version(version), RemoteAbility.TOPLEVEL_BY_DEFAULT),
        old_spellings=tuple(
            (option, spelling)
            for option in _INPUT_OPTIONS
            if (spelling := bazel_flag(option, version)) and spelling != f"--{option}"
        ),
    )


def gpu_build(
    release: Release, distribution: Distribution, choice: ToolchainChoice, *, upstream: bool = True
) -> GpuBuild:
    """Derive what a gpu build of a release has beyond any build."""
    gpu = release.flavours[Flavour.GPU].gpu
    known = cuda_packages(release)
    packages = _elsewhere(known, choice) if choice.cuda else known
    wheels = cuda_wheels().get(gpu.cuda, ()) if gpu and choice.cuda == WHEELS else ()
    compat = choice.cuda_compat and gpu is not None and cudas()[gpu.cuda].compat_drivers is not None
    if gpu is None or ((packages.packages or compat) and distribution.nvidia is None):
        raise RecipeError(
            f"{release.tag}, gpu: NVIDIA has no packages of CUDA {gpu.cuda if gpu else ''} for {distribution.name}",
            why="CUDA, or cuda-compat, is taken from NVIDIA's apt repositories",
            remedy="take one of Ubuntu's images at toolchain.base in the matrix file, or leave it out for upstream's; "
            "or name another origin of CUDA at toolchain.cuda",
        )
    _check_origin(release, gpu, choice, wheels, upstream=upstream)
    config = release.configs.get(gpu.config, ())
    capabilities = _prefix(config, _CAPABILITIES)
    tensorrt_flag = _prefix(config, _TENSORRT) if gpu.tensorrt else None
    flags = [f"{capabilities}{_CAPABILITIES}${{CUDA_CAPABILITIES}}"] if capabilities else []
    flags += [f"{tensorrt_flag}{_TENSORRT}${{TENSORRT}}"] if tensorrt_flag else []
    if choice.cuda and known.hermetic:
        flags += _LOCAL
    if choice.device_compiler:
        flags.append(f"--repo_env=CLANG_CUDA_COMPILER_PATH=/usr/bin/{choice.device_compiler}")
    tensorrt = known.tensorrt if gpu.tensorrt else None
    return GpuBuild(
        version=gpu.cuda,
        cuda=packages,
        local=choice.cuda is not None,
        wheels=wheels,
        opened=opened_beginnings() if choice.cuda else (),
        device_compiler=choice.device_compiler,
        stub=bool(known.packages),
        repositories=_repositories(packages, distribution.nvidia, compat=compat) if distribution.nvidia else (),
        capabilities=",".join(gpu.capabilities),
        capabilities_exported=capabilities is None,
        flags=tuple(flags),
        environment=tuple({**packages.environment, **(tensorrt.environment if tensorrt else {})}.items()),
        tensorrt=tensorrt,
        tensorrt_version=gpu.tensorrt or "",
        tensorrt_environment=tensorrt is not None and tensorrt_flag is None,
        compat=f"cuda-compat-{gpu.cuda.replace('.', '-')}" if compat else None,
        requirement=cuda_in_image(gpu.cuda, compat=compat).requirement(),
    )


def _elsewhere(packages: CudaPackages, choice: ToolchainChoice) -> CudaPackages:
    """What is left of a release's packages where CUDA comes from elsewhere."""
    # What is built with wheels has no XLA, whose tools they lack.
    tools = () if choice.cuda == WHEELS else packages.tools
    return replace(packages, packages=(), server=(), hermetic=(), tools=tools)


def _check_origin(
    release: Release, gpu: GpuFacts, choice: ToolchainChoice, wheels: tuple[Wheel, ...], *, upstream: bool
) -> None:
    """Refuse an origin of CUDA that cannot give what the sources need."""
    folder = f"give the folder of a whole toolkit at toolchain.cuda, such as /usr/local/cuda-{gpu.cuda}"
    if choice.cuda == WHEELS and upstream:
        raise RecipeError(
            f"{release.tag}, gpu: upstream's sources cannot be built with CUDA of Python wheels",
            why="the wheels of CUDA before 13 have no nvcc, nvlink, bin2c and no stub of the driver",
            remedy=f"{folder}, or leave it out for upstream's own",
        )
    if choice.cuda == WHEELS and not wheels:
        raise RecipeError(
            f"{release.tag}, gpu: no Python wheels of CUDA {gpu.cuda} are known",
            why=f"the catalogue has those of {', '.join(cuda_wheels())} (cuda_wheels.yaml)",
            remedy=folder,
        )
    if choice.cuda and gpu.tensorrt and choice.tensorrt is not False:
        raise RecipeError(
            f"{release.tag}, gpu: TensorRT is no part of CUDA at toolchain.cuda",
            why="it comes from NVIDIA's apt repository, as CUDA does",
            remedy="leave one of the two out: `tensorrt: false` beside it builds without TensorRT",
        )


def _prefix(config: tuple[str, ...], name: str) -> str | None:
    """What stands before a variable in a config, `--repo_env=`; a later flag with the same takes its place."""
    found = next((flag for flag in config if name in flag), None)
    return found.partition(name)[0].replace(" ", "=") if found else None


def _repositories(packages: CudaPackages, nvidia: str, *, compat: bool) -> tuple[AptRepository, ...]:
    """NVIDIA's apt repositories, as far as something is taken from them."""
    cuda = f"cuda/repos/{nvidia}/x86_64"
    learning = f"machine-learning/repos/{packages.machine_learning or nvidia}/x86_64"
    repositories = (
        ("nvidia-cuda", cuda, "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
        ("nvidia-machine-learning", learning, "7fa2af80.pub", "AE09FE4BBD223A84B2CCFCE3F60F4B3D7FA2AF80"),
    )
    return tuple(
        AptRepository(name=name, url=f"{_NVIDIA}/{path}", key=key, fingerprint=fingerprint)
        for name, path, key, fingerprint in repositories[: 2 if packages.packages else int(compat)]
    )
