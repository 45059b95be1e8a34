// SPDX-License-Identifier: Apache-2.0
// A graph, checked once when it is loaded and then evaluated for each request. Running it changes nothing: any number
// of threads may do so at once.
#pragma once
#include <map>
#include <string>
#include <vector>
#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/kernels/kernels.h"

namespace tensorflow {
class Session {
 public:
  // Throws when an op is unknown or not of floats, an input is missing, or the graph has a cycle.
  explicit Session(const GraphDef& graph);

  // Tensor names are "node" or "node:0". Throws when the graph has no such tensor.
  void CheckTensor(const std::string& tensor) const { PositionOf(tensor); }
  std::vector<Tensor> Run(const std::map<std::string, Tensor>& feeds, const std::vector<std::string>& fetches) const;

 private:
  struct Node {
    std::string name;
    const Op* op;
    std::vector<int> inputs;  // positions in nodes_
    Tensor value;             // of a Const
  };
  using Definitions = std::map<std::string, const NodeDef*>;

  int AddNode(const std::string& name, const Definitions& definitions);
  int PositionOf(const std::string& tensor) const;
  Tensor Evaluate(const Node& node, const std::vector<Tensor>& values) const;

  std::vector<Node> nodes_;  // each after all its inputs
  std::map<std::string, int> positions_;
};
}  // namespace tensorflow
