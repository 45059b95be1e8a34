// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <functional>
#include "tensorflow/core/kernels/kernels.h"
#include "tensorflow/core/platform/error.h"

namespace tensorflow {
namespace {
// The size of dimension `i`, counted from the last; a shorter shape is taken to have ones in front.
int64_t SizeFromEnd(const Shape& shape, size_t i) { return i < shape.size() ? shape[shape.size() - 1 - i] : 1; }

// numpy's rule: sizes must be equal, or one of them 1.
Shape BroadcastShape(const Shape& a, const Shape& b) {
  Shape result(std::max(a.size(), b.size()));
  for (size_t i = 0; i < result.size(); ++i) {
    const int64_t x = SizeFromEnd(a, i), y = SizeFromEnd(b, i);
    if (x != y && x != 1 && y != 1) {
      throw Error(error::INVALID_ARGUMENT, "Incompatible shapes: ", ShapeString(a), " vs. ", ShapeString(b));
    }
    result[result.size() - 1 - i] = x == 1 ? y : x;
  }
  return result;
}

// The operand's element that belongs to element `index` of the result.
float OperandAt(const Tensor& operand, const Shape& result, int64_t index) {
  int64_t offset = 0, stride = 1;
  for (size_t i = 0; i < operand.shape().size(); ++i) {
    const int64_t size = SizeFromEnd(operand.shape(), i);
    if (size != 1) offset += index % SizeFromEnd(result, i) * stride;
    index /= SizeFromEnd(result, i);
    stride *= size;
  }
  return operand.data()[offset];
}

template <typename Function>
Tensor Elementwise(const Tensor& a, const Tensor& b, Function function) {
  Tensor output(BroadcastShape(a.shape(), b.shape()));
  float* out = output.mutable_data();
  const bool same = a.shape() == b.shape();
  for (int64_t i = 0; i < output.size(); ++i) {
    out[i] = same ? function(a.data()[i], b.data()[i])
                  : function(OperandAt(a, output.shape(), i), OperandAt(b, output.shape(), i));
  }
  return output;
}
}  // namespace

Tensor AddKernel(const Inputs& inputs) { return Elementwise(inputs[0], inputs[1], std::plus<float>()); }
Tensor MulKernel(const Inputs& inputs) { return Elementwise(inputs[0], inputs[1], std::multiplies<float>()); }
}  // namespace tensorflow
