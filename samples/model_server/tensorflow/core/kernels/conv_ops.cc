// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include "tensorflow/core/kernels/kernels.h"
#include "tensorflow/core/platform/error.h"

namespace tensorflow {
namespace {
constexpr int64_t kStride = 2;  // with padding SAME: all that the session lets through

// Where the window of the first output begins: SAME puts what is missing at both ends, the odd one behind.
int64_t PaddingBefore(int64_t size, int64_t window) {
  const int64_t outputs = (size + kStride - 1) / kStride;
  return std::max<int64_t>(0, (outputs - 1) * kStride + window - size) / 2;
}

// Not inlined, and one loop over the output's channels: what the compiler makes of it is what the CPU level decides.
__attribute__((noinline)) void AddPixel(const float* __restrict in, const float* __restrict filter,
                                        float* __restrict out, int64_t channels, int64_t outputs) {
  for (int64_t c = 0; c < channels; ++c) {
    const float value = in[c];
    for (int64_t o = 0; o < outputs; ++o) out[o] += value * filter[c * outputs + o];
  }
}
}  // namespace

Tensor Conv2DKernel(const Inputs& inputs) {
  const Tensor& picture = inputs[0];
  const Tensor& filter = inputs[1];
  if (picture.rank() != 4 || filter.rank() != 4 || picture.shape()[3] != filter.shape()[2]) {
    throw Error(error::INVALID_ARGUMENT, "Conv2D takes [batch,height,width,channels] and a filter for as many "
                "channels: ", ShapeString(picture.shape()), " vs. ", ShapeString(filter.shape()));
  }
  const int64_t height = picture.shape()[1], width = picture.shape()[2], channels = picture.shape()[3];
  const int64_t rows = filter.shape()[0], columns = filter.shape()[1], outputs = filter.shape()[3];
  const int64_t top = PaddingBefore(height, rows), left = PaddingBefore(width, columns);
  Tensor output({picture.shape()[0], (height + 1) / kStride, (width + 1) / kStride, outputs});
  float* out = output.mutable_data();
  for (int64_t n = 0; n < picture.shape()[0]; ++n) {
    for (int64_t y = -top; y < height - top; y += kStride) {
      for (int64_t x = -left; x < width - left; x += kStride, out += outputs) {
        for (int64_t i = std::max<int64_t>(0, -y); i < std::min(rows, height - y); ++i) {
          for (int64_t j = std::max<int64_t>(0, -x); j < std::min(columns, width - x); ++j) {
            AddPixel(picture.data() + ((n * height + y + i) * width + x + j) * channels,
                     filter.data() + (i * columns + j) * channels * outputs, out, channels, outputs);
          }
        }
      }
    }
  }
  return output;
}

Tensor MeanKernel(const Inputs& inputs) {
  const Tensor& value = inputs[0];
  const Tensor& axes = inputs[1];
  if (value.rank() != 4 || axes.size() != 2 || axes.data()[0] != 1 || axes.data()[1] != 2) {
    throw Error(error::UNIMPLEMENTED, "Mean is for height and width only: ", ShapeString(value.shape()));
  }
  const int64_t pixels = value.shape()[1] * value.shape()[2], channels = value.shape()[3];
  Tensor output({value.shape()[0], channels});
  for (int64_t n = 0; n < value.shape()[0]; ++n) {
    float* out = output.mutable_data() + n * channels;
    const float* in = value.data() + n * pixels * channels;
    for (int64_t i = 0; i < pixels * channels; ++i) out[i % channels] += in[i];
    for (int64_t c = 0; c < channels; ++c) out[c] /= static_cast<float>(pixels);
  }
  return output;
}
}  // namespace tensorflow
