// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/core/kernels/kernels.h"
#include "tensorflow/core/platform/error.h"

namespace tensorflow {
Tensor IdentityKernel(const Inputs& inputs) { return inputs[0]; }

Tensor ReluKernel(const Inputs& inputs) {
  Tensor output(inputs[0].shape());
  const float* in = inputs[0].data();
  float* out = output.mutable_data();
  // Written this way round, a NaN stays one.
  for (int64_t i = 0; i < output.size(); ++i) out[i] = in[i] < 0.0f ? 0.0f : in[i];
  return output;
}

Tensor BiasAddKernel(const Inputs& inputs) {
  const Tensor& value = inputs[0];
  const Tensor& bias = inputs[1];
  if (value.rank() < 2 || bias.rank() != 1 || value.shape().back() != bias.size()) {
    throw Error(error::INVALID_ARGUMENT, "Must provide as many biases as the last dimension of the input tensor: ",
                ShapeString(bias.shape()), " vs. ", ShapeString(value.shape()));
  }
  Tensor output(value.shape());
  for (int64_t start = 0; start < value.size(); start += bias.size()) {
    const float* in = value.data() + start;
    float* out = output.mutable_data() + start;
    for (int64_t i = 0; i < bias.size(); ++i) out[i] = in[i] + bias.data()[i];
  }
  return output;
}
}  // namespace tensorflow
