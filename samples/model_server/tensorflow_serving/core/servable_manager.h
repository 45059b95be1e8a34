// SPDX-License-Identifier: Apache-2.0
// Loads the models, watches their folders, swaps versions, and hands out what is loaded.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow_serving/apis/get_model_status.pb.h"
#include "tensorflow_serving/config/model_server_config.pb.h"

namespace tensorflow::serving {
struct Servable {
  std::string name;
  int64_t version;
  SavedModelBundle bundle;
  int64_t max_batch_size;  // that a request may have; 0: any
};

class ServableManager {
 public:
  struct Options {
    ModelConfigList models;
    std::string saved_model_tag;
    int64_t max_batch_size;
    int64_t max_num_load_retries;
    std::chrono::microseconds load_retry_interval;
    std::chrono::seconds poll_wait;  // 0 or less: look once, at the start
  };

  explicit ServableManager(const Options& options) : options_(options) {}

  // Returns when every model has a version and that was tried (or looking was to be done once), and goes on in a thread
  // that ends with the process. A model that cannot be loaded is no error here: its status tells.
  void Start();

  // A request keeps what it is given for as long as it needs it, whatever is swapped meanwhile.
  std::shared_ptr<const Servable> GetServable(const ModelSpec& spec) const;
  GetModelStatusResponse GetModelStatus(const ModelSpec& spec) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Version {
    ModelVersionStatus status;
    std::shared_ptr<const Servable> servable;  // while the state is AVAILABLE
    int64_t failures = 0;
    Clock::time_point next_attempt;
  };

  std::vector<Version> Matching(const ModelSpec& spec) const;
  ModelSpec WithoutLabel(const ModelSpec& spec) const;
  void Poll(const ModelConfig& model);
  bool IsDue(const std::string& model, int64_t number, bool is_new);
  void Load(const std::string& model, int64_t number, const std::string& folder);
  void UnloadOthers(const std::string& model, const std::map<int64_t, std::string>& aspired);

  const Options options_;
  std::map<std::string, std::string> complaints_;  // by model, the last one; both used by the polling thread only
  std::map<std::string, std::map<int64_t, std::string>> aspired_;  // by model: the folder of each version to serve
  mutable std::mutex mutex_;
  // By model, then by version, the newest first, as upstream lists them. Guarded by mutex_.
  std::map<std::string, std::map<int64_t, Version, std::greater<int64_t>>> models_;
};
}  // namespace tensorflow::serving
