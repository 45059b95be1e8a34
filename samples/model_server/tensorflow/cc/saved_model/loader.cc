// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/cc/saved_model/loader.h"
#include <fstream>
#include "tensorflow/core/platform/error.h"
#include "tensorflow/core/protobuf/saved_model.pb.h"

namespace tensorflow {
namespace {
SavedModel ReadSavedModel(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(error::NOT_FOUND, "Could not find SavedModel .pb at supplied export directory path: ", path);
  SavedModel model;
  if (model.ParseFromIstream(&file)) return model;
  throw Error(error::DATA_LOSS, "Can't parse ", path, " as binary proto");
}

const MetaGraphDef& FindMetaGraph(const SavedModel& model, const std::string& tag) {
  for (const MetaGraphDef& candidate : model.meta_graphs()) {
    const auto& tags = candidate.meta_info_def().tags();
    if (tags.size() == 1 && tags[0] == tag) return candidate;
  }
  throw Error(error::NOT_FOUND, "Could not find meta graph def matching supplied tags: { ", tag, " }");
}
}  // namespace

SavedModelBundle LoadSavedModel(const std::string& folder, const std::string& tag, bool* for_good) {
  const SavedModel model = ReadSavedModel(folder + "/saved_model.pb");
  const MetaGraphDef& meta_graph = FindMetaGraph(model, tag);
  *for_good = true;
  SavedModelBundle bundle{meta_graph.signature_def(), std::make_unique<Session>(meta_graph.graph_def())};
  for (const auto& signature : bundle.signatures) {
    for (const auto& input : signature.second.inputs()) bundle.session->CheckTensor(input.second.name());
    for (const auto& output : signature.second.outputs()) bundle.session->CheckTensor(output.second.name());
  }
  return bundle;
}
}  // namespace tensorflow
