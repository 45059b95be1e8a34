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
  int64_t size() const { return size_; }
  const float* data() const { return buffer_->front().values; }
  float* mutable_data() { return buffer_->front().values; }

 private:
  // A cache line: the loads of wide registers would else cross from one to the next.
  struct alignas(64) Line { float values[16]; };

  Shape shape_;
  int64_t size_;
  std::shared_ptr<std::vector<Line>> buffer_;
};
}  // namespace tensorflow
