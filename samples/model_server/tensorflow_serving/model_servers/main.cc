// SPDX-License-Identifier: Apache-2.0
// The command line. As upstream's, the server has no handler for SIGTERM: as PID 1 it needs an init in front of it.
#include <strings.h>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include "tensorflow/core/platform/error.h"
#include "tensorflow_serving/model_servers/server.h"
#include "tensorflow_serving/model_servers/version.h"

namespace {
struct Flag {
  std::string value;
  const char* help;
};
using Flags = std::map<std::string, Flag>;

constexpr char kIgnored[] = "accepted, without effect in this stand-in";  // without a place here it would be "unknown"

// Names and defaults are upstream's, but for the REST threads: there a request holds a thread, here a connection does.
Flags DefaultFlags() {
  const int threads = std::max(32u, 4 * std::thread::hardware_concurrency());
  return {{"--port", {"8500", "port of the gRPC API; 0 switches it off"}},
          {"--rest_api_port", {"0", "port of the HTTP/REST API; 0 switches it off"}},
          {"--rest_api_num_threads", {std::to_string(threads), "threads, and so connections, of the HTTP/REST API"}},
          {"--rest_api_timeout_in_ms", {"30000", "timeout of a read or write of the HTTP/REST API"}},
          {"--model_name", {"default", "name of the model (ignored with --model_config_file)"}},
          {"--model_base_path", {"", "folder of version folders (ignored with --model_config_file)"}},
          {"--model_config_file", {"", "file with a ModelServerConfig in text format"}},
          {"--allow_version_labels_for_unavailable_models", {"false", "allow labels in the configuration"}},
          {"--enable_batching", {"false", "refuse requests that upstream's batching would refuse"}},
          {"--batching_parameters_file", {"", "file with BatchingParameters in text format"}},
          {"--monitoring_config_file", {"", "file with a MonitoringConfig in text format"}},
          {"--ssl_config_file", {"", "file with an SSLConfig in text format, for gRPC"}},
          {"--saved_model_tags", {"serve", "tag of the graph to load from a SavedModel"}},
          {"--file_system_poll_wait_seconds", {"1", "pause between looks for new versions; 0: look once"}},
          {"--max_num_load_retries", {"5", "how often a failed load is tried again"}},
          {"--load_retry_interval_micros", {"60000000", "pause between these tries"}},
          {"--version", {"false", "print the version and exit"}},
          {"--tensorflow_inter_op_parallelism", {"0", kIgnored}},
          {"--tensorflow_intra_op_parallelism", {"0", kIgnored}}};
}

// Sets the flag that the argument names; --flag alone is --flag=true. False when there is none.
bool SetFlag(const std::string& argument, Flags* flags) {
  const size_t equals = argument.find('=');
  const auto flag = flags->find(argument.substr(0, equals));
  if (flag == flags->end()) return false;
  flag->second.value = equals == std::string::npos ? "true" : argument.substr(equals + 1);
  return true;
}

bool IsSet(const Flags& flags, const std::string& name) {
  const std::string& text = flags.at(name).value;
  if (strcasecmp(text.c_str(), "true") == 0 || text == "1") return true;
  if (strcasecmp(text.c_str(), "false") == 0 || text == "0") return false;
  throw tensorflow::Error(tensorflow::error::INVALID_ARGUMENT, "Couldn't interpret value ", text, " for flag ", name);
}

int64_t Number(const Flags& flags, const std::string& name) {
  const std::string& text = flags.at(name).value;
  char* end = nullptr;
  const int64_t number = std::strtoll(text.c_str(), &end, 10);
  if (!text.empty() && *end == '\0') return number;
  throw tensorflow::Error(tensorflow::error::INVALID_ARGUMENT, "Couldn't interpret value ", text, " for flag ", name);
}
}  // namespace

int main(int argc, char** argv) try {
  Flags flags = DefaultFlags();
  bool all_known = true;
  for (int i = 1; i < argc; ++i) {
    if (SetFlag(argv[i], &flags)) continue;
    std::cout << "unknown argument: " << argv[i] << "\n";
    all_known = false;
  }
  if (flags.at("--version").value == "true") {
    std::cout << "TensorFlow ModelServer: " TF_MODELSERVER_VERSION "\nTensorFlow Library: " TF_LIBRARY_VERSION "\n";
    return 0;
  }
  if (!all_known) std::cout << "usage: " << argv[0] << "\nFlags, with their defaults:" << std::endl;
  for (const auto& flag : all_known ? Flags() : DefaultFlags()) {
    std::cout << "\t" << flag.first << "=" << flag.second.value << "\t" << flag.second.help << std::endl;
  }
  tensorflow::serving::RunServer(
      {Number(flags, "--port"), Number(flags, "--rest_api_port"), Number(flags, "--rest_api_num_threads"),
       Number(flags, "--rest_api_timeout_in_ms"), flags.at("--model_name").value, flags.at("--model_base_path").value,
       flags.at("--model_config_file").value, IsSet(flags, "--allow_version_labels_for_unavailable_models"),
       IsSet(flags, "--enable_batching"), flags.at("--batching_parameters_file").value,
       flags.at("--monitoring_config_file").value, flags.at("--ssl_config_file").value,
       flags.at("--saved_model_tags").value,
       Number(flags, "--file_system_poll_wait_seconds"), Number(flags, "--max_num_load_retries"),
       Number(flags, "--load_retry_interval_micros")});
} catch (const tensorflow::Error& problem) {
  std::cerr << "Failed to start server. Error: " << problem.ToString() << std::endl;
  std::_Exit(1);  // without destructors: the thread that loads models may be at work
}
