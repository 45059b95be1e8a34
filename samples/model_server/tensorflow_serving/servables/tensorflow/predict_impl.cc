// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/servables/tensorflow/predict_impl.h"
#include <set>
#include "tensorflow/core/platform/error.h"

namespace tensorflow::serving {
namespace {
constexpr char kDefaultSignature[] = "serving_default";
constexpr char kSignatureDefField[] = "signature_def";

template <typename Map>
std::set<std::string> Keys(const Map& map) {
  std::set<std::string> keys;
  for (const auto& entry : map) keys.insert(entry.first);
  return keys;
}

std::string Join(const std::set<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

std::map<std::string, Tensor> Feeds(const SignatureDef& signature, const PredictRequest& request) {
  const auto given = Keys(request.inputs()), required = Keys(signature.inputs());
  if (given != required) {
    throw Error(error::INVALID_ARGUMENT, "input size does not match signature: ", given.size(), "!=", required.size(),
                " len({", Join(given), "}) != len({", Join(required), "})");
  }
  std::map<std::string, Tensor> feeds;
  for (const auto& input : signature.inputs()) {
    feeds[input.second.name()] = Tensor::FromProto(request.inputs().at(input.first));
  }
  return feeds;
}

// What upstream's batching refuses: tensors that are no batch, and more at once than the parameters allow.
void CheckBatch(const std::map<std::string, Tensor>& feeds, int64_t most) {
  for (const auto& feed : feeds) {
    if (feed.second.rank() == 0) {
      throw Error(error::INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension");
    }
    const int64_t size = feed.second.shape()[0];
    if (size != feeds.begin()->second.shape()[0]) {
      throw Error(error::INVALID_ARGUMENT, "Batching Run() input tensors must have equal 0th-dimension size");
    }
    if (size > most) {
      throw Error(error::INVALID_ARGUMENT, "Task size ", size, " is larger than maximum input batch size ", most);
    }
  }
}

// The names of the outputs to compute: those asked for, or all of them.
std::set<std::string> ChooseOutputs(const SignatureDef& signature, const PredictRequest& request) {
  const auto known = Keys(signature.outputs());
  for (const std::string& alias : request.output_filter()) {
    if (known.count(alias) > 0) continue;
    throw Error(error::INVALID_ARGUMENT, "output tensor alias not found in signature: ", alias,
                " Outputs expected to be in the set {", Join(known), "}.");
  }
  if (request.output_filter().empty()) return known;
  return std::set<std::string>(request.output_filter().begin(), request.output_filter().end());
}

void FillModelSpec(const Servable& servable, ModelSpec* spec) {
  spec->set_name(servable.name);
  spec->mutable_version()->set_value(servable.version);
}
}  // namespace

const SignatureDef& FindSignature(const Servable& servable, const std::string& name, error::Code if_unknown) {
  const std::string key = name.empty() ? kDefaultSignature : name;
  const auto found = servable.bundle.signatures.find(key);
  if (found != servable.bundle.signatures.end()) return found->second;
  const bool rest = if_unknown == error::INVALID_ARGUMENT;
  throw Error(if_unknown, rest ? "Serving signature name: \"" : "Serving signature key \"", key,
              rest ? "\" not found in signature def" : "\" not found.");
}

PredictResponse Predict(const ServableManager& manager, const PredictRequest& request) {
  const auto servable = manager.GetServable(request.model_spec());
  const std::string& name = request.model_spec().signature_name();
  const SignatureDef& signature = FindSignature(*servable, name, error::FAILED_PRECONDITION);
  const auto feeds = Feeds(signature, request);
  if (servable->max_batch_size > 0) CheckBatch(feeds, servable->max_batch_size);
  const auto aliases = ChooseOutputs(signature, request);
  std::vector<std::string> fetches;
  for (const std::string& alias : aliases) fetches.push_back(signature.outputs().at(alias).name());
  const std::vector<Tensor> outputs = servable->bundle.session->Run(feeds, fetches);
  PredictResponse response;
  FillModelSpec(*servable, response.mutable_model_spec());
  response.mutable_model_spec()->set_signature_name(name.empty() ? kDefaultSignature : name);
  size_t next = 0;
  for (const std::string& alias : aliases) outputs[next++].ToProto(&(*response.mutable_outputs())[alias]);
  return response;
}

GetModelMetadataResponse GetModelMetadata(const ServableManager& manager, const GetModelMetadataRequest& request) {
  if (request.metadata_field_size() != 1 || request.metadata_field(0) != kSignatureDefField) {
    throw Error(error::INVALID_ARGUMENT, "metadata_field must be ", kSignatureDefField, ", and nothing else");
  }
  const auto servable = manager.GetServable(request.model_spec());
  GetModelMetadataResponse response;
  FillModelSpec(*servable, response.mutable_model_spec());
  SignatureDefMap signatures;
  *signatures.mutable_signature_def() = servable->bundle.signatures;
  (*response.mutable_metadata())[kSignatureDefField].PackFrom(signatures);
  return response;
}
}  // namespace tensorflow::serving
