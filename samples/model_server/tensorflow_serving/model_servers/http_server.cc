// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/model_servers/http_server.h"
#include <google/protobuf/util/json_util.h>
#include <httplib.h>
#include <limits>
#include <regex>
#include <thread>
#include "tensorflow/core/platform/error.h"
#include "tensorflow_serving/servables/tensorflow/predict_impl.h"
#include "tensorflow_serving/util/json_tensor.h"

namespace tensorflow::serving {
namespace {
std::string ToJson(const google::protobuf::Message& message, bool preserve_names) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = preserve_names;
  std::string text;
  if (google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return text;
  throw Error(error::INTERNAL, "Failed to convert proto to json.");
}

std::string PredictFromJson(const ServableManager& manager, const ModelSpec& spec, const std::string& body) {
  PredictRequest request;
  *request.mutable_model_spec() = spec;
  const bool rows = FillPredictRequestFromJson(body, [&](const std::string& signature_name) {
    return FindSignature(*manager.GetServable(spec), signature_name, error::INVALID_ARGUMENT).inputs();
  }, &request);
  return MakeJsonFromTensors(Predict(manager, request).outputs(), rows);
}

std::string MetadataToJson(const ServableManager& manager, const ModelSpec& spec) {
  const auto servable = manager.GetServable(spec);
  ModelSpec answered;
  answered.set_name(servable->name);
  answered.mutable_version()->set_value(servable->version);
  SignatureDefMap signatures;
  *signatures.mutable_signature_def() = servable->bundle.signatures;
  return "{\n\"model_spec\":" + ToJson(answered, true) + ",\n\"metadata\": {\"signature_def\": " +
         ToJson(signatures, true) + "}\n}\n";
}

// The JSON answer to a request, and the model's name as soon as it is known; throws when there is none to give.
std::string Answer(const ServableManager& manager, const httplib::Request& request, std::string* model) {
  static const std::regex kPath(
      "/v1/models(?:/([^/:]+)(?:/versions/([0-9]{1,18})|/labels/([^/:]+))?(:predict|/metadata)?)?", std::regex::icase);
  std::smatch parts;
  // What std::regex needs of the stack grows with the text.
  const bool matches = request.path.size() <= 1024 && std::regex_match(request.path, parts, kPath);
  const bool predict = matches && parts[4].matched && *parts[4].first == ':';
  if (!matches || request.method != (predict ? "POST" : "GET")) {
    throw Error(error::INVALID_ARGUMENT, "Malformed request: ", request.method, " ", request.path);
  }
  ModelSpec spec;
  spec.set_name(*model = parts[1]);
  if (parts[2].matched) spec.mutable_version()->set_value(std::stoll(parts[2]));
  if (parts[3].matched) spec.set_version_label(parts[3]);
  if (spec.name().empty()) throw Error(error::INVALID_ARGUMENT, "Missing model name in request.");
  if (predict) return PredictFromJson(manager, spec, request.body);
  return parts[4].matched ? MetadataToJson(manager, spec) : ToJson(manager.GetModelStatus(spec), false);
}

int HttpCode(error::Code code) {
  if (code == error::INVALID_ARGUMENT || code == error::FAILED_PRECONDITION) return 400;
  return code == error::NOT_FOUND ? 404 : code == error::UNIMPLEMENTED ? 501 : 500;
}

void SetSocketOptions(int socket) {
  const int yes = 1, no = 0;
  // The library's own default is SO_REUSEPORT: two servers on one port, each with a share of the requests.
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  // IPv4 through the same socket, whatever the host's default; refused on an IPv4 socket, where it does not matter.
  setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
}
}  // namespace

void StartHttpServer(const ServableManager& manager, RequestCounts* counts, const std::string& counts_path,
                     int64_t port, int64_t num_threads, int64_t timeout_in_ms) {
  const auto server = std::make_shared<httplib::Server>();
  server->new_task_queue = [num_threads] { return new httplib::ThreadPool(num_threads); };
  server->set_socket_options(SetSocketOptions).set_tcp_nodelay(true);
  // A connection holds a thread for as long as it lives, so an idle one is not kept long.
  server->set_keep_alive_timeout(2).set_keep_alive_max_count(std::numeric_limits<int>::max());
  const std::chrono::milliseconds timeout(timeout_in_ms);
  server->set_read_timeout(timeout).set_write_timeout(timeout);
  const auto handler = [&manager, counts](const httplib::Request& request, httplib::Response& response) {
    std::string model;
    error::Code code = error::OK;
    try {
      response.set_content(Answer(manager, request, &model), "application/json");
    } catch (const Error& problem) {
      code = problem.code();
      response.status = HttpCode(code);
      response.set_content(MakeJsonFromError(problem.what()), "application/json");
    }
    counts->Add(model, code);
  };
  // By itself the library refuses a form, which is what curl calls its data, of over 8 KiB.
  const auto reader = [handler](httplib::Request request, auto& response, const httplib::ContentReader& read) {
    const auto append = [&](const char* data, size_t size) { return request.body.append(data, size), true; };
    const bool parts = request.is_multipart_form_data();
    if (parts ? read([](const auto&) { return true; }, append) : read(append)) handler(request, response);
  };
  const char* const ours = "/[vV]1/.*";  // any other path is the library's 404
  server->Get(ours, handler).Post(ours, reader).Put(ours, handler).Delete(ours, handler);
  // The path is any text, which the library would take for a regular expression.
  server->set_pre_routing_handler([counts, counts_path](const auto& request, auto& response) {
    if (counts_path.empty() || request.path != counts_path) return httplib::Server::HandlerResponse::Unhandled;
    response.set_content(counts->Page(), "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  });
  // A machine without IPv6 has no "::".
  if (!server->bind_to_port("::", port) && !server->bind_to_port("0.0.0.0", port)) {
    throw Error(error::UNAVAILABLE, "Failed to start HTTP Server at localhost:", port,
                ": the port is taken, or may not be used");
  }
  std::thread([server] { server->listen_after_bind(); }).detach();
}
}  // namespace tensorflow::serving
