from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from serving_factory.errors import ArtifactError
from serving_factory.inspection.elf import BINARY, MissingLibrary, library_closure_gaps, read_elf
from serving_factory.inspection.facts import ElfKind, Relro

from .elf_files import AARCH64, CORE, DYN, EXEC, I386, RELOCATABLE, Elf

PIE_FLAG = 0x08000000
NOW_FLAG = 0x1


def extension_module(name: str) -> Path:
    """A shared library that the environment has anyway: made by real compilers and linkers."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def test_a_program_reports_all_its_facts(tmp_path: Path) -> None:
    path = Elf(
        needed=("libc.so.6", "libstdc++.so.6"),
        runpath="$ORIGIN/../lib",
        interpreter="/lib64/ld-linux-x86-64.so.2",
        versions={
            "libc.so.6": ("GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.4", "GLIBC_PRIVATE"),
            "libstdc++.so.6": ("GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "CXXABI_1.3", "CXXABI_1.3.13"),
        },
        build_id=bytes.fromhex("00ff10"),
        isa_needed=0b101,
        relro=True,
        flags_1=PIE_FLAG | NOW_FLAG,
    ).write(tmp_path / "server")

    facts = read_elf(path).facts

    assert facts.machine == "x86-64"
    assert facts.kind is ElfKind.PIE
    assert facts.build_id == "00ff10"
    assert facts.needed == ("libc.so.6", "libstdc++.so.6")
    assert facts.runpath == "$ORIGIN/../lib"
    assert facts.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert (facts.highest_glibc, facts.highest_glibcxx, facts.highest_cxxabi) == (
        "GLIBC_2.34",
        "GLIBCXX_3.4.30",
        "CXXABI_1.3.13",
    )
    assert facts.size == path.stat().st_size
    assert facts.stripped
    assert facts.isa_needed == "x86-64-v3"
    assert facts.relro is Relro.FULL


def test_what_is_absent_is_none(tmp_path: Path) -> None:
    facts = read_elf(Elf(kind=EXEC, symbols=[]).write(tmp_path / "static")).facts

    assert facts.kind is ElfKind.EXECUTABLE
    assert facts.build_id is None
    assert facts.needed == ()
    assert facts.runpath is None
    assert facts.interpreter is None
    assert facts.highest_glibc is None
    assert facts.isa_needed is None
    assert facts.relro is Relro.NONE
    assert not facts.stripped


@pytest.mark.parametrize(
    ("elf", "kind"),
    [
        (Elf(kind=EXEC), ElfKind.EXECUTABLE),
        (Elf(kind=DYN, interpreter="/lib/ld.so"), ElfKind.PIE),
        (Elf(kind=DYN, flags_1=PIE_FLAG), ElfKind.PIE),
        (Elf(kind=DYN), ElfKind.SHARED),
    ],
)
def test_kind(tmp_path: Path, elf: Elf, kind: ElfKind) -> None:
    assert read_elf(elf.write(tmp_path / "file")).facts.kind is kind


@pytest.mark.parametrize(("number", "name"), [(AARCH64, "aarch64"), (I386, "386")])
def test_machine(tmp_path: Path, number: int, name: str) -> None:
    assert read_elf(Elf(machine=number).write(tmp_path / "file")).facts.machine == name


def test_partial_relro(tmp_path: Path) -> None:
    assert read_elf(Elf(relro=True).write(tmp_path / "file")).facts.relro is Relro.PARTIAL


def test_packed_relocations_need_the_glibc_that_brought_them(tmp_path: Path) -> None:
    elf = Elf(needed=("libc.so.6",), versions={"libc.so.6": ("GLIBC_2.4", "GLIBC_ABI_DT_RELR")})
    assert read_elf(elf.write(tmp_path / "file")).facts.highest_glibc == "GLIBC_2.36"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(20)])
def test_no_elf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="server is no sound ELF file") as caught:
        read_elf(path)
    assert caught.value.remedy


def test_a_table_of_sections_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = Elf().write(tmp_path / "server")
    content = bytearray(path.read_bytes())
    content[40:48] = b"\xff" * 8  # e_shoff
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="server is no sound ELF file"):
        read_elf(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        read_elf(tmp_path / "server")


@pytest.mark.parametrize("kind", [RELOCATABLE, CORE])
def test_neither_program_nor_library_is_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ArtifactError, match="neither a program nor a shared library"):
        read_elf(Elf(kind=kind).write(tmp_path / "server"))


def test_a_file_cut_off_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    whole = Elf(
        needed=("libc.so.6",), versions={"libc.so.6": ("GLIBC_2.4",)}, build_id=b"1234", symbols=[], isa_needed=1
    ).write(tmp_path / "whole")
    content = whole.read_bytes()
    refused = 0
    for length in range(4, len(content), 37):
        path = tmp_path / "cut"
        path.write_bytes(content[:length])
        try:
            read_elf(path)
        except ArtifactError:
            refused += 1
    assert refused == len(range(4, len(content), 37))


@pytest.mark.parametrize("module", ["grpc._cython.cygrpc", "iced_x86._iced_x86_py"])
def test_real_shared_libraries(module: str) -> None:
    facts = read_elf(extension_module(module)).facts

    assert facts.kind is ElfKind.SHARED
    assert "libc.so.6" in facts.needed
    assert facts.interpreter is None
    assert facts.highest_glibc is not None
    assert facts.highest_glibc.startswith("GLIBC_2.")


def library(path: Path, *needed: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Elf(needed=needed).write(path)


def by_binary(*sonames: str) -> dict[str, str]:
    return dict.fromkeys(sonames, BINARY)


def test_no_gap_where_base_and_copies_hold_all(tmp_path: Path) -> None:
    library(tmp_path / "usr/lib/x86_64-linux-gnu/libgomp.so.1", "libc.so.6")
    assert library_closure_gaps(by_binary("libgomp.so.1", "libc.so.6"), tmp_path, frozenset({"libc.so.6"})) == ()


def test_gaps_name_who_needs_what(tmp_path: Path) -> None:
    library(tmp_path / "opt/cuda/lib64/libcudnn.so.8", "libcublas.so.12", "libc.so.6")
    library(tmp_path / "usr/lib/libnvinfer.so.8", "libcublas.so.12")

    gaps = library_closure_gaps(by_binary("libcudnn.so.8", "libgomp.so.1"), tmp_path, frozenset({"libc.so.6"}))

    assert gaps == (
        MissingLibrary("libcublas.so.12", ("/opt/cuda/lib64/libcudnn.so.8", "/usr/lib/libnvinfer.so.8")),
        MissingLibrary("libgomp.so.1", (BINARY,)),
    )


def test_what_is_opened_is_looked_for_like_what_is_linked(tmp_path: Path) -> None:
    library(tmp_path / "usr/lib/libcudart.so.13")
    gaps = library_closure_gaps({"libcudart.so.12": "the binary, which opens it"}, tmp_path, frozenset())
    assert gaps == (MissingLibrary("libcudart.so.12", ("the binary, which opens it",)),)


def test_links_count_where_the_container_can_follow_them(tmp_path: Path) -> None:
    library(tmp_path / "usr/lib/libz.so.1.2.11")
    (tmp_path / "usr/lib/libz.so.1").symlink_to("libz.so.1.2.11")
    (tmp_path / "usr/lib/libabsolute.so.1").symlink_to("/usr/lib/libz.so.1")
    assert library_closure_gaps(by_binary("libz.so.1", "libabsolute.so.1"), tmp_path, frozenset()) == ()


def test_links_to_nowhere_out_and_round_do_not_count(tmp_path: Path) -> None:
    root = tmp_path / "root"
    library(tmp_path / "outside.so")
    (root / "lib").mkdir(parents=True)
    (root / "lib/libdangling.so.1").symlink_to("libgone.so.1.0")
    (root / "lib/libout.so.1").symlink_to("../../outside.so")
    (root / "lib/libround.so.1").symlink_to("libround.so.1")
    required = ("libdangling.so.1", "libout.so.1", "libround.so.1")
    assert [gap.soname for gap in library_closure_gaps(by_binary(*required), root, frozenset())] == list(required)


def test_only_library_folders_and_elf_files_count(tmp_path: Path) -> None:
    library(tmp_path / "srv/liba.so.1")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libb.so.1").write_text("INPUT(libb.so.2)\n")
    gaps = library_closure_gaps(by_binary("liba.so.1", "libb.so.1"), tmp_path, frozenset())
    assert [gap.soname for gap in gaps] == ["liba.so.1", "libb.so.1"]


def test_the_drivers_libraries_are_the_machines(tmp_path: Path) -> None:
    library(tmp_path / "usr/lib/libcudart.so.9.0", "libnvidia-ml.so.1")
    assert library_closure_gaps(by_binary("libcuda.so.1", "libcudart.so.9.0"), tmp_path, frozenset()) == ()
    gaps = library_closure_gaps(by_binary("libcudadevrt.so.1"), tmp_path, frozenset())
    assert [gap.soname for gap in gaps] == ["libcudadevrt.so.1"]


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libc.so.6").write_bytes(b"\x7fELF\x02\x01")
    with pytest.raises(ArtifactError, match=r"libc\.so\.6"):
        library_closure_gaps({}, tmp_path, frozenset())
