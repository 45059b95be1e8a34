// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/util/json_tensor.h"
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include "tensorflow/core/platform/error.h"

namespace tensorflow::serving {
namespace {
using Json = nlohmann::json;
using TensorMap = google::protobuf::Map<std::string, TensorProto>;

constexpr int kMaxDepth = 254;  // TensorFlow's bound for tensors; what walks through a document recurses
constexpr double kMaxInteger = (1 << std::numeric_limits<float>::digits) - 1;  // greater ones may not be floats

template <typename... Parts>
Error BadRequest(const Parts&... parts) {
  return Error(error::INVALID_ARGUMENT, parts...);
}

// The value for a message: its beginning, when it is long.
std::string Quote(const Json& value) { return "JSON Value: " + value.dump().substr(0, 1024) + " "; }

Json ParseObject(const std::string& body) {
  if (body.empty()) throw BadRequest("JSON Parse error: The document is empty");
  try {
    const Json document = Json::parse(body, [](int depth, Json::parse_event_t, const Json&) {
      return depth <= kMaxDepth ? true : throw BadRequest("JSON Parse error: nested too deep: over ", kMaxDepth);
    });
    if (!document.is_object()) throw BadRequest(Quote(document), "Is not object");
    return document;
  } catch (const Json::exception& problem) {
    throw BadRequest("JSON Parse error: ", problem.what());
  }
}

float NumberFromJson(const Json& value) {
  if (!value.is_number()) throw BadRequest(Quote(value), "is not of expected type: float");
  const double number = value.get<double>();
  if (std::fabs(number) > (value.is_number_integer() ? kMaxInteger : std::numeric_limits<float>::max())) {
    throw BadRequest("Cannot convert ", Quote(value), "to float without loss of precision.");
  }
  return static_cast<float>(number);
}

void AddValues(const Json& value, int level, TensorProto* tensor) {
  const auto& shape = tensor->tensor_shape();
  if (value.is_array() != (level < shape.dim_size())) {
    throw BadRequest(Quote(value), "found at incorrect level: ", level + 1, " in the JSON DOM. Expected at level: ",
                     shape.dim_size());
  }
  if (!value.is_array()) return tensor->add_float_val(NumberFromJson(value));
  if (static_cast<int64_t>(value.size()) != shape.dim(level).size()) {
    throw BadRequest("Encountered list at unexpected size: ", value.size(), " at level: ", level, " expected size: ",
                     shape.dim(level).size());
  }
  for (const Json& element : value) AddValues(element, level + 1, tensor);
}

// The shape is that of the first element of each level; AddValues refuses what differs from it.
TensorProto TensorFromJson(const Json& value, const TensorInfo& info) {
  if (info.dtype() != DT_FLOAT) {
    throw Error(error::UNIMPLEMENTED, "Conversion of ", Quote(value), "to type: ", DataType_Name(info.dtype()));
  }
  TensorProto tensor;
  tensor.set_dtype(DT_FLOAT);
  for (const Json* level = &value; level->is_array(); level = &level->front()) {
    tensor.mutable_tensor_shape()->add_dim()->set_size(static_cast<int64_t>(level->size()));
    if (level->empty()) break;
  }
  AddValues(value, 0, &tensor);
  return tensor;
}

// Turns [{"a": 1, "b": 2}, {"a": 3, "b": 4}] into {"a": [1, 3], "b": [2, 4]}; a plain list is one column already.
Json ColumnsFromRows(const Json& rows, const TensorInfoMap& inputs) {
  if (!rows.is_array()) throw BadRequest(Quote(rows), "Excepting 'instances' to be an list/array");
  if (rows.empty()) throw BadRequest(Quote(rows), "No values in 'instances' array");
  if (!rows.front().is_object()) return rows;
  Json columns = Json::object();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].is_object()) throw BadRequest("Expecting object but got list at item ", i, " of input list");
    bool fits = rows[i].size() == inputs.size();
    for (const auto& item : rows[i].items()) fits = fits && inputs.count(item.key()) > 0;
    if (!fits) throw BadRequest("Failed to process element: ", i, " of 'instances' list: the keys are not the inputs");
    for (const auto& item : rows[i].items()) columns[item.key()].push_back(item.value());
  }
  return columns;
}

void FillFromColumns(const Json& columns, const TensorInfoMap& inputs, PredictRequest* request) {
  if (!columns.is_object() && inputs.size() > 1) {
    throw BadRequest("A plain value/list, but expecting an object as multiple input tensors required");
  }
  for (const auto& input : inputs) {
    if (columns.is_object() && !columns.contains(input.first)) {
      throw BadRequest("Missing named input: ", input.first, " in 'inputs' object.");
    }
    const Json& column = columns.is_object() ? columns.at(input.first) : columns;
    (*request->mutable_inputs())[input.first] = TensorFromJson(column, input.second);
  }
}

// The shortest of six or nine digits that reads back as the same float, with ".0" on whole numbers.
std::string FormatFloat(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  if (std::strtof(text, nullptr) != value) std::snprintf(text, sizeof(text), "%.9g", value);
  const std::string result = text;
  return result.find_first_of(".e") == std::string::npos ? result + ".0" : result;
}

// The part of the tensor below dimension `level`; *next walks through its values.
std::string ValuesToJson(const TensorProto& tensor, int level, int* next) {
  if (level == tensor.tensor_shape().dim_size()) return FormatFloat(tensor.float_val((*next)++));
  std::string text = "[";
  for (int64_t i = 0; i < tensor.tensor_shape().dim(level).size(); ++i) {
    text += (i > 0 ? ", " : "") + ValuesToJson(tensor, level + 1, next);
  }
  return text + "]";
}

// An object of all tensors, from dimension `level` on; one tensor alone stands for itself.
std::string TensorsToJson(const TensorMap& tensors, int level, std::map<std::string, int>* next) {
  std::string text;
  for (const auto& tensor : tensors) {
    const std::string values = ValuesToJson(tensor.second, level, &(*next)[tensor.first]);
    if (tensors.size() == 1) return values;
    text += (text.empty() ? "{" : ", ") + Json(tensor.first).dump() + ": " + values;
  }
  return text + "}";
}

// The first dimension, which all tensors must have in common.
int64_t BatchSize(const TensorMap& tensors) {
  std::set<int64_t> sizes;
  for (const auto& tensor : tensors) {
    sizes.insert(tensor.second.tensor_shape().dim_size() == 0 ? -1 : tensor.second.tensor_shape().dim(0).size());
  }
  if (sizes.size() == 1 && *sizes.begin() >= 0) return *sizes.begin();
  throw BadRequest("The outputs have no batch size, or not the same");
}
}  // namespace

bool FillPredictRequestFromJson(const std::string& body, const InputLookup& lookup, PredictRequest* request) {
  const Json document = ParseObject(body);
  const auto signature = document.find("signature_name");
  if (signature != document.end() && !signature->is_string()) {
    throw BadRequest(Quote(document), "not formatted correctly. 'signature_name' key must be a string value.");
  }
  if (signature != document.end()) request->mutable_model_spec()->set_signature_name(signature->get<std::string>());
  const TensorInfoMap inputs = lookup(request->model_spec().signature_name());
  const bool rows = document.contains("instances"), columns = document.contains("inputs");
  if (rows && columns) throw BadRequest(Quote(document), "expecting only one of 'inputs' or 'instances' keys to exist");
  if (!rows && !columns) throw BadRequest("Missing 'inputs' or 'instances' key");
  FillFromColumns(rows ? ColumnsFromRows(document["instances"], inputs) : document["inputs"], inputs, request);
  return rows;
}

std::string MakeJsonFromTensors(const TensorMap& tensors, bool rows) {
  std::map<std::string, int> next;
  if (!rows) return "{\n    \"outputs\": " + TensorsToJson(tensors, 0, &next) + "\n}";
  std::string text;
  const int64_t size = BatchSize(tensors);
  for (int64_t row = 0; row < size; ++row) text += (row > 0 ? ", " : "") + TensorsToJson(tensors, 1, &next);
  return "{\n    \"predictions\": [" + text + "\n    ]\n}";
}

std::string MakeJsonFromError(const std::string& message) {
  return "{ \"error\": " + Json(message).dump(-1, ' ', false, Json::error_handler_t::replace) + " }";
}
}  // namespace tensorflow::serving
