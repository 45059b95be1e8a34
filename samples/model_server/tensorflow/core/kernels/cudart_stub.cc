// SPDX-License-Identifier: Apache-2.0
// CUDA's runtime library, opened when it is first called, as upstream's binary opens it: nothing is linked to it, and without it the
// server starts all the same.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <cstdint>
#include <string>
#include "tensorflow/core/platform/logging.h"

namespace {
void* Open() {
  const std::string name = "libcudart.so." + std::to_string(CUDART_VERSION / 1000);
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    TF_LOG('I', "Could not find cuda drivers on your machine, GPU will not be used. (", dlerror(), ")");
  }
  return library;
}

void* Find(const char* name) {
  static void* const library = Open();
  return library != nullptr ? dlsym(library, name) : nullptr;
}
constexpr cudaError_t kMissing = cudaErrorSharedObjectSymbolNotFound;
}  // namespace

#define FORWARD(result, name, parameters, arguments, otherwise)                  \
  extern "C" result name parameters {                                           \
    static const auto function = reinterpret_cast<result(*) parameters>(Find(#name)); \
    return function != nullptr ? function arguments : otherwise;                \
  }
#define RUNTIME(name, parameters, arguments) FORWARD(cudaError_t, name, parameters, arguments, kMissing)

RUNTIME(cudaGetDeviceCount, (int* count), (count))
#undef cudaGetDeviceProperties
RUNTIME(cudaGetDeviceProperties_v2, (cudaDeviceProp* properties, int device), (properties, device))
RUNTIME(cudaDeviceGetPCIBusId, (char* bus, int size, int device), (bus, size, device))
RUNTIME(cudaMemGetInfo, (size_t* available, size_t* all), (available, all))
RUNTIME(cudaGetLastError, (), ())
RUNTIME(cudaMalloc, (void** memory, size_t size), (memory, size))
RUNTIME(cudaFree, (void* memory), (memory))
RUNTIME(cudaMemcpy, (void* to, const void* from, size_t size, cudaMemcpyKind kind), (to, from, size, kind))
RUNTIME(cudaLaunchKernel, (const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream),
        (kernel, grid, block, arguments, shared, stream))
FORWARD(const char*, cudaGetErrorName, (cudaError_t error), (error), "cudaErrorSharedObjectSymbolNotFound")
FORWARD(const char*, cudaGetErrorString, (cudaError_t error), (error), "Error loading CUDA libraries. GPU will not be used.")

// What clang calls for each file with device code, and to start a kernel.
FORWARD(void**, __cudaRegisterFatBinary, (void* code), (code), nullptr)
FORWARD(void, __cudaRegisterFatBinaryEnd, (void** handle), (handle), void())
FORWARD(void, __cudaUnregisterFatBinary, (void** handle), (handle), void())
FORWARD(void, __cudaRegisterFunction,
        (void** handle, const char* host, char* device, const char* name, int limit, uint3* thread, uint3* block, dim3* blocks,
         dim3* grid, int* warp),
        (handle, host, device, name, limit, thread, block, blocks, grid, warp), void())
FORWARD(unsigned, __cudaPushCallConfiguration, (dim3 grid, dim3 block, size_t shared, cudaStream_t stream),
        (grid, block, shared, stream), 1)
FORWARD(cudaError_t, __cudaPopCallConfiguration, (dim3* grid, dim3* block, size_t* shared, void* stream),
        (grid, block, shared, stream), kMissing)
