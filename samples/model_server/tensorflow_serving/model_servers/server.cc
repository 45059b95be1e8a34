// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/model_servers/server.h"
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>
#include <fstream>
#include <limits>
#include <memory>
#include "tensorflow/core/platform/error.h"
#include "tensorflow/core/platform/port.h"
#include "tensorflow_serving/apis/model_service.grpc.pb.h"
#include "tensorflow_serving/apis/prediction_service.grpc.pb.h"
#include "tensorflow_serving/model_servers/http_server.h"
#include "tensorflow_serving/servables/tensorflow/predict_impl.h"

namespace tensorflow::serving {
namespace {
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
  explicit PredictionServiceImpl(const ServableManager& manager) : manager(manager) {}
  grpc::Status Predict(grpc::ServerContext*, const PredictRequest* request, PredictResponse* response) override {
    return Answer(response, [&] { return serving::Predict(manager, *request); });
  }
  grpc::Status GetModelMetadata(grpc::ServerContext*, const GetModelMetadataRequest* request,
                                GetModelMetadataResponse* response) override {
    return Answer(response, [&] { return serving::GetModelMetadata(manager, *request); });
  }
  const ServableManager& manager;
};

struct ModelServiceImpl final : ModelService::Service {
  explicit ModelServiceImpl(const ServableManager& manager) : manager(manager) {}
  grpc::Status GetModelStatus(grpc::ServerContext*, const GetModelStatusRequest* request,
                              GetModelStatusResponse* response) override {
    return Answer(response, [&] { return manager.GetModelStatus(request->model_spec()); });
  }
  const ServableManager& manager;
};

ModelConfigList ChooseModels(const ServerOptions& options) {
  ModelServerConfig config;
  if (!options.model_config_file.empty()) {
    std::ifstream file(options.model_config_file);
    google::protobuf::io::IstreamInputStream stream(&file);
    if (!file || !google::protobuf::TextFormat::Parse(&stream, &config)) {
      throw Error(error::INVALID_ARGUMENT, "Invalid or unreadable protobuf file: '", options.model_config_file, "'");
    }
    return config.model_config_list();
  }
  if (options.model_base_path.empty()) {
    throw Error(error::INVALID_ARGUMENT,
                "Both server_options.model_base_path and server_options.model_config_file are empty!");
  }
  TF_LOG('I', "Building single TensorFlow model file config:  model_name: ", options.model_name,
         " model_base_path: ", options.model_base_path);
  ModelConfig* model = config.mutable_model_config_list()->add_config();
  model->set_name(options.model_name);
  model->set_base_path(options.model_base_path);
  return config.model_config_list();
}

std::unique_ptr<grpc::Server> StartGrpcServer(int64_t port, grpc::Service* predictions, grpc::Service* models) {
  const std::string address = "0.0.0.0:" + std::to_string(port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
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
  // What the threads use is left behind on purpose: it ends with the process, and nothing else ends it.
  auto* manager = new ServableManager({ChooseModels(options), options.saved_model_tag, options.max_num_load_retries,
                                       std::chrono::microseconds(options.load_retry_interval_micros),
                                       std::chrono::seconds(options.file_system_poll_wait_seconds)});
  manager->Start();
  PredictionServiceImpl predictions(*manager);
  ModelServiceImpl models(*manager);
  std::unique_ptr<grpc::Server> grpc_server;
  if (options.grpc_port != 0) grpc_server = StartGrpcServer(options.grpc_port, &predictions, &models);
  if (options.http_port != 0) {
    StartHttpServer(*manager, options.http_port, options.http_num_threads, options.http_timeout_in_ms);
    TF_LOG('I', "Exporting HTTP/REST API at:localhost:", options.http_port, " ...");
  }
  while (true) pause();
}
}  // namespace tensorflow::serving
