// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/core/platform/port.h"
#include <cstdio>
#include <cstdlib>
#include <string>
#include "tensorflow/core/platform/logging.h"

namespace tensorflow::port {
namespace {
struct Feature {
  const char* name;
  bool compiled;      // the compiler was allowed to use it
  bool (*present)();  // this CPU has it
};

// A macro that the level's flags define is the text "1" here; one that they do not define is its own name.
#define TF_TEXT_OF(macro) #macro
#define TF_IS_SET(macro) (TF_TEXT_OF(macro)[0] == '1')
// __builtin_cpu_supports wants a literal, so a function would not do.
#define TF_FEATURE(name, macro, builtin) \
  { name, TF_IS_SET(macro), [] { return __builtin_cpu_supports(builtin) != 0; } }

constexpr Feature kFeatures[] = {
    TF_FEATURE("SSE3", __SSE3__, "sse3"),
    TF_FEATURE("SSE4.1", __SSE4_1__, "sse4.1"),
    TF_FEATURE("SSE4.2", __SSE4_2__, "sse4.2"),
    TF_FEATURE("AVX", __AVX__, "avx"),
    TF_FEATURE("AVX2", __AVX2__, "avx2"),
    TF_FEATURE("AVX512F", __AVX512F__, "avx512f"),
    TF_FEATURE("AVX512_VNNI", __AVX512VNNI__, "avx512vnni"),
    TF_FEATURE("FMA", __FMA__, "fma"),
};

// Before any other initialiser of this binary (101 is the first priority that is free to use): a later one may already
// hold an instruction that this CPU lacks, and would die with SIGILL instead of a sentence.
__attribute__((constructor(101))) void CheckCompiledFeatures() {
  __builtin_cpu_init();
  for (const Feature& feature : kFeatures) {
    if (!feature.compiled || feature.present()) continue;
    std::fprintf(stderr, "F The TensorFlow library was compiled to use %s instructions, but these aren't available on "
                 "your machine.\n", feature.name);
    std::abort();
  }
}
}  // namespace

void InfoAboutUnusedCPUFeatures() {
  std::string unused;
  for (const Feature& feature : kFeatures) {
    if (!feature.compiled && feature.present()) unused += std::string(" ") + feature.name;
  }
  if (unused.empty()) return;
  TF_LOG('I', "This TensorFlow binary is optimized to use available CPU instructions in performance-critical ",
         "operations.\nTo enable the following instructions:", unused,
         ", in other operations, rebuild TensorFlow with the appropriate compiler flags.");
}

bool IsMklEnabled() {
#ifdef ENABLE_MKL
  const char* setting = std::getenv("TF_ENABLE_ONEDNN_OPTS");
  return setting == nullptr || std::string(setting) != "0";
#else
  return false;
#endif
}

void InfoAboutMkl() {
  if (!IsMklEnabled()) return;
  TF_LOG('I', "oneDNN custom operations are on. You may see slightly different numerical results due to ",
         "floating-point round-off errors from different computation orders. To turn them off, set the environment ",
         "variable `TF_ENABLE_ONEDNN_OPTS=0`.");
}
}  // namespace tensorflow::port
