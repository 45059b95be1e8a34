// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/core/framework/tensor.h"
#include <algorithm>
#include <cstring>
#include "tensorflow/core/platform/error.h"

namespace tensorflow {
namespace {
// A shape costs a client a few bytes, its buffer costs the server all of them: 1 GiB of floats is enough.
constexpr int64_t kMaxElements = int64_t{1} << 28;

int64_t CountElements(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size >= 0 && size <= kMaxElements && (count *= size) <= kMaxElements) continue;
    throw Error(error::INVALID_ARGUMENT, "Shape ", ShapeString(shape), " is negative or above ", kMaxElements);
  }
  return count;
}
}  // namespace

std::string ShapeString(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ",") + std::to_string(size);
  return "[" + text + "]";
}

Tensor::Tensor(const Shape& shape)
    : shape_(shape), size_(CountElements(shape)), buffer_(std::make_shared<std::vector<Line>>(size_ / 16 + 1)) {}

Tensor Tensor::FromProto(const TensorProto& proto) {
  if (proto.dtype() != DT_FLOAT) {
    throw Error(error::INVALID_ARGUMENT, "Expects a tensor of DT_FLOAT but ", DataType_Name(proto.dtype()),
                " is provided");
  }
  Shape shape;
  for (const auto& dim : proto.tensor_shape().dim()) shape.push_back(dim.size());
  Tensor tensor(shape);
  float* begin = tensor.mutable_data();
  const auto& values = proto.float_val();
  const std::string& content = proto.tensor_content();
  const size_t bytes = tensor.size() * sizeof(float);
  if (values.size() > tensor.size() || (!content.empty() && content.size() != bytes)) {
    throw Error(error::INVALID_ARGUMENT, "A tensor's values do not fit into its shape ", ShapeString(shape));
  }
  if (!content.empty()) {
    std::memcpy(begin, content.data(), bytes);
  } else if (!values.empty()) {
    // Upstream's rule: missing values repeat the last one given.
    std::fill(std::copy(values.begin(), values.end(), begin), begin + tensor.size(), *values.rbegin());
  }
  return tensor;
}

void Tensor::ToProto(TensorProto* proto) const {
  proto->set_dtype(DT_FLOAT);
  proto->mutable_tensor_shape();  // a scalar has a shape too: an empty one
  for (const int64_t size : shape_) proto->mutable_tensor_shape()->add_dim()->set_size(size);
  proto->mutable_float_val()->Add(data(), data() + size());
}
}  // namespace tensorflow
