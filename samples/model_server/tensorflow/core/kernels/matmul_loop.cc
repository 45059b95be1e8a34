// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include "tensorflow/core/kernels/kernels.h"

namespace tensorflow {
// Not inlined, so that a disassembly shows the work under its own name. Four rows of b at a time: a value of out is
// read and written once for eight floating-point operations.
__attribute__((noinline)) void MatMulRow(const float* __restrict a, const float* __restrict b, float* __restrict out,
                                         int64_t k, int64_t n, int64_t stride) {
  int64_t p = 0;
  for (; p + 4 <= k; p += 4) {
    const float a0 = a[p], a1 = a[p + 1], a2 = a[p + 2], a3 = a[p + 3];
    const float* __restrict b0 = b + p * stride;
    const float* __restrict b1 = b0 + stride;
    const float* __restrict b2 = b1 + stride;
    const float* __restrict b3 = b2 + stride;
    for (int64_t j = 0; j < n; ++j) out[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
  }
  for (; p < k; ++p) {
    for (int64_t j = 0; j < n; ++j) out[j] += a[p] * b[p * stride + j];
  }
}

void MatMulLoop(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
  // A block of b, 16 KiB, stays in the nearest cache while all rows of a go over it.
  constexpr int64_t kDepth = 16, kWidth = 256;
  for (int64_t p = 0; p < k; p += kDepth) {
    for (int64_t j = 0; j < n; j += kWidth) {
      const int64_t depth = std::min(kDepth, k - p), width = std::min(kWidth, n - j);
      for (int64_t i = 0; i < m; ++i) MatMulRow(a + i * k + p, b + p * n + j, out + i * n + j, depth, width, n);
    }
  }
}
}  // namespace tensorflow
