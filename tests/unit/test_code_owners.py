from __future__ import annotations

import pytest

from serving_factory.catalogue.data import read_yaml
from serving_factory.inspection.owners import Owner, code_owners, plain_name


@pytest.mark.parametrize(
    "symbol",
    [
        *("_ZN10tensorflow6OpBase7ComputeEPNS_15OpKernelContextE", "_ZNK10tensorflow5Shape4dimsEv"),
        *("_ZN10tensorflow7serving10ServerCore6CreateEv", "_ZN5Eigen8internal11gebp_kernelIffEclEv"),
        *("_ZNVKR3tsl6Status2okEv", "_ZN10tensorflow12_GLOBAL__N_16helperEv", "_ZZN10tensorflow3RunEvENKUlvE_clEv"),
        *("_ZZZN10tensorflow3RunEvENKUlvE_clEvENKUliE_clEi", "_ZThn16_N10tensorflow6DeviceD1Ev"),
        *("_ZTv0_n24_N10tensorflow6StreamD0Ev", "_ZGVZN10tensorflow3getEvE1x", "_ZlsRSoRKN10tensorflow5ShapeE"),
        "_ZNSt6vectorIN10tensorflow6TensorESaIS1_EE9push_backERKS1_",
        "_ZNSt17_Function_handlerIFvvEZN10tensorflow3RunEvEUlvE_E9_M_invokeERKSt9_Any_data",
        "_ZSt4sortIPN10tensorflow6TensorEEvT_S3_",
        "_ZN4absl12lts_2023080219functional_internal12InvokeObjectIZN10tensorflow1fEvEUlvE_vJEEET0_v",
        *("_ZN10tensorflow4dnnlEv", "_GLOBAL__sub_I_main.cc", "_GLOBAL__sub_I__ZN4dnnl4impl1xE"),
        *("_Z41__static_initialization_and_destruction_0ii", "_ZL41__static_initialization_and_destruction_0v"),
        *("main", "main.cold", "_start", "TF_NewTensor", "TfLiteTensorFree"),
        *("_ZN6tflite12tensor_utils10SseReduceEv", "_ZN10tensorflow6crc32c6ExtendEjPKcm"),
        *("_ZN10tensorflow6crc32c18AcceleratedExtend2Ev", "_ZZ4mainENKUlvE_clEv"),
    ],
)
def test_own(symbol: str) -> None:
    assert code_owners().owner(symbol) is Owner.OWN


@pytest.mark.parametrize(
    "symbol",
    [
        "_ZN4dnnl4impl3cpu6kernelEv",
        "_ZN6mkldnn4impl3cpu6kernelEv",
        "dnnl_sgemm",
        "xnn_f32_gemm_ukernel_6x16__fma3_broadcast",
        "aesni_gcm_encrypt",
        "bn_mulx4x_mont",
        "ecp_nistz256_avx2_select_w7",
        "ChaCha20_ctr32_avx2",
        "sha256_block_data_order_avx2",
        "_ZN3ruy16KernelFloatAvx2Ev",
        "_ZN11highwayhash4AVX24hashEv",
        "jsimd_idct_islow_avx2",
        "_ZN4absl12lts_2023080212crc_internal6ExtendEv",
        "s_crc32c_sse42_clmul_1024",
        "_ZN10tensorflow6crc32c17AcceleratedExtendEjPKcm",
        "_ZN3tsl6crc32c17AcceleratedExtendEjPKcm.part.0",
        "_ZN3tsl6crc32cL17AcceleratedExtendEjPKcm",
        # The compiler's own choice by CPU is safe, in whatever code.
        "_ZN10tensorflow5multiEPii.avx2",
        "_ZN10tensorflow5multiEPii.arch_haswell.1",
    ],
)
def test_dispatch_owned(symbol: str) -> None:
    assert code_owners().owner(symbol) is Owner.DISPATCH


@pytest.mark.parametrize(
    "symbol",
    [
        *("_ZN6google8protobuf7Message5ClearEv", "_ZNSt6vectorIiSaIiEE9push_backERKi"),
        *("_ZN12_GLOBAL__N_16helperEv", "_ZN11tensorflowsEv", "_ZN15Eigen_something1fEv", "tensorflow"),
        *("mainframe", "deflate", "_Z", "_ZN", "", "?"),
    ],
)
def test_of_another(symbol: str) -> None:
    assert code_owners().owner(symbol) is Owner.OTHER


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN10tensorflow6OpBase7ComputeEPv", "tensorflow::OpBase::Compute"),
        ("_ZNK10tensorflow6OpBaseC2Ev", "tensorflow::OpBase"),
        ("_ZN10tensorflow12_GLOBAL__N_1L6helperEv", "tensorflow::(anonymous)::helper"),
        ("_ZN5Eigen8internal4gebpIffE3runEv", "Eigen::internal::gebp<…>"),
        ("_ZN10tensorflowlsERSo", "tensorflow::…"),
        ("_ZL6helperv", "helper"),
        ("_ZSt4sortIPiEvT_S1_", "_ZSt4sortIPiEvT_S1_"),
        ("aesni_encrypt", "aesni_encrypt"),
        ("_Z99short", "short"),
        ("_Z", "_Z"),
    ],
)
def test_plain_name(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name


def test_every_rule_has_a_reason() -> None:
    data = read_yaml("dispatch_owned.yaml")
    assert all(entry["reason"] and entry["project"] for entry in data["dispatch_owned"])
    assert all(reason for group in data["own"].values() for reason in group.values())


@pytest.mark.parametrize(
    ("symbol", "zone"),
    [
        ("_ZN10tensorflow6crc32c6ExtendEjPKcm", "tensorflow::crc32c"),
        ("_ZN3tsl6crc32cL6helperEv", "tsl::crc32c"),
        ("_ZZN3tsl6crc32c6ExtendEjRKN4absl4CordEENKUlvE_clEv", "tsl::crc32c"),
        ("_ZN10tensorflow7crc32cxEv", ""),
        ("_ZN10tensorflow6crc32", ""),
        ("_ZN10tensorflow3RunEv", ""),
        ("main", ""),
    ],
)
def test_namespaces_with_flags_of_their_own(symbol: str, zone: str) -> None:
    assert code_owners().zone(symbol) == zone
