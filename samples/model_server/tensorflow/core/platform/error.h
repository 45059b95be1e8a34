// SPDX-License-Identifier: Apache-2.0
// The one exception of this tree: a canonical code, as gRPC has them, and a message. Each input makes it its answer.
#pragma once
#include <stdexcept>
#include <string>
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/protobuf/error_codes.pb.h"

namespace tensorflow {
class Error : public std::runtime_error {
 public:
  template <typename... Parts>
  explicit Error(error::Code code, const Parts&... parts) : std::runtime_error(StrCat(parts...)), code_(code) {}
  error::Code code() const { return code_; }
  std::string ToString() const { return error::Code_Name(code_) + ": " + what(); }

 private:
  error::Code code_;
};
}  // namespace tensorflow
