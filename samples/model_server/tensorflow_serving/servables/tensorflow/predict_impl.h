// SPDX-License-Identifier: Apache-2.0
// Predict and GetModelMetadata: what both inputs, gRPC and REST, call. All throw Error.
#pragma once
#include "tensorflow_serving/apis/get_model_metadata.pb.h"
#include "tensorflow_serving/apis/predict.pb.h"
#include "tensorflow_serving/core/servable_manager.h"

namespace tensorflow::serving {
// The signature of this name, "" being "serving_default". Upstream's inputs differ in the code for an unknown one.
const SignatureDef& FindSignature(const Servable& servable, const std::string& name, error::Code if_unknown);

PredictResponse Predict(const ServableManager& manager, const PredictRequest& request);
GetModelMetadataResponse GetModelMetadata(const ServableManager& manager, const GetModelMetadataRequest& request);
}  // namespace tensorflow::serving
