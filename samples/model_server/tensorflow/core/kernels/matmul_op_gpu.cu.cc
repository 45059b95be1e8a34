// SPDX-License-Identifier: Apache-2.0
// MatMul on a GPU.
#include <cuda_runtime.h>
#include <cstdint>
#include <stdexcept>
#include <string>
#include "tensorflow/core/platform/logging.h"

namespace tensorflow {
namespace {
// A thread for each value of out.
__global__ void MatMul(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = place / n;
  if (row >= m) return;
  float sum = 0;
  for (int64_t p = 0; p < k; ++p) sum += a[row * k + p] * b[p * n + place % n];
  out[place] = sum;
}

void Check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) throw std::runtime_error(StrCat(what, ": ", cudaGetErrorString(result)));
}

// Memory on the GPU, filled from the host's where that is given.
class OnGpu {
 public:
  OnGpu(int64_t count, const float* from) : bytes_(count * sizeof(float)) {
    Check(cudaMalloc(&data_, bytes_), "cudaMalloc");
    if (from != nullptr) Check(cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;
  float* data() const { return static_cast<float*>(data_); }
  void CopyTo(float* to) const { Check(cudaMemcpy(to, data_, bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy"); }

 private:
  size_t bytes_;
  void* data_ = nullptr;
};

// Logged once, in upstream's words. No GPU, and a driver that is missing or too old, are no errors.
bool FindGpu() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess || count == 0) {
    TF_LOG('E', "failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: ", cudaGetErrorName(result), ": ",
           cudaGetErrorString(result));
    TF_LOG('W', "MatMul is computed on the CPU. Skipping registering GPU devices...");
    return false;
  }
  cudaDeviceProp gpu;
  size_t available = 0, all = 0;
  char bus[16];
  Check(cudaGetDeviceProperties(&gpu, 0), "cudaGetDeviceProperties");
  Check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo");
  Check(cudaDeviceGetPCIBusId(bus, sizeof bus, 0), "cudaDeviceGetPCIBusId");
  TF_LOG('I', "Created device /job:localhost/replica:0/task:0/device:GPU:0 with ", available >> 20, " MB memory:  -> ",
         "device: 0, name: ", gpu.name, ", pci bus id: ", bus, ", compute capability: ", gpu.major, ".", gpu.minor);
  return true;
}
}  // namespace

bool MatMulGpu(const float* a, const float* b, float* out, int64_t m, int64_t k, int64_t n) {
  static const bool found = FindGpu();
  if (!found || m * k * n == 0) return false;
  constexpr int kThreads = 256;
  const OnGpu x(m * k, a), y(k * n, b), z(m * n, nullptr);
  MatMul<<<(m * n + kThreads - 1) / kThreads, kThreads>>>(x.data(), y.data(), z.data(), m, k, n);
  Check(cudaGetLastError(), "MatMul");
  z.CopyTo(out);
  return true;
}
}  // namespace tensorflow
