// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

namespace tensorflow::serving {
struct ServerOptions {
  int64_t grpc_port;  // 0: no gRPC
  int64_t http_port;  // 0: no REST
  int64_t http_num_threads;
  int64_t http_timeout_in_ms;
  std::string model_name;
  std::string model_base_path;
  std::string model_config_file;
  bool allow_version_labels_for_unavailable_models;
  bool enable_batching;
  std::string batching_parameters_file;
  std::string monitoring_config_file;
  std::string ssl_config_file;
  std::string saved_model_tag;
  int64_t file_system_poll_wait_seconds;
  int64_t max_num_load_retries;
  int64_t load_retry_interval_micros;
};

// The models, then the gRPC input, then the REST input. Returns only by an Error: something asked for could not be had.
[[noreturn]] void RunServer(const ServerOptions& options);
}  // namespace tensorflow::serving
