// SPDX-License-Identifier: Apache-2.0
// A dense float tensor: a shape and a buffer in row-major order. Copies share the buffer.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>
#include "tensorflow/core/framework/tensor.pb.h"

namespace tensorflow {
using Shape = std::vector<int64_t>;
std::string ShapeString(const Shape& shape);  // "[2,3]"

class Tensor {
 public:
  Tensor() = default;  // may be assigned to, and nothing else
  // Zeros. Throws on negative sizes, and on more elements than a request may ask for.
  explicit Tensor(const Shape& shape);
  static Tensor FromProto(const TensorProto& proto);
  void ToProto(TensorProto* proto) const;

  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  int64_t size() const { return static_cast<int64_t>(buffer_->size()); }
  const float* data() const { return buffer_->data(); }
  float* mutable_data() { return buffer_->data(); }

 private:
  Shape shape_;
  std::shared_ptr<std::vector<float>> buffer_;
};
}  // namespace tensorflow
