// SPDX-License-Identifier: Apache-2.0
// Between the REST API's JSON and the messages of the gRPC API. All throw Error.
#pragma once
#include <functional>
#include <string>
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow_serving/apis/predict.pb.h"

namespace tensorflow::serving {
using TensorInfoMap = google::protobuf::Map<std::string, TensorInfo>;
using InputLookup = std::function<TensorInfoMap(const std::string& signature_name)>;  // gives a signature's inputs

// Returns true when the request is in row form ("instances"), false when it is columnar ("inputs").
bool FillPredictRequestFromJson(const std::string& body, const InputLookup& lookup, PredictRequest* request);
std::string MakeJsonFromTensors(const google::protobuf::Map<std::string, TensorProto>& tensors, bool rows);
std::string MakeJsonFromError(const std::string& message);
}  // namespace tensorflow::serving
