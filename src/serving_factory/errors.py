"""Every error that a user can meet: what happened, why, what to do, and an exit code of its own.

By the exit code a script distinguishes a broken compiler from a registry that is down. None of these shows a traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar


class FactoryError(Exception):
    """Any other error that the user can act on: a file that cannot be used, output that could not be written.

    Args:
        what: one sentence: what happened, with the names and values concerned.
        why: the evidence: a rule, the last lines of the right log. May span lines.
        remedy: one thing to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init_subclass__(cls, *, code: int) -> None:
        cls.exit_code = code

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        remedy = f"What to do: {self.remedy}" if self.remedy else ""
        return "\n".join(part for part in (self.what, self.why, remedy) if part)


class UsageError(FactoryError, code=2):
    """An unknown task or option, a value that an option does not take, or options that do not fit together."""


class MatrixError(FactoryError, code=3):
    """The matrix file cannot be used; the message holds every problem at once."""


class UnknownNameError(FactoryError, code=4):
    """No variant, target or release of that name."""


class DriftError(FactoryError, code=5):
    """Generated files differ from what the data gives."""


class NotBuiltError(FactoryError, code=6):
    """A stage cannot run, or no image can be named: the stage before has no valid record."""


class RecipeError(FactoryError, code=7):
    """A variant is valid, but the matrix and the catalogue give no recipe for it."""


class UpstreamDiffersError(FactoryError, code=8):
    """A checkout of TensorFlow Serving is not what the catalogue says of its release."""


class CatalogueError(FactoryError, code=9):
    """The catalogue's own data is invalid: a fact is missing from an entry, or is unknown."""


class LockedError(FactoryError, code=10):
    """Another factory works in this checkout, or with this matrix file."""


class EngineUnavailableError(FactoryError, code=11):
    """The Docker engine is too old, or does not answer."""


class DiskFullError(FactoryError, code=12):
    """The engine's or this machine's disk is full."""


class EngineError(FactoryError, code=13):
    """The Docker engine answers and refuses: no such image, a container that cannot start, a port in use."""


class TimeLimitError(FactoryError, code=14):
    """A time limit was reached."""


class BazelTooOldError(FactoryError, code=15):
    """The chosen Bazel is older than the oldest that the release accepts."""


class FetchError(FactoryError, code=16):
    """A download of the build failed: the network or the server failed until the retries were used up."""


class ChecksumError(FactoryError, code=17):
    """A download does not match its checksum; it is not retried."""


class OutOfMemoryError(FactoryError, code=18):
    """The engine's machine had too little memory for the build, even with half the jobs."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", jobs: int = 0) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.jobs = jobs  # compilers that ran at once; 0 where it was no compiler that ran out of it


class CacheCorruptError(FactoryError, code=19):
    """One of Bazel's caches is damaged, and dropping it failed or did not help."""

    def __init__(self, what: str, *, cache: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.cache = cache


class CompileError(FactoryError, code=20):
    """The Bazel build, or the devel image around it, failed."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", shared: bool = False) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.shared = shared  # whether every other level of the same toolchain and sources fails in the same way


class ArtifactError(FactoryError, code=21):
    """The build's output is incomplete: a file is missing, or is not an ELF binary."""


class InspectionError(FactoryError, code=22):
    """The binary is not what the variant requires."""


class LibraryMissingError(FactoryError, code=23):
    """The binary is linked to a library, or opens one while it runs, that the runtime image does not have."""


class PackageError(FactoryError, code=24):
    """The runtime image could not be built."""


class EngineLostError(EngineUnavailableError, code=25):
    """The Docker engine stopped during a stage, and did not come back in time or stopped again."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", gone: bool = False) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.gone = gone  # whether the wait for it timed out


class DockerCommandError(EngineUnavailableError, code=26):
    """The docker command, or its plugin buildx, is missing or too old."""


class DockerSettingsError(DockerCommandError, code=28):
    """Docker's own settings cannot be used: its variables, TLS files, config.json or its folder."""


class ProgramMissingError(CompileError, code=27):
    """A build rule calls a program that the toolchain does not have."""


class ModelError(FactoryError, code=29):
    """A SavedModel cannot be embedded: it is incomplete, or needs an op that the server does not have."""


class SmokeError(FactoryError, code=30):
    """The image failed a check of its own contract."""


class ServerNotReadyError(FactoryError, code=31):
    """The server in the image did not become ready in time."""


class WrongAnswerError(FactoryError, code=32):
    """The server answered, and the answer is wrong."""


class ServerStopError(FactoryError, code=33):
    """The container did not stop in time when asked to."""


class CpuLevelError(FactoryError, code=34):
    """The image, or every chosen one, is for a higher CPU level than that of this machine."""


class GpuMissingError(FactoryError, code=35):
    """A GPU is required, and none can be given to the server."""


class GpuDriverError(FactoryError, code=36):
    """The NVIDIA driver is too old for the image's CUDA."""


class GpuUnusedError(FactoryError, code=37):
    """The server was given a GPU, and did not compute on it."""


class LevelDiffersError(FactoryError, code=38):
    """On an emulated CPU of its level the server died, or it ran on one of the level below."""


class EmulatorMissingError(FactoryError, code=39):
    """An emulated CPU is required, and this machine has no qemu that emulates it."""


class RegistryError(FactoryError, code=40):
    """The registry answered with an error that neither a retry nor other credentials would change."""


class RegistryUnreachableError(FactoryError, code=41):
    """Nothing answers at the registry's address."""


class RegistryDeniedError(FactoryError, code=42):
    """The registry refused the credentials."""


class RegistryFaultError(FactoryError, code=43):
    """The registry kept failing (5xx, cut connections, no progress) until the retries were used up."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.retry_after = retry_after  # seconds to wait, as the registry says; None if it does not


class RegistryLimitError(RegistryFaultError, code=44):
    """The registry's rate limit (429) was still exceeded after the retries."""


class DownloadError(FactoryError, code=45):
    """A file could not be downloaded, or is not the expected one."""


class DownloadFaultError(DownloadError, code=46):
    """A file server kept failing (5xx, 429, cut connections) until the retries were used up."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.retry_after = retry_after  # seconds to wait, as the server says; None if it does not


class TagTakenError(FactoryError, code=47):
    """The registry holds another image under a full tag, which names one image for ever."""


class IndexIncompleteError(FactoryError, code=48):
    """An index would not have all images that the matrix file puts into it."""


class IndexContestedError(FactoryError, code=49):
    """Others kept changing an index in the registry while it was published."""


class HistoryError(FactoryError, code=50):
    """The history of earlier runs cannot be read."""


class MachineUnfitError(FactoryError, code=51):
    """`doctor` found something that would make a build fail."""


class CacheFileError(FactoryError, code=52):
    """A file of exported caches is missing, damaged or of another format."""


class LoadError(FactoryError, code=53):
    """A server under load gave no usable answer."""


class LevelSlowerError(FactoryError, code=54):
    """A CPU level answers certainly fewer requests than `bench --gate` allows, against the level below."""


class GitError(FactoryError, code=60):
    """A git mirror does not have the requested commit or file, or cannot be read."""


class PinnedDiffersError(FactoryError, code=61):
    """An archive was made, and does not match its pin."""


class MissingInputsError(FactoryError, code=62):
    """A preflight found that inputs of a build are missing."""


class OverrideError(FactoryError, code=63):
    """A folder that takes an external repository's place cannot be made: sources, patch or BUILD file do not fit."""


class LockFileError(FactoryError, code=70):
    """The lock file cannot be used; the message holds every problem at once."""


class NotLockedError(FactoryError, code=71):
    """A base image or a Bazel that a build starts from is not in the lock file."""


class MovedError(FactoryError, code=72):
    """Upstream, a locked name now stands for something else."""


class VanishedError(FactoryError, code=73):
    """A tag or a file that builds start from is missing upstream."""


class OutdatedError(FactoryError, code=74):
    """Images hold packages that their distribution has in higher versions."""


class SigningKeyError(FactoryError, code=80):
    """A key file, or what signs with it, cannot be used: no such file, a wrong password, no key in it, no libraries."""


class SigningCommandError(FactoryError, code=81):
    """The command that signs failed, or left no signature that counts; or the one that checks could not run."""


class SignatureError(FactoryError, code=82):
    """What a registry holds has no signature, or none of the given key."""


class ImageDiffersError(FactoryError, code=83):
    """An image in a registry is not what its manifest, its labels or the lock file say."""


class ProofError(FactoryError, code=84):
    """An SBOM or a provenance is missing, damaged, not signed, or about another image."""


class CancelledError(FactoryError, code=130):
    """Ctrl-C or SIGTERM."""


def os_error(error: OSError) -> FactoryError:
    """Describe an error of the system's, with the remedy that its errno calls for."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        full = "This machine's disk is full." if error.errno == errno.ENOSPC else "This user's disk quota is used up."
        return DiskFullError(full, why=str(error), remedy=os_remedy(error))
    if error.errno is None:  # a library's own, such as a time-out
        return FactoryError(str(error) or type(error).__name__, remedy=os_remedy(error))
    if error.errno == errno.ENOENT and error.filename is None:
        return FactoryError("The current folder does not exist any more.", remedy=os_remedy(error))
    what = "A file cannot be used" if error.filename is None else f"{_shown(error.filename)} cannot be used"
    return FactoryError(what, why=str(error.strerror), remedy=os_remedy(error))


def os_remedy(error: OSError) -> str:
    """Say what to do about an error of the system's."""
    if error.errno == errno.ENOENT and error.filename is None:
        return "change to a folder that exists: cd"
    file = "the file" if error.filename is None else _shown(error.filename)
    return _REMEDIES.get(error.errno or 0, _OTHER_REMEDY).format(file=file)


def _shown(file: object) -> str:
    return file.decode("utf-8", "surrogateescape") if isinstance(file, bytes) else str(file)


@contextmanager
def os_errors_typed() -> Iterator[None]:
    """Turn the system's errors into the factory's, a full disk into a DiskFullError."""
    try:
        yield
    except OSError as error:
        raise os_error(error) from error


@contextmanager
def cleaned_up(clean_up: Callable[[], object]) -> Iterator[None]:
    """Call `clean_up` however the block ends; after an error of the block, what went wrong there is what counts."""
    try:
        yield
    except BaseException:
        with suppress(FactoryError):
            clean_up()
        raise
    clean_up()


_FREE = "free some space, then run the same command again: finished stages are kept"
_PERMIT = "give this user access to {file}, or run this as its owner: `ls -ld` shows owner and permissions"
_LIMIT = "raise the limit of open files, then run the same command again: ulimit -n 4096"
_DEVICE = "check the device that holds {file} (`dmesg`), then run the same command again"
_MOVE = "move that file away: {file}; then run the same command again"
_OTHER_REMEDY = "correct this, then run the same command again"
_REMEDIES = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EROFS: "{file} is on a read-only file system: mount it writable, or use a checkout on another one",
    errno.ENAMETOOLONG: "use a shorter name, or a checkout in a folder with a shorter path",
    errno.ENOENT: "create {file}, or correct its name",
    errno.ENOTDIR: "a part of this path is a file, not a folder: correct the path, or move that file away",
    errno.EISDIR: "{file} is a folder where a file belongs: name another file, or move that folder away",
    errno.ELOOP: "remove the symbolic links that lead to each other in {file}",
    errno.EMFILE: _LIMIT,
    errno.ENFILE: _LIMIT,
    errno.ENOMEM: "free some memory, then run the same command again",
    errno.EIO: _DEVICE,
    errno.ESTALE: _DEVICE,
    errno.EEXIST: _MOVE,
    errno.ENOTEMPTY: _MOVE,
    errno.EBUSY: "end the program that uses {file}, then run the same command again",
}
