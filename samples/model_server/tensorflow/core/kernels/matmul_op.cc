// SPDX-License-Identifier: Apache-2.0
#ifdef ENABLE_MKL
#include <dnnl.hpp>
#endif

#include "tensorflow/core/kernels/kernels.h"
#include "tensorflow/core/platform/error.h"
#include "tensorflow/core/platform/port.h"

namespace tensorflow {
#ifdef GOOGLE_CUDA
// False, and nothing is done, where there is no GPU; throws when one fails. In matmul_op_gpu.cu.cc, without a header: Bazel would compile
// all that depends on this library anew for it.
bool MatMulGpu(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n);
#endif

namespace {
bool MatMulOnGpu(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
#ifdef GOOGLE_CUDA
  try {
    return MatMulGpu(a, b, out, m, k, n);
  } catch (const std::exception& problem) {
    throw Error(error::INTERNAL, problem.what());
  }
#else
  return false;
#endif
}

// True when oneDNN did the work. It refuses empty matrices; the loop leaves the zeros that their product is.
bool MatMulOneDnn(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
#ifdef ENABLE_MKL
  if (!port::IsMklEnabled() || m * k * n == 0) return false;
  using dnnl::memory;
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  const auto matrix = [](int64_t rows, int64_t columns) {
    return memory::desc({rows, columns}, memory::data_type::f32, memory::format_tag::ab);
  };
  const memory x(matrix(m, k), cpu, const_cast<float*>(a)), y(matrix(k, n), cpu, const_cast<float*>(b));
  const memory z(matrix(m, n), cpu, out);
  dnnl::stream stream(cpu);
  const dnnl::matmul product({{x.get_desc(), y.get_desc(), z.get_desc()}, cpu});
  product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, y}, {DNNL_ARG_DST, z}});
  stream.wait();
  return true;
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
  if (MatMulOnGpu(a.data(), b.data(), output.mutable_data(), m, k, n)) return output;
  if (!MatMulOneDnn(a.data(), b.data(), output.mutable_data(), m, k, n)) {
    MatMulLoop(a.data(), b.data(), output.mutable_data(), m, k, n);
  }
  return output;
}
}  // namespace tensorflow
