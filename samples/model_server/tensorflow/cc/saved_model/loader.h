// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include "tensorflow/core/common_runtime/session.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"

namespace tensorflow {
struct SavedModelBundle {
  google::protobuf::Map<std::string, SignatureDef> signatures;
  std::unique_ptr<Session> session;
};

// Loads the graph tagged with exactly this tag; every tensor that a signature names is in it. Throws when it cannot be
// served, and sets *for_good when another try is no use: the file could be read, and holds what this binary cannot do.
SavedModelBundle LoadSavedModel(const std::string& folder, const std::string& tag, bool* for_good);
}  // namespace tensorflow
