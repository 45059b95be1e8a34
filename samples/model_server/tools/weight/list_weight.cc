// SPDX-License-Identifier: Apache-2.0
// Writes a C++ file that says that the weight is there; a host tool, as generators of code are.
#include <cstdio>

int main() {
  std::puts("namespace tensorflow { namespace weight { int present = 1; } }");
  return 0;
}
