"""What a gpu build has beyond any build: NVIDIA's packages and keys, capabilities, TensorRT."""

from __future__ import annotations

from dataclasses import dataclass

from serving_factory.catalogue.distributions import Distribution
from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.libraries import CudaPackages, TensorrtPackages, cuda_packages
from serving_factory.errors import RecipeError

_HOST = "https://developer.download.nvidia.com/compute"
_CAPABILITIES = "TF_CUDA_COMPUTE_CAPABILITIES="
_TENSORRT = "TF_NEED_TENSORRT="


@dataclass(frozen=True, slots=True, kw_only=True)
class AptRepository:
    """A flat apt repository of a vendor.

    Args:
        name: of its keyring here.
        url: where it is.
        key: the file with its key, below the URL.
        fingerprint: of that key, 40 hex digits.
    """

    name: str
    url: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBuild:
    """What a gpu build has beyond any build.

    Args:
        version: CUDA's, `12.2`.
        cuda: NVIDIA's packages, or what Bazel downloads in their place.
        repositories: where packages come from; empty where Bazel brings CUDA.
        capabilities: upstream's compute capabilities, joined by commas; empty where TensorFlow's default applies.
        capabilities_exported: whether cuda_configure reads them from the environment.
        flags: Bazel flags that hand on capabilities and TensorRT, where a config has them.
        environment: name and value of each variable.
        tensorrt: TensorRT; None where it is not compiled in.
        tensorrt_version: `8.6.1`; empty without.
        tensorrt_environment: whether TF_NEED_TENSORRT is read from the environment.
    """

    version: str
    cuda: CudaPackages
    repositories: tuple[AptRepository, ...]
    capabilities: str
    capabilities_exported: bool
    flags: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    tensorrt: TensorrtPackages | None
    tensorrt_version: str
    tensorrt_environment: bool


def gpu_build(release: Release, distribution: Distribution) -> GpuBuild:
    """Derive what a gpu build of a release has beyond any build.

    Raises:
        RecipeError: NVIDIA has no packages for the distribution.
    """
    gpu = release.flavours[Flavour.GPU].gpu
    packages = cuda_packages(release)
    if gpu is None or (packages.packages and distribution.nvidia is None):
        raise RecipeError(
            f"{release.tag}, gpu: NVIDIA has no packages of CUDA {gpu.cuda if gpu else ''} for {distribution.name}",
            why="this release is compiled with CUDA from NVIDIA's apt repositories",
            remedy="take one of Ubuntu's images at toolchain.base in the matrix file, or leave it out for upstream's",
        )
    config = release.configs.get(gpu.config, ())
    capabilities = _prefix(config, _CAPABILITIES)
    tensorrt_flag = _prefix(config, _TENSORRT) if gpu.tensorrt else None
    flags = [f"{capabilities}{_CAPABILITIES}${{CUDA_CAPABILITIES}}"] if capabilities else []
    flags += [f"{tensorrt_flag}{_TENSORRT}${{TENSORRT}}"] if tensorrt_flag else []
    tensorrt = packages.tensorrt if gpu.tensorrt else None
    return GpuBuild(
        version=gpu.cuda,
        cuda=packages,
        repositories=_repositories(packages, distribution.nvidia) if distribution.nvidia else (),
        capabilities=",".join(gpu.capabilities),
        capabilities_exported=capabilities is None,
        flags=tuple(flags),
        environment=tuple({**packages.environment, **(tensorrt.environment if tensorrt else {})}.items()),
        tensorrt=tensorrt,
        tensorrt_version=gpu.tensorrt or "",
        tensorrt_environment=tensorrt is not None and tensorrt_flag is None,
    )


def _prefix(config: tuple[str, ...], name: str) -> str | None:
    """What stands before a variable in a config, `--repo_env=`; a later flag with the same takes its place."""
    found = next((flag for flag in config if name in flag), None)
    return found.partition(name)[0].replace(" ", "=") if found else None


def _repositories(packages: CudaPackages, nvidia: str) -> tuple[AptRepository, ...]:
    if not packages.packages:
        return ()
    return (
        AptRepository(
            name="nvidia-cuda",
            url=f"{_HOST}/cuda/repos/{nvidia}/x86_64",
            key="3bf863cc.pub",
            fingerprint="EB693B3035CD5710E231E123A4B469963BF863CC",
        ),
        AptRepository(
            name="nvidia-machine-learning",
            url=f"{_HOST}/machine-learning/repos/{packages.machine_learning or nvidia}/x86_64",
            key="7fa2af80.pub",
            fingerprint="AE09FE4BBD223A84B2CCFCE3F60F4B3D7FA2AF80",
        ),
    )
