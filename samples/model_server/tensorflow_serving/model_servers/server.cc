// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/model_servers/server.h"
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include "tensorflow/core/platform/error.h"
#include "tensorflow/core/platform/port.h"
#include "tensorflow_serving/apis/model_service.grpc.pb.h"
#include "tensorflow_serving/apis/prediction_service.grpc.pb.h"
#include "tensorflow_serving/config/server_files.pb.h"
#include "tensorflow_serving/model_servers/http_server.h"
#include "tensorflow_serving/servables/tensorflow/predict_impl.h"

namespace tensorflow::serving {
namespace {
constexpr char kPlatform[] = "tensorflow";

// Gives the response what the function returns, or the caller the status of what it throws.
template <typename Response, typename Function>
grpc::Status Answer(Response* response, Function function) {
  try {
    *response = function();
    return grpc::Status::OK;
  } catch (const Error& problem) {
    return grpc::Status(static_cast<grpc::StatusCode>(problem.code()), problem.what());
  }
}

struct PredictionServiceImpl final : PredictionService::Service {
  PredictionServiceImpl(const ServableManager& manager, RequestCounts* counts) : manager(manager), counts(counts) {}
  grpc::Status Predict(grpc::ServerContext*, const PredictRequest* request, PredictResponse* response) override {
    const grpc::Status status = Answer(response, [&] { return serving::Predict(manager, *request); });
    counts->Add(request->model_spec().name(), static_cast<error::Code>(status.error_code()));
    return status;
  }
  grpc::Status GetModelMetadata(grpc::ServerContext*, const GetModelMetadataRequest* request,
                                GetModelMetadataResponse* response) override {
    return Answer(response, [&] { return serving::GetModelMetadata(manager, *request); });
  }
  const ServableManager& manager;
  RequestCounts* const counts;
};

struct ModelServiceImpl final : ModelService::Service {
  explicit ModelServiceImpl(const ServableManager& manager) : manager(manager) {}
  grpc::Status GetModelStatus(grpc::ServerContext*, const GetModelStatusRequest* request,
                              GetModelStatusResponse* response) override {
    return Answer(response, [&] { return manager.GetModelStatus(request->model_spec()); });
  }
  const ServableManager& manager;
};

// Reads a file in text format. Of a mistake in it libprotobuf itself writes line and column to stderr.
template <typename Proto>
Proto ParseProtoTextFile(const std::string& name) {
  Proto proto;
  std::ifstream file(name);
  google::protobuf::io::IstreamInputStream stream(&file);
  const bool parsed = file.is_open() && google::protobuf::TextFormat::Parse(&stream, &proto);
  if (!file.is_open() || file.bad()) {  // a folder can be opened, and not be read
    throw Error(errno == ENOENT ? error::NOT_FOUND : error::FAILED_PRECONDITION, name, "; ", std::strerror(errno));
  }
  if (!parsed) throw Error(error::INVALID_ARGUMENT, "Invalid protobuf file: '", name, "'");
  return proto;
}

void CheckModel(const ModelConfig& model, bool allow_labels) {
  // A path with a scheme is as good as an absolute one: no file system here knows any, and the log will say so.
  if (model.base_path().find("://") == std::string::npos && model.base_path().find('/') != 0) {
    throw Error(error::INVALID_ARGUMENT, "Expected model ", model.name(),
                " to have an absolute path or URI; got base_path()=", model.base_path());
  }
  for (const auto& label : model.version_labels()) {
    if (allow_labels) break;  // upstream assigns the labels before it loads the models
    throw Error(error::FAILED_PRECONDITION, "Request to assign label to version ", label.second, " of model ",
                model.name(), ", which is not currently available for inference");
  }
  if (model.model_platform().empty()) {
    throw Error(error::INVALID_ARGUMENT, "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is ", model.name());
  }
  if (model.model_platform() != kPlatform) {
    throw Error(error::INVALID_ARGUMENT, "Model ", model.name(), " requests unsupported platform ",
                model.model_platform());
  }
}

ModelConfigList ChooseModels(const ServerOptions& options) {
  ModelServerConfig config;
  if (!options.model_config_file.empty()) {
    config = ParseProtoTextFile<ModelServerConfig>(options.model_config_file);
  } else if (options.model_base_path.empty()) {
    throw Error(error::INVALID_ARGUMENT,
                "Both server_options.model_base_path and server_options.model_config_file are empty!");
  } else {
    TF_LOG('I', "Building single TensorFlow model file config:  model_name: ", options.model_name,
           " model_base_path: ", options.model_base_path);
    ModelConfig* model = config.mutable_model_config_list()->add_config();
    model->set_name(options.model_name);
    model->set_base_path(options.model_base_path);
    model->set_model_platform(kPlatform);
  }
  std::set<std::string> names;
  for (const ModelConfig& model : config.model_config_list().config()) {
    if (names.insert(model.name()).second) continue;
    throw Error(error::INVALID_ARGUMENT, "Illegal to list model ", model.name(), " multiple times in config list");
  }
  for (const ModelConfig& model : config.model_config_list().config()) {
    CheckModel(model, options.allow_version_labels_for_unavailable_models);
  }
  return config.model_config_list();
}

// How many examples a request may hold; 0 without batching.
int64_t ChooseBatchSize(const ServerOptions& options) {
  const std::string& file = options.batching_parameters_file;
  if (!options.enable_batching && !file.empty()) {
    throw Error(error::INVALID_ARGUMENT, "server_options.batching_parameters_file is set without setting "
                "server_options.enable_batching to true.");
  }
  if (!options.enable_batching) return 0;
  const auto parameters = file.empty() ? BatchingParameters() : ParseProtoTextFile<BatchingParameters>(file);
  const int64_t most = parameters.has_max_batch_size() ? parameters.max_batch_size().value() : 1000;
  if (most < 1) throw Error(error::INVALID_ARGUMENT, "max_batch_size must be positive; was ", most);
  const int sizes = parameters.allowed_batch_sizes_size();
  if (sizes > 0 && parameters.allowed_batch_sizes(sizes - 1) != most) {
    throw Error(error::INVALID_ARGUMENT, "Last entry in allowed_batch_sizes must match max_batch_size; last entry was ",
                parameters.allowed_batch_sizes(sizes - 1), "; expected ", most);
  }
  return most;
}

// Where Prometheus finds the counts; empty for nowhere.
std::string ChooseCountsPath(const std::string& file) {
  if (file.empty()) return "";
  const auto prometheus = ParseProtoTextFile<MonitoringConfig>(file).prometheus_config();
  if (!prometheus.enable()) return "";
  return prometheus.path().empty() ? "/monitoring/prometheus/metrics" : prometheus.path();
}

std::shared_ptr<grpc::ServerCredentials> ChooseCredentials(const std::string& ssl_config_file) {
  if (ssl_config_file.empty()) return grpc::InsecureServerCredentials();
  const auto config = ParseProtoTextFile<SSLConfig>(ssl_config_file);
  TF_LOG('I', "Using SSL credentials");
  grpc::SslServerCredentialsOptions options(config.client_verify()
                                                ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_root_certs = config.custom_ca();
  options.pem_key_cert_pairs.push_back({config.server_key(), config.server_cert()});
  return grpc::SslServerCredentials(options);
}

std::unique_ptr<grpc::Server> StartGrpcServer(int64_t port, const std::shared_ptr<grpc::ServerCredentials>& credentials,
                                              grpc::Service* predictions, grpc::Service* models) {
  const std::string address = "0.0.0.0:" + std::to_string(port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, credentials);
  // Without this, a second server on the same port would start, and get a share of the requests.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(std::numeric_limits<int>::max());
  builder.RegisterService(predictions);
  builder.RegisterService(models);
  auto server = builder.BuildAndStart();
  if (server == nullptr) throw Error(error::UNAVAILABLE, "Failed to BuildAndStart gRPC server at ", address);
  TF_LOG('I', "Running gRPC ModelServer at ", address, " ...");
  return server;
}
}  // namespace

void RunServer(const ServerOptions& options) {
  port::InfoAboutUnusedCPUFeatures();
  port::InfoAboutMkl();
  const ModelConfigList models_to_serve = ChooseModels(options);
  const int64_t max_batch_size = ChooseBatchSize(options);
  const auto credentials = ChooseCredentials(options.ssl_config_file);
  // What the threads use is left behind on purpose: it ends with the process, and nothing else ends it.
  auto* counts = new RequestCounts;
  auto* manager = new ServableManager({models_to_serve, options.saved_model_tag, max_batch_size,
                                       options.max_num_load_retries,
                                       std::chrono::microseconds(options.load_retry_interval_micros),
                                       std::chrono::seconds(options.file_system_poll_wait_seconds)});
  manager->Start();
  PredictionServiceImpl predictions(*manager, counts);
  ModelServiceImpl models(*manager);
  std::unique_ptr<grpc::Server> grpc_server;
  if (options.grpc_port != 0) grpc_server = StartGrpcServer(options.grpc_port, credentials, &predictions, &models);
  if (options.http_port != 0) {
    StartHttpServer(*manager, counts, ChooseCountsPath(options.monitoring_config_file), options.http_port,
                    options.http_num_threads, options.http_timeout_in_ms);
    TF_LOG('I', "Exporting HTTP/REST API at:localhost:", options.http_port, " ...");
  }
  while (true) pause();
}
}  // namespace tensorflow::serving
