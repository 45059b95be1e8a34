"""Every error that a user can meet, on one page.

Each class says what happened; an instance adds why, and what to do about it. Each has an exit code of its own, so that
a nightly can tell a broken compiler from a registry that is down. Errors raised on purpose never show a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class FactoryError(Exception):
    """Something the user can act on.

    Args:
        what: one sentence, what happened, with the names and values concerned.
        why: the evidence: a rule, the last lines of the right log. May span lines.
        remedy: one thing to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(self.why)
        if self.remedy:
            parts.append(f"What to do: {self.remedy}")
        return "\n".join(parts)


class UsageError(FactoryError):
    """The options given do not fit together."""

    exit_code = 2


class MatrixError(FactoryError):
    """The matrix file cannot be used; the message holds every problem at once."""

    exit_code = 3


class UnknownNameError(FactoryError):
    """No variant, target or release of that name."""

    exit_code = 4


class DriftError(FactoryError):
    """Generated files differ from what the data gives."""

    exit_code = 5


class NotBuiltError(FactoryError):
    """A stage was asked for whose previous stage has no valid record."""

    exit_code = 6


class RecipeError(FactoryError):
    """A variant is valid, and cannot be built as the matrix and the catalogue have it."""

    exit_code = 7


class UpstreamDiffersError(FactoryError):
    """A checkout of TensorFlow Serving is not what the catalogue says of its release."""

    exit_code = 8


class CatalogueError(FactoryError):
    """The catalogue's own data makes no sense: an entry lacks a fact, or has one that nobody knows of."""

    exit_code = 9


class LockedError(FactoryError):
    """Another factory works in this checkout, or with this matrix file."""

    exit_code = 10


class EngineUnavailableError(FactoryError):
    """The Docker engine is too old, or does not answer."""

    exit_code = 11


class DiskFullError(FactoryError):
    """The engine's or this machine's disk is full."""

    exit_code = 12


class EngineError(FactoryError):
    """The Docker engine answers and refuses: no such image, a container that cannot start, a port in use."""

    exit_code = 13


class TimeLimitError(FactoryError):
    """A time limit that was given is over."""

    exit_code = 14


class BazelTooOldError(FactoryError):
    """The Bazel that is to build a release is older than the oldest that the release accepts."""

    exit_code = 15


class FetchError(FactoryError):
    """Something could not be downloaded: the network, or the other end, failed until the retries were used up."""

    exit_code = 16


class ChecksumError(FactoryError):
    """What was downloaded is not what its checksum says; nobody tries that again."""

    exit_code = 17


class OutOfMemoryError(FactoryError):
    """The engine's machine had too little memory for the build, with half the jobs too.

    Args:
        what, why, remedy: as FactoryError has them.
        jobs: compilers that ran at once; 0 where it was no compiler that ran out of it.
    """

    exit_code = 18

    def __init__(self, what: str, *, why: str = "", remedy: str = "", jobs: int = 0) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.jobs = jobs


class CacheCorruptError(FactoryError):
    """One of Bazel's caches is damaged, and so it was after it had been dropped, or it could not be dropped."""

    exit_code = 19

    def __init__(self, what: str, *, cache: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.cache = cache


class CompileError(FactoryError):
    """The Bazel build, or the devel image around it, failed.

    Args:
        what, why, remedy: as FactoryError has them.
        shared: whether every other level of the same toolchain and sources fails so, too.
    """

    exit_code = 20

    def __init__(self, what: str, *, why: str = "", remedy: str = "", shared: bool = False) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.shared = shared


class ArtifactError(FactoryError):
    """What the build gave is not what a build gives: a file is missing or is no ELF binary."""

    exit_code = 21


class InspectionError(FactoryError):
    """The binary is not what the variant asked for."""

    exit_code = 22


class LibraryMissingError(FactoryError):
    """The binary is linked to a library that the runtime image will not have."""

    exit_code = 23


class PackageError(FactoryError):
    """The runtime image could not be built."""

    exit_code = 24


class EngineLostError(EngineUnavailableError):
    """The Docker engine went away under a stage, and did not come back in time or went away again.

    Args:
        what, why, remedy: as FactoryError has them.
        gone: whether it was waited for in vain.
    """

    exit_code = 25

    def __init__(self, what: str, *, why: str = "", remedy: str = "", gone: bool = False) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.gone = gone


class DockerCommandError(EngineUnavailableError):
    """The docker command, or its plugin buildx, is missing or too old."""

    exit_code = 26


class DockerSettingsError(DockerCommandError):
    """Docker's own settings cannot be used: DOCKER_HOST, DOCKER_CONTEXT, TLS files, config.json or its folder."""

    exit_code = 28


class ProgramMissingError(CompileError):
    """A build rule calls a program that the toolchain lacks."""

    exit_code = 27


class SmokeError(FactoryError):
    """The image failed a check of its own contract."""

    exit_code = 30


class ServerNotReadyError(FactoryError):
    """The server in the image did not become ready in time."""

    exit_code = 31


class WrongAnswerError(FactoryError):
    """The server answered, and the answer is wrong."""

    exit_code = 32


class ServerStopError(FactoryError):
    """The container did not stop in time when asked to."""

    exit_code = 33


class CpuLevelError(FactoryError):
    """The image refuses this machine's CPU: it lacks what the image's level needs."""

    exit_code = 34


class RegistryError(FactoryError):
    """The registry answered in a way that is no fault of the network, the password or the moment."""

    exit_code = 40


class RegistryUnreachableError(FactoryError):
    """Nothing answers at the registry's address."""

    exit_code = 41


class RegistryDeniedError(FactoryError):
    """The registry wants other credentials."""

    exit_code = 42


class RegistryFaultError(FactoryError):
    """The registry kept failing (5xx, cut connections, no progress) until the retries were used up.

    Args:
        what, why, remedy: as FactoryError has them.
        retry_after: the seconds that the registry asks to wait, if it does.
    """

    exit_code = 43

    def __init__(self, what: str, *, why: str = "", remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.retry_after = retry_after


class RegistryLimitError(RegistryFaultError):
    """The registry's rate limit (429) was still used up after the retries."""

    exit_code = 44


class DownloadError(FactoryError):
    """A file could not be downloaded, or is not what it ought to be."""

    exit_code = 45


class DownloadFaultError(DownloadError):
    """A server of files kept failing (5xx, 429, cut connections) until the retries were used up.

    Args:
        what, why, remedy: as FactoryError has them.
        retry_after: the seconds that the server asks to wait, if it does.
    """

    exit_code = 46

    def __init__(self, what: str, *, why: str = "", remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.retry_after = retry_after


class TagTakenError(FactoryError):
    """The registry holds another image under a full tag, which names one image for ever."""

    exit_code = 47


class HistoryError(FactoryError):
    """The history of earlier runs cannot be read."""

    exit_code = 50


class MachineUnfitError(FactoryError):
    """`doctor` found something that makes a build fail."""

    exit_code = 51


class CacheFileError(FactoryError):
    """A file of exported caches cannot be used: it is damaged, of another format, or none."""

    exit_code = 52


class GitError(FactoryError):
    """A git mirror cannot give what is asked of it."""

    exit_code = 60


class PinnedDiffersError(FactoryError):
    """An archive came out, and is not the one that is pinned."""

    exit_code = 61


class MissingInputsError(FactoryError):
    """A preflight found that inputs of a build are missing."""

    exit_code = 62


class OverrideError(FactoryError):
    """A folder that takes an external repository's place cannot be made: sources, patch or BUILD file do not fit."""

    exit_code = 63


class LockFileError(FactoryError):
    """The lock file cannot be used; the message holds every problem at once."""

    exit_code = 70


class NotLockedError(FactoryError):
    """Something that builds start from is not in the lock file."""

    exit_code = 71


class MovedError(FactoryError):
    """What is locked is still there, and upstream the same name stands for something else by now."""

    exit_code = 72


class VanishedError(FactoryError):
    """A tag or a file that builds start from is not there upstream (any more)."""

    exit_code = 73


class CancelledError(FactoryError):
    """Ctrl-C or SIGTERM."""

    exit_code = 130
