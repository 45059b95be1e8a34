from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path

import pytest
from iced_x86 import Decoder

from serving_factory.catalogue.levels import allowed_features
from serving_factory.errors import ArtifactError, InspectionError
from serving_factory.inspection import instruction_set
from serving_factory.inspection.elf import read_elf
from serving_factory.inspection.instruction_set import FEATURES, NAMELESS, scan

from .elf_files import AARCH64, NOTYPE, Elf, Symbol

RET = bytes.fromhex("c3")
ADDPS = bytes.fromhex("0f58c1")
POPCNT = bytes.fromhex("f30fb8c1")
VADDPS_YMM = bytes.fromhex("c5f458c2")
VFMADD213PS = bytes.fromhex("c4e271a8c2")
VADDPS_ZMM = bytes.fromhex("62f1744858c2")

# (text as iced-x86 spells it, bytes, features)
EVIDENCE = [
    ("addps xmm0,xmm1", "0f58c1", set()),
    ("haddps xmm0,xmm1", "f20f7cc1", {"sse3"}),
    ("fisttp dword ptr [rax]", "db08", {"sse3"}),
    ("pshufb xmm0,xmm1", "660f3800c1", {"ssse3"}),
    ("pminsd xmm0,xmm1", "660f3839c1", {"sse4.1"}),
    ("crc32 eax,ecx", "f20f38f1c1", {"sse4.2"}),
    ("popcnt eax,ecx", "f30fb8c1", {"popcnt"}),
    ("cmpxchg16b [rax]", "480fc708", {"cx16"}),
    ("vaddps ymm0,ymm1,ymm2", "c5f458c2", {"avx"}),
    ("vzeroupper", "c5f877", {"avx"}),
    ("vbroadcastss xmm0,dword ptr [rax]", "c4e2791800", {"avx"}),
    ("vbroadcastss xmm0,xmm0", "c4e27918c0", {"avx2"}),
    ("vpaddd ymm0,ymm1,ymm2", "c5f5fec2", {"avx2"}),
    ("vfmadd213ps xmm0,xmm1,xmm2", "c4e271a8c2", {"fma"}),
    ("vcvtph2ps xmm0,xmm1", "c4e27913c1", {"f16c"}),
    ("andn eax,eax,ecx", "c4e278f2c1", {"bmi1"}),
    ("rorx eax,ecx,5", "c4e37bf0c105", {"bmi2"}),
    ("lzcnt eax,ecx", "f30fbdc1", {"lzcnt"}),
    ("movbe eax,[rax]", "0f38f000", {"movbe"}),
    ("vaddps zmm0,zmm1,zmm2", "62f1744858c2", {"avx512f"}),
    ("vmovdqu8 zmm0,zmm1", "62f17f486fc1", {"avx512bw"}),
    ("vaddps ymm16,ymm1,ymm2", "62e1742858c2", {"avx512f", "avx512vl"}),
    ("aesenc xmm0,xmm1", "660f38dcc1", {"aes"}),
]
HARMLESS = [
    ("tzcnt eax,ecx", "f30fbcc1"),
    ("pause", "f390"),
    ("endbr64", "f30f1efa"),
    ("cpuid", "0fa2"),
    ("xgetbv", "0f01d0"),
    ("rdtscp", "0f01f9"),
    ("prefetchw [rax]", "0f0d08"),
    ("rdrand eax", "0fc7f0"),
]


def functions(*parts: tuple[str, bytes]) -> Elf:
    """Lay named pieces of code one after the other."""
    text, symbols = b"", []
    for name, code in parts:
        symbols.append(Symbol(name=name, offset=len(text), size=len(code)))
        text += code
    return Elf(text=text, symbols=symbols)


@pytest.mark.parametrize(("text", "code", "features"), [*EVIDENCE, *((t, c, set()) for t, c in HARMLESS)])
def test_features_of_an_instruction(tmp_path: Path, text: str, code: str, features: set[str]) -> None:
    (instruction,) = Decoder(64, bytes.fromhex(code))
    assert str(instruction) == text

    facts = scan(read_elf(functions(("f", bytes.fromhex(code) + RET)).write(tmp_path / "server")), None)

    assert facts.by_feature == dict.fromkeys(features, 1)


def test_every_feature_of_a_level_can_be_counted() -> None:
    in_legacy_code_only = {"lahf"}
    assert frozenset().union(*allowed_features().values()) - in_legacy_code_only <= set(FEATURES)


def test_functions_are_counted_by_owner(tmp_path: Path) -> None:
    binary = functions(
        ("_ZN10tensorflow6MatMul3RunEv", VADDPS_YMM + VADDPS_YMM + RET),
        ("_ZN5Eigen8internal4gebpEv", VFMADD213PS + RET),
        ("_ZN4dnnl4impl6kernelEv", VADDPS_ZMM + RET),
        ("strange", POPCNT + RET),
        ("main", ADDPS + RET),
    ).write(tmp_path / "server")

    facts = scan(read_elf(binary), None)

    assert facts.named
    assert (facts.functions, facts.own_functions) == (5, 3)
    assert facts.by_feature == {"avx": 1, "avx512f": 1, "fma": 1, "popcnt": 1}
    assert facts.own == {"avx": 1, "fma": 1}
    assert facts.dispatch_owned == {"avx512f": 1}
    assert facts.own_examples == {"avx": ("tensorflow::MatMul::Run",), "fma": ("Eigen::internal::gebp",)}
    assert facts.examples["avx512f"] == ("dnnl::impl::kernel",)
    assert facts.scanned_bytes == facts.code_bytes


def test_examples_are_the_first_few(tmp_path: Path) -> None:
    parts = [(f"_ZN10tensorflow2f{number}Ev", VADDPS_YMM + RET) for number in range(9)]
    facts = scan(read_elf(functions(*parts).write(tmp_path / "server")), None)
    assert facts.own_examples["avx"] == tuple(f"tensorflow::f{number}" for number in range(5))


def test_two_names_of_one_function_count_once(tmp_path: Path) -> None:
    elf = Elf(
        text=POPCNT + RET,
        symbols=[
            Symbol(name="_ZN10tensorflow1AC1Ev", offset=0, size=5),
            Symbol(name="_ZN10tensorflow1AC2Ev", offset=0, size=5),
            Symbol(name="label", offset=0, size=0, kind=NOTYPE),
        ],
    )
    assert scan(read_elf(elf.write(tmp_path / "server")), None).by_feature == {"popcnt": 1}


def test_assembly_without_a_size_reaches_to_the_next_function(tmp_path: Path) -> None:
    elf = Elf(
        text=POPCNT + RET + VADDPS_YMM + RET,
        symbols=[
            Symbol(name="first", offset=0, size=0),
            Symbol(name="label", offset=2, size=0, kind=NOTYPE),
            Symbol(name="second", offset=5, size=0),
        ],
    )
    facts = scan(read_elf(elf.write(tmp_path / "server")), None)
    assert facts.functions == 2
    assert facts.examples == {"avx": ("second",), "popcnt": ("first",)}


def test_a_size_beyond_the_section_is_cut(tmp_path: Path) -> None:
    elf = Elf(text=RET, symbols=[Symbol(name="f", offset=0, size=1 << 40), Symbol(name="far", offset=1 << 40, size=1)])
    facts = scan(read_elf(elf.write(tmp_path / "server")), None)
    assert (facts.functions, facts.scanned_bytes) == (1, 1)


def test_without_symbols_a_section_is_one_nameless_function(tmp_path: Path) -> None:
    facts = scan(read_elf(Elf(text=VADDPS_YMM + RET).write(tmp_path / "server")), None)
    assert not facts.named
    assert (facts.functions, facts.own_functions) == (1, 0)
    assert facts.examples == {"avx": (NAMELESS,)}
    assert facts.own == {}


def test_names_come_from_the_debug_file_and_code_from_the_binary(tmp_path: Path) -> None:
    code = ("_ZN10tensorflow1fEv", VADDPS_YMM + RET)
    debug = functions(code)
    debug.build_id, debug.only_debug = b"same", True
    binary = Elf(text=code[1], build_id=b"same")

    facts = scan(read_elf(binary.write(tmp_path / "server")), debug.write(tmp_path / "server.debug"))

    assert facts.own_examples == {"avx": ("tensorflow::f",)}


def test_a_debug_file_of_another_build_is_refused(tmp_path: Path) -> None:
    binary = Elf(build_id=b"one").write(tmp_path / "server")
    debug = Elf(build_id=b"two", symbols=[], only_debug=True).write(tmp_path / "server.debug")
    with pytest.raises(ArtifactError, match="belongs to another binary"):
        scan(read_elf(binary), debug)


def test_code_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not 64-bit x86 code"):
        scan(read_elf(Elf(machine=AARCH64).write(tmp_path / "server")), None)


@pytest.fixture
def many_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A binary of 100 functions that is worth several processes."""
    monkeypatch.setattr(instruction_set, "_ALONE", 0)
    monkeypatch.setattr(instruction_set, "_CHUNK", 64)
    codes = [ADDPS + RET, POPCNT + RET, VADDPS_YMM + RET, VADDPS_ZMM + VFMADD213PS + RET]
    parts = [(f"_ZN10tensorflow3f{number:02}Ev", codes[number % 4]) for number in range(100)]
    return functions(*parts).write(tmp_path / "server")


def test_several_processes_find_what_one_finds(many_functions: Path) -> None:
    several = scan(read_elf(many_functions), None, workers=2)
    assert several == scan(read_elf(many_functions), None, workers=1)
    assert several.own == {"avx": 25, "avx512f": 25, "fma": 25, "popcnt": 25}


def test_a_killed_process_is_reported(many_functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DyingPool:
        def __init__(self, **_: object) -> None: ...
        def map(self, *_: object) -> list[bytes]:
            raise BrokenProcessPool

        def shutdown(self, *, cancel_futures: bool) -> None:
            assert cancel_futures

    monkeypatch.setattr(instruction_set, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(InspectionError, match="did not finish"):
        scan(read_elf(many_functions), None, workers=2)


def test_a_real_library_with_hand_written_kernels() -> None:
    spec = find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None

    facts = scan(read_elf(Path(spec.origin)), None, workers=1)

    # BoringSSL's assembly is in it, and no symbol.
    assert {"aes", "avx", "avx2", "bmi2", "ssse3"} <= facts.by_feature.keys()
    assert not facts.named
    assert facts.own == {}
