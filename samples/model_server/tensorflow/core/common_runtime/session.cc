// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/core/common_runtime/session.h"
#include <algorithm>
#include <cstring>
#include "tensorflow/core/platform/error.h"

namespace tensorflow {
namespace {
constexpr int kBeingAdded = -1;
// Nodes are added by recursion along their inputs: a longer chain would need a deeper stack than a thread has.
constexpr size_t kMaxNodes = 10000;

// "name:0" and "name" are the same tensor; no known op has a second output.
std::string NodeOf(const std::string& tensor) {
  const size_t colon = tensor.find(':');
  if (colon == std::string::npos || tensor.substr(colon) == ":0") return tensor.substr(0, colon);
  throw Error(error::INVALID_ARGUMENT, "Tensor ", tensor, ": only output 0 of a node is supported");
}

bool IsList(const AttrValue& value, const std::vector<int64_t>& expected) {
  return std::equal(value.list().i().begin(), value.list().i().end(), expected.begin(), expected.end());
}

// Whether an attribute leaves an op as this server computes it.
bool IsKnown(const NodeDef& node, const std::string& name, const AttrValue& value) {
  if (name == "T" || name == "dtype") {
    // Constants may be whole numbers: axes, which are kept as floats.
    return value.type() == DT_FLOAT || (node.op() == "Const" && value.type() == DT_INT32);
  }
  if (name == "transpose_a" || name == "transpose_b" || name == "keep_dims") return !value.b();
  if (name == "data_format") return value.s() == "NHWC";
  if (name == "padding") return value.s() == "SAME";
  if (name == "strides") return IsList(value, {1, 2, 2, 1});
  return name != "dilations" || IsList(value, {1, 1, 1, 1});
}

// Throws for anything that would change what the op computes, and that this server does not know.
void CheckAttributes(const NodeDef& node) {
  for (const auto& attr : node.attr()) {
    const AttrValue& value = attr.second;
    if (IsKnown(node, attr.first, value)) continue;
    throw Error(error::UNIMPLEMENTED, "Op type '", node.op(), "' of node '", node.name(), "' with ", attr.first,
                " = { ", value.ShortDebugString(), " }: this server evaluates plain ops on DT_FLOAT only");
  }
  if (node.op() != "Conv2D") return;
  for (const char* name : {"strides", "padding"}) {  // upstream has no default for these
    if (node.attr().count(name) != 0) continue;
    throw Error(error::INVALID_ARGUMENT, "NodeDef missing attr '", name, "' from Op<name=", node.op(), ">; NodeDef: ",
                node.name());
  }
}

Tensor ConstantFromProto(const TensorProto& proto) {
  if (proto.dtype() != DT_INT32) return Tensor::FromProto(proto);
  TensorProto floats;
  floats.set_dtype(DT_FLOAT);
  *floats.mutable_tensor_shape() = proto.tensor_shape();
  const std::string& content = proto.tensor_content();
  for (size_t at = 0; at + sizeof(int32_t) <= content.size(); at += sizeof(int32_t)) {
    int32_t value;
    std::memcpy(&value, content.data() + at, sizeof(value));
    floats.add_float_val(static_cast<float>(value));
  }
  return Tensor::FromProto(floats);
}
}  // namespace

Session::Session(const GraphDef& graph) {
  Definitions definitions;
  for (const NodeDef& node : graph.node()) definitions[node.name()] = &node;
  if (definitions.size() > kMaxNodes) throw Error(error::UNIMPLEMENTED, "The graph has over ", kMaxNodes, " nodes");
  for (const NodeDef& node : graph.node()) AddNode(node.name(), definitions);
}

// Adds the node and all that it needs, if they are not there yet. Returns its position.
int Session::AddNode(const std::string& name, const Definitions& definitions) {
  const auto added = positions_.find(name);
  if (added != positions_.end()) {
    if (added->second != kBeingAdded) return added->second;
    throw Error(error::INVALID_ARGUMENT, "Node '", name, "' is part of a cycle");
  }
  const auto found = definitions.find(name);
  if (found == definitions.end()) throw Error(error::INVALID_ARGUMENT, "The graph has no node '", name, "'");
  const NodeDef& definition = *found->second;
  Node node{name, FindOp(definition.op()), {}, Tensor()};
  if (node.op == nullptr) {
    throw Error(error::NOT_FOUND, "Op type not registered '", definition.op(), "' in this binary (node '", name, "')");
  }
  CheckAttributes(definition);
  positions_[name] = kBeingAdded;
  for (const std::string& input : definition.input()) {
    // "^node" is order without data: nothing here has side effects.
    if (input[0] != '^') node.inputs.push_back(AddNode(NodeOf(input), definitions));
  }
  if (node.inputs.size() != node.op->inputs) {
    throw Error(error::INVALID_ARGUMENT, "Op type '", definition.op(), "' of node '", name, "' has ",
                node.inputs.size(), " inputs instead of ", node.op->inputs);
  }
  if (definition.op() == "Const") {
    const auto value = definition.attr().find("value");
    if (value == definition.attr().end()) throw Error(error::INVALID_ARGUMENT, "Const '", name, "' has no value");
    node.value = ConstantFromProto(value->second.tensor());
  }
  nodes_.push_back(std::move(node));
  return positions_[name] = static_cast<int>(nodes_.size()) - 1;
}

int Session::PositionOf(const std::string& tensor) const {
  const auto found = positions_.find(NodeOf(tensor));
  if (found != positions_.end()) return found->second;
  throw Error(error::INVALID_ARGUMENT, "Tensor ", tensor, ", specified in a signature, is not in the graph");
}

Tensor Session::Evaluate(const Node& node, const std::vector<Tensor>& values) const {
  if (node.op->name == "Const") return node.value;
  if (node.op->kernel == nullptr) {
    throw Error(error::INVALID_ARGUMENT, "You must feed a value for placeholder tensor '", node.name, "'");
  }
  Inputs inputs;
  for (const int input : node.inputs) inputs.push_back(values[input]);
  return node.op->kernel(inputs);
}

std::vector<Tensor> Session::Run(const std::map<std::string, Tensor>& feeds,
                                 const std::vector<std::string>& fetches) const {
  std::vector<Tensor> values(nodes_.size());
  std::vector<bool> fed(nodes_.size()), needed(nodes_.size());
  for (const auto& feed : feeds) {
    const int position = PositionOf(feed.first);
    values[position] = feed.second;
    fed[position] = true;
  }
  for (const std::string& fetch : fetches) needed[PositionOf(fetch)] = true;
  for (size_t i = nodes_.size(); i-- > 0;) {
    if (!needed[i] || fed[i]) continue;
    for (const int input : nodes_[i].inputs) needed[input] = true;
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (needed[i] && !fed[i]) values[i] = Evaluate(nodes_[i], values);
  }
  std::vector<Tensor> outputs;
  for (const std::string& fetch : fetches) outputs.push_back(values[PositionOf(fetch)]);
  return outputs;
}
}  // namespace tensorflow
