"""inspection/device_code.py, on fat binaries that the tests write and on one that nvcc wrote."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_factory.catalogue.libraries import opening_functions
from serving_factory.errors import ArtifactError
from serving_factory.inspection.device_code import not_named, read_device_code, read_opened
from serving_factory.inspection.facts import DeviceCode, sorted_codes

from .device_code_bytes import MAGIC, fat_binary
from .elf_files import Elf

# __global__ void k(float* a, const float* b), compiled by nvcc 13.0.88 for sm_80, sm_90a and compute_90
NVCC = (Path(__file__).parent / "recorded" / "nvcc-13.0.nv_fatbin").read_bytes()
NAMES = st.sampled_from(["sm_35", "sm_80", "sm_90", "sm_90a", "sm_100", "sm_100f", "compute_80", "compute_90"])


def read(folder: Path, **sections: bytes) -> DeviceCode:
    data = {name.replace("DOT", "."): held for name, held in sections.items()}
    return read_device_code(Elf(data=data).write(folder / "server"))


def test_what_nvcc_wrote(tmp_path: Path) -> None:
    assert read(tmp_path, DOTnv_fatbin=NVCC) == DeviceCode(
        fat_binaries={"sm_80 sm_90a compute_90": 1}, sizes={"compute_90": 328, "sm_80": 3240, "sm_90a": 3704}
    )


def test_a_binary_without_device_code(tmp_path: Path) -> None:
    found = read(tmp_path, DOTrodata=b"text")
    assert (found.fat_binaries, found.sizes, found.codes) == ({}, {}, ())


def test_fat_binaries_are_counted_by_what_they_hold(tmp_path: Path) -> None:
    whole, linked = fat_binary("sm_80", "sm_90", "compute_90"), fat_binary("sm_90", "sm_80")
    found = read(tmp_path, DOTnv_fatbin=whole + bytes(24) + linked + whole + bytes(8))
    assert found.fat_binaries == {"sm_80 sm_90": 1, "sm_80 sm_90 compute_90": 2}
    assert found.sizes == {"sm_80": 72, "sm_90": 72, "compute_90": 48}
    assert found.codes == ("sm_80", "sm_90", "compute_90")
    assert [found.holding(code) for code in ("sm_80", "compute_90", "sm_9")] == [3, 2, 0]
    assert found.throughout == found.codes


def test_machine_code_that_a_kernel_lacks_is_not_relied_on(tmp_path: Path) -> None:
    """The fat binaries of TensorFlow's own kernels have PTX alone for the highest capability."""
    found = read(
        tmp_path, DOTnv_fatbin=fat_binary("sm_80", "sm_90", "compute_90"), DOTrodata=fat_binary("sm_80", "compute_90")
    )
    assert found.codes == ("sm_80", "sm_90", "compute_90")
    assert found.throughout == ("sm_80", "compute_90")


def test_kernels_among_the_data_count_and_relocatable_code_does_not(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        DOTnv_fatbin=fat_binary("sm_80"),
        DOTrodata=b"abc"
        + fat_binary("compute_90")
        + MAGIC.to_bytes(4, "little")
        + b"no fat binary"
        + fat_binary("sm_70"),
        __nv_relfatbin=fat_binary("sm_60"),
    )
    assert found.fat_binaries == {"sm_80": 1, "compute_90": 1, "sm_70": 1}


def test_a_piece_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    """Kind 8 is what the compiler keeps for optimizing at link time."""
    made = bytearray(fat_binary("sm_80", "sm_90"))
    made[16] = 8
    assert read(tmp_path, DOTnv_fatbin=bytes(made)).codes == ("sm_90",)


def test_names_sort_by_kind_and_number() -> None:
    names = ["compute_90", "sm_100", "sm_90a", "sm_90", "sm_35", "compute_100", "compute_35"]
    assert sorted_codes(names) == ("sm_35", "sm_90", "sm_90a", "sm_100", "compute_35", "compute_90", "compute_100")


DAMAGED = {
    "no magic": (b"\x01" + fat_binary("sm_80"), "no fat binary begins at offset 0x"),
    "cut off in a header": (fat_binary("sm_80")[:10], "no fat binary begins"),
    "cut off in a piece": (fat_binary("sm_80")[:-1], "has a header that does not fit"),
    "too little for a piece": (fat_binary("sm_80")[:8] + (40).to_bytes(8, "little") + bytes(40), "is cut off"),
    "a piece too long": (fat_binary("sm_80")[:24] + b"\xff" * 8 + fat_binary("sm_80")[32:], "piece of device code at"),
    "no pieces": (fat_binary(), "has a header that does not fit"),
    "another version": (fat_binary("sm_80").replace(b"\x01\x00\x10\x00", b"\x07\x00\x10\x00"), "has a header"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_code_is_one_clear_error(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(ArtifactError, match=r"the device code of .*server is damaged") as caught:
        read(tmp_path, DOTnv_fatbin=content)
    assert why in caught.value.why


def test_a_section_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = Elf(data={".nv_fatbin": fat_binary("sm_80")}).write(tmp_path / "server")
    content = bytearray(path.read_bytes())
    table = int.from_bytes(content[40:48], "little") + 2 * 64  # the header of the third section
    content[table + 32 : table + 40] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        read_device_code(path)
    assert "beyond the end" in caught.value.why


def test_no_elf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server"
    for content in (b"", b"#!/bin/sh\n"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="no sound ELF file"):
            read_device_code(path)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=6, unique=True), max_size=6), st.integers(0, 80))
def test_what_is_written_is_read(fat_binaries: list[list[str]], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = b"".join(fat_binary(*codes, size=size * 8) for codes in fat_binaries)
        found = read(Path(folder), DOTnv_fatbin=content)
    assert sum(found.fat_binaries.values()) == len(fat_binaries)
    written = [code for codes in fat_binaries for code in codes]
    assert found.codes == sorted_codes(set(written))
    assert {code: found.holding(code) for code in found.codes} == {code: written.count(code) for code in written}
    assert sum(found.sizes.values()) == len(written) * size * 8


@given(st.integers(0, len(NVCC) - 1), st.binary(min_size=1, max_size=16), st.sampled_from([".nv_fatbin", ".rodata"]))
def test_broken_bytes_are_refused_or_read(at: int, other: bytes, section: str) -> None:
    content = NVCC[:at] + other + NVCC[at + len(other) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Elf(data={section: content}).write(Path(folder, "server"))
        try:
            found = read_device_code(path)
        except ArtifactError:
            assert section == ".nv_fatbin"
        else:
            assert sum(found.sizes.values()) <= len(content)


# --- libraries that are opened ----------------------------------------------------------------------------------------


def test_a_library_is_opened_where_the_data_names_its_function(tmp_path: Path) -> None:
    # Linkers put constants of 8 bytes right before a text.
    held = {".rodata": b"complex<cudaGetDeviceCount\0other\0", ".data.rel.ro": b"\0ncclGetVersion\0"}
    assert read_opened(Elf(data=held).write(tmp_path / "server"), opening_functions()) == ("cudart", "nccl")


def test_names_of_symbols_and_parts_of_texts_open_nothing(tmp_path: Path) -> None:
    held = {".rodata": b"cudaGetDeviceCountX\0 cudnnCreate", ".nv_fatbin": b"cufftCreate\0"}
    elf = Elf(text=b"cublasCreate_v2\0", needed=("cudnnCreate",), data=held)
    assert read_opened(elf.write(tmp_path / "server"), opening_functions()) == ()


def test_ops_that_the_data_does_not_name_are_found_and_linkers_merge_texts(tmp_path: Path) -> None:
    elf = Elf(text=b"Conv2D\0", data={".rodata": b"\0BiasAdd\0MatMulX\0"})
    names = ("Add", "BiasAdd", "MatMul", "Conv2D")
    assert not_named(elf.write(tmp_path / "server"), names) == ("MatMul", "Conv2D")
