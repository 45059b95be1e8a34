// SPDX-License-Identifier: Apache-2.0
// Host tool, compiled for the machine that builds, whatever the CPU level: prints the op table of ops.txt as C++.
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

int main(int argc, char** argv) {
  std::ifstream input(argc == 2 ? argv[1] : "");
  if (!input) {
    std::cerr << "usage: gen_op_registry ops.txt\n";
    return 2;
  }
  std::cout << "// SPDX-License-Identifier: Apache-2.0\n// Made by tools/gen_op_registry: do not edit.\n"
            << "#include \"tensorflow/core/kernels/kernels.h\"\n\nnamespace tensorflow {\nstatic const Op kOps[] = {\n";
  std::string line, op, inputs, kernel;
  while (std::getline(input, line)) {
    if (line.empty() || line[0] == '#') continue;
    if (!(std::istringstream(line) >> op >> inputs >> kernel)) {
      std::cerr << argv[1] << ": not 'op inputs kernel': " << line << "\n";
      return 1;
    }
    std::cout << "    {\"" << op << "\", " << inputs << ", " << (kernel == "-" ? "nullptr" : kernel) << "},\n";
  }
  std::cout << "};\n\nconst Op* FindOp(const std::string& name) {\n  for (const Op& op : kOps) {\n"
            << "    if (op.name == name) return &op;\n  }\n  return nullptr;\n}\n}  // namespace tensorflow\n";
  return 0;
}
