"""What a failed build is told as. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from serving_factory.catalogue.host_programs import package_of
from serving_factory.engine.disk import FREE_SOME_SPACE
from serving_factory.errors import CacheCorruptError, CompileError, FactoryError
from serving_factory.line.failures import Failure, Kind
from serving_factory.line.schedule import Share

__all__ = ["NAME_CERTIFICATES", "count_jobs", "failure_error"]

NAME_CERTIFICATES = (
    "name a PEM file with the authority's certificate, in the environment, SERVING_FACTORY_CA_CERTIFICATES=FILE.pem, "
    "or in the matrix file, network: {ca_certificates: FILE.pem}"
)
"""What to do where something in between has a certificate of its own."""

_AGAIN = "run the same command again: what was compiled is kept in Bazel's disk cache"


def failure_error(failure: Failure, *, variant: str, step: str, tail: tuple[str, ...], share: Share) -> FactoryError:
    """Say what happened to a variant's build, why, and what to do.

    Args:
        failure: what was read from its log.
        variant: the variant's id.
        step: the step that failed, in a part of a line.
        tail: that step's last lines, for a failure whose own lines nobody knows.
        share: what the build could use.
    """
    details, why = failure.details, "\n".join(failure.lines or tail)
    if failure.kind is Kind.CACHE_CORRUPT:
        return CacheCorruptError(
            f"{variant}: Bazel cannot use its {details['cache']} cache",
            why=why,
            remedy="look at the disk of the engine's machine, then run the same command again; "
            "`./factory clean --caches` drops all of Bazel's caches",
            cache=details["cache"],
        )
    match failure.kind:
        case Kind.OUT_OF_MEMORY:
            planned = f"{count_jobs(share.jobs)} and {_gib(share.memory)} planned for it"
            what = f"the build ran out of memory in {step}, with {planned}{_measured(details)}"
            remedy = f"give the engine's machine more memory, or the build fewer jobs with --jobs; then {_AGAIN}"
        case Kind.DISK_FULL:
            what = f"the engine's disk is full: {step} could not write"
            remedy = f"{FREE_SOME_SPACE}; then {_AGAIN}"
        case Kind.CHECKSUM:
            what = f"what came from {details['door']} is not what its checksum says; nothing of it was used"
            why = f"expected sha256:{details['expected']}\nfound    sha256:{details['found']}"
            remedy = "find out who changed it, or what stands in between; another try gives the same"
        case Kind.FETCH:
            what = f"a download failed in {step}"
            remedy = (
                "see whether the network, a proxy or a mirror is down, and run the same command again; what this "
                "network never reaches gets another door at `network:` in the matrix file"
            )
        case Kind.UNTRUSTED:
            what, remedy = f"a download failed in {step}: a certificate is not trusted", NAME_CERTIFICATES
            return CompileError(f"{variant}: {what}", why=why, remedy=remedy, shared=failure.shared)
        case Kind.BAZEL_TOO_OLD:
            what = f"Bazel {details['found']} is too old: the sources want {details['minimum']} or later"
            remedy = "name a later one at `bazel: {version: ...}` in the matrix file"
        case Kind.PROGRAM_MISSING:
            what = f"a build rule calls {details['program']}, and the toolchain has no such program"
            package = package_of(details["program"]) or "THE PACKAGE THAT HAS IT"
            remedy = f"add its package in the matrix file, toolchain: {{packages: [{package}]}}; then {_AGAIN}"
        case _:
            remedy = "mend the cause and run the same command: what was compiled is kept in Bazel's disk cache"
            what = f"{variant}: the build failed in {step}"
            return CompileError(what, why=why, remedy=remedy, shared=failure.shared)
    return failure.error(f"{variant}: {what}", why=why, remedy=remedy)


def _measured(details: Mapping[str, str]) -> str:
    """What was measured of memory, in brackets; empty where nothing was."""
    told = []
    if "peak" in details:
        told.append(f"peak {_gib(int(details['peak']))}")
    if "limit" in details:
        told.append("no limit of its own" if details["limit"] == "max" else f"limit {_gib(int(details['limit']))}")
    if "kills" in details:
        kills = int(details["kills"])
        told.append("1 process killed" if kills == 1 else f"{kills or 'no'} processes killed")
    return f" ({', '.join(told)})" if told else ""


def count_jobs(number: int) -> str:
    """Say how many compilers run at once."""
    return "1 job" if number == 1 else f"{number} jobs"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
