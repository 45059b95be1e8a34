// SPDX-License-Identifier: Apache-2.0
// How many requests of each model ended how, and the page on which Prometheus reads that.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include "tensorflow/core/platform/error.h"

namespace tensorflow::serving {
class RequestCounts {
 public:
  void Add(const std::string& model, error::Code code) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++counts_[{model, code}];
  }

  std::string Page() const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string page = "# TYPE :tensorflow:serving:request_count counter\n";
    for (const auto& [key, count] : counts_) {
      page += StrCat(":tensorflow:serving:request_count{model_name=\"", Escaped(key.first), "\",status=\"",
                     error::Code_Name(key.second), "\"} ", count, "\n");
    }
    return page;
  }

 private:
  static std::string Escaped(const std::string& text) {
    std::string escaped;
    for (const char one : text) {
      if (one == '\\' || one == '"' || one == '\n') escaped += '\\';
      escaped += one == '\n' ? 'n' : one;
    }
    return escaped;
  }

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, error::Code>, int64_t> counts_;
};
}  // namespace tensorflow::serving
