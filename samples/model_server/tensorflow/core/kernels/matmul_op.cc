// SPDX-License-Identifier: Apache-2.0
#ifdef ENABLE_MKL
#include <dnnl.h>
#endif

#include "tensorflow/core/kernels/kernels.h"
#include "tensorflow/core/platform/error.h"
#include "tensorflow/core/platform/port.h"

namespace tensorflow {
namespace {
// True when oneDNN did the work. It refuses empty matrices; the loop leaves the zeros that their product is.
bool MatMulOneDnn(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
#ifdef ENABLE_MKL
  static const bool enabled = port::IsMklEnabled();
  return enabled && dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, k, b, n, 0.0f, out, n) == dnnl_success;
#else
  return false;
#endif
}
}  // namespace

Tensor MatMulKernel(const Inputs& inputs) {
  const Tensor& a = inputs[0];
  const Tensor& b = inputs[1];
  if (a.rank() != 2 || b.rank() != 2 || a.shape()[1] != b.shape()[0]) {
    throw Error(error::INVALID_ARGUMENT, "Matrix size-incompatible: In[0]: ", ShapeString(a.shape()), ", In[1]: ",
                ShapeString(b.shape()));
  }
  const int64_t m = a.shape()[0], k = a.shape()[1], n = b.shape()[1];
  Tensor output({m, n});
  if (!MatMulOneDnn(a.data(), b.data(), output.mutable_data(), m, k, n)) {
    MatMulLoop(a.data(), b.data(), output.mutable_data(), m, k, n);
  }
  return output;
}
}  // namespace tensorflow
