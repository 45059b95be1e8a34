"""extract: read all that is worth knowing from the binary itself, and put it where a user looks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.libraries import opening_functions
from serving_factory.inspection.facts import DeviceCode, ElfFacts, InstructionSetFacts
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.stages.compile import BINARY, COMPILE, DEBUG

_VERSION_LINES = ("TensorFlow ModelServer: ", "TensorFlow Library: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted(Outputs):
    """What a binary says of itself."""

    sha256: str  # of the stripped binary
    size: int  # bytes
    build_id: str | None  # the linker's, hex; None where it wrote none
    version: tuple[str, ...]  # what the server prints with `--version`; `version_exit` the exit code
    version_exit: int
    bazel: str  # Bazel's version, as it says itself; `compiler` the compiler's, `glibc` the C library's
    compiler: str
    glibc: str
    distribution: str  # the name of the devel image's distribution
    libraries: tuple[str, ...]  # what ldd prints
    packages: tuple[str, ...]  # those that the libraries come from, with their versions
    elf: ElfFacts  # its headers
    instructions: InstructionSetFacts  # what its code asks of a CPU
    device_code: DeviceCode  # what it has for GPUs
    opened: tuple[str, ...]  # which of CUDA's libraries it opens while it runs: `cudart`

    def summary(self) -> Mapping[str, object]:
        """The binary's size in bytes."""
        return {"binary_size": self.size}


def _inputs(job: Job) -> Mapping[str, object]:
    compiled = job.record(COMPILE).outputs
    return {"binary": compiled.binary_sha256, "debug": compiled.debug_sha256, "facts": compiled.facts}


def _run(job: Job, progress: Progress) -> Extracted:
    # Their libraries are slow to import: only a run that reads a binary waits for them.
    from serving_factory.inspection.device_code import read_device_code, read_opened
    from serving_factory.inspection.elf import read_elf
    from serving_factory.inspection.instruction_set import scan

    facts = job.record(COMPILE).outputs.facts
    binary, debug = _link(job, BINARY), _link(job, DEBUG)
    progress("reading the ELF headers")
    read = read_elf(binary)
    elf = read.facts
    progress(f"disassembling {elf.size / 2**20:.0f} MiB")
    instructions = scan(read, debug)
    job.site.memory.digest(job.artifact)  # the links changed its files' metadata: the next run need not read them
    return Extracted(
        sha256=file_digest(binary),
        size=elf.size,
        build_id=elf.build_id,
        version=tuple(version_lines(facts["version"])),
        version_exit=int(facts["version.exit"]),
        bazel=facts["bazel"],
        compiler=facts["compiler"],
        glibc=facts["glibc"],
        distribution=facts["os-release"],
        libraries=tuple(facts["ldd"].splitlines()),
        packages=tuple(facts["packages"].splitlines()),
        elf=elf,
        instructions=instructions,
        device_code=read_device_code(binary),
        opened=read_opened(binary, opening_functions()),
    )


def version_lines(printed: str) -> list[str]:
    """Pick what `--version` says out of what the server printed; where it says nothing of the kind, the last line."""
    # Libraries may print lines when they are loaded. Servers that know no `--version` print their usage instead.
    lines = printed.splitlines()
    if found := [line for line in lines if line.startswith(_VERSION_LINES)]:
        return found
    return [] if any(line.lower().startswith("usage: ") for line in lines) else lines[-1:]


def server_version(lines: Sequence[str]) -> str:
    """The version among `version_lines` that the server reports of itself; empty where it knows no `--version`."""
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(_VERSION_LINES[0])), "")


def _link(job: Job, name: str) -> Path:
    """Link a file of the artifact to the variant's folder: one file, two names."""
    place = job.folder / name
    place.unlink(missing_ok=True)
    place.hardlink_to(job.artifact / name)
    return place


def _intact(job: Job, outputs: Extracted) -> bool:
    """The artifact's own file was looked at by compile; in a copy of the folder there are two."""
    place = job.folder / BINARY
    if not place.is_file():
        return False
    return place.samefile(job.artifact / BINARY) or file_digest(place) == outputs.sha256


EXTRACT = Stage(
    name="extract",
    version=5,
    outputs=Extracted,
    inputs=_inputs,
    run=_run,
    product="binary",
    needs=(COMPILE,),
    data=("dispatch_owned.yaml", "upstream_flags.yaml", "opened_libraries.yaml"),
    intact=_intact,
)
