// SPDX-License-Identifier: Apache-2.0
// What the ops compute. A kernel throws when its inputs' shapes do not fit together.
#pragma once
#include <string>
#include <vector>
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
using Inputs = std::vector<Tensor>;

Tensor AddKernel(const Inputs& inputs);
Tensor MulKernel(const Inputs& inputs);
Tensor MatMulKernel(const Inputs& inputs);
Tensor BiasAddKernel(const Inputs& inputs);
Tensor ReluKernel(const Inputs& inputs);
Tensor IdentityKernel(const Inputs& inputs);
Tensor Conv2DKernel(const Inputs& inputs);  // in steps of two, padded to whole ones
Tensor MeanKernel(const Inputs& inputs);    // over height and width

// MatMul's loop, in plain C++: what the compiler makes of it is what the CPU level decides. out (m x n) += a (m x k)
// times b (k x n), all row-major; out must not overlap the others.
void MatMulLoop(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n);

struct Op {
  std::string name;
  size_t inputs;
  Tensor (*kernel)(const Inputs& inputs);  // null for Placeholder and Const: nothing is computed
};

// Null when this binary does not know the op. The table is made from tools/ops.txt by a host tool during the build.
const Op* FindOp(const std::string& name);
}  // namespace tensorflow
