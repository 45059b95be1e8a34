// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <sstream>
#include <string>

namespace tensorflow {
// All parts, one after the other.
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  return (std::ostringstream() << ... << parts).str();
}

// Writes a line to stderr in upstream's form: "2026-01-31 12:00:00.123456: I path/to/file.cc:42] text".
void Log(char severity, const char* file, int line, const std::string& text);
}  // namespace tensorflow

#define TF_LOG(severity, ...) ::tensorflow::Log(severity, __FILE__, __LINE__, ::tensorflow::StrCat(__VA_ARGS__))
