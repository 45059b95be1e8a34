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

// Loads the graph tagged with exactly this tag; throws when it cannot be served. Every tensor that a signature names is
// in the graph.
SavedModelBundle LoadSavedModel(const std::string& folder, const std::string& tag);
}  // namespace tensorflow
