// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/core/servable_manager.h"
#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>
#include "tensorflow/core/platform/error.h"

namespace tensorflow::serving {
namespace {
// The newest of the folders whose names are numbers; 0 and "" when there is none. Throws when the path cannot be read.
std::pair<int64_t, std::string> FindNewest(const std::string& base_path) {
  std::pair<int64_t, std::string> newest;
  for (const auto& entry : std::filesystem::directory_iterator(base_path)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;  // an entry that went away meanwhile is no version
    const bool numeric = name.size() <= 18 && name.find_first_not_of("0123456789") == std::string::npos;
    if (numeric && entry.is_directory(ignored)) newest = std::max(newest, {std::stoll(name), entry.path().string()});
  }
  return newest;
}

std::string Describe(const std::string& model, int64_t version) {
  return "{name: " + model + " version: " + std::to_string(version) + "}";
}
}  // namespace

void ServableManager::Start() {
  const auto poll = [this] {
    for (const ModelConfig& model : options_.models.config()) Poll(model);
    return std::none_of(complained_.begin(), complained_.end(), [](const auto& entry) { return entry.second; });
  };
  bool all_there = poll();
  if (options_.poll_wait.count() <= 0) return;
  for (; !all_there; all_there = poll()) std::this_thread::sleep_for(options_.poll_wait);
  std::thread([=] { for (; true; poll()) std::this_thread::sleep_for(options_.poll_wait); }).detach();
}

void ServableManager::Poll(const ModelConfig& model) {
  std::pair<int64_t, std::string> newest;
  std::string complaint = "No versions of servable " + model.name() + " found under base path " + model.base_path() +
                          ". Did you forget to name your leaf directory as a number (eg. '/1/')?";
  try {
    newest = FindNewest(model.base_path());
  } catch (const std::filesystem::filesystem_error& problem) {
    complaint = StrCat("FileSystemStoragePathSource encountered a filesystem access error: ", problem.what());
  }
  const bool complained = std::exchange(complained_[model.name()], newest.second.empty());
  if (newest.second.empty()) {
    if (!complained) TF_LOG('W', complaint);  // said once, not once a second
    return;  // a folder that is empty or cannot be read for a moment is no reason to unload what it held
  }
  while (IsDue(model.name(), newest.first)) Load(model.name(), newest.first, newest.second);
  UnloadOthers(model.name(), newest.first);
}

// True when the version should be loaded now: it is new, or came back, or its next try is due.
bool ServableManager::IsDue(const std::string& model, int64_t number) {
  const bool changed = std::exchange(newest_[model], number) != number;
  std::lock_guard<std::mutex> lock(mutex_);
  Version& version = models_[model][number];
  if (changed && version.servable == nullptr) version = Version();
  const auto state = version.status.state();
  return state == ModelVersionStatus::UNKNOWN ||
         (state == ModelVersionStatus::LOADING && Clock::now() >= version.next_attempt);
}

void ServableManager::Load(const std::string& model, int64_t number, const std::string& folder) {
  std::unique_lock<std::mutex> lock(mutex_);
  Version& version = models_[model][number];  // stays where it is: nothing is ever taken out of the maps
  version.status.set_version(number);
  version.status.set_state(ModelVersionStatus::LOADING);
  lock.unlock();
  bool for_good = false;
  try {
    TF_LOG('I', "Reading SavedModel from: ", folder);
    Servable servable{model, number, LoadSavedModel(folder, options_.saved_model_tag, &for_good)};
    lock.lock();
    version.servable = std::make_shared<Servable>(std::move(servable));
    version.status.set_state(ModelVersionStatus::AVAILABLE);
    version.status.mutable_status()->Clear();  // OK
    TF_LOG('I', "Successfully loaded servable version ", Describe(model, number));
  } catch (const std::exception& problem) {
    const auto* known = dynamic_cast<const Error*>(&problem);
    TF_LOG('E', "Loading servable: ", Describe(model, number), " failed: ", problem.what());
    lock.lock();
    version.status.mutable_status()->set_error_code(known != nullptr ? known->code() : error::UNKNOWN);
    version.status.mutable_status()->set_error_message(problem.what());
    version.next_attempt = Clock::now() + options_.load_retry_interval;
    if (!for_good && version.failures++ < options_.max_num_load_retries) return;
    version.status.set_state(ModelVersionStatus::END);
  }
}

void ServableManager::UnloadOthers(const std::string& model, int64_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& versions = models_[model];
  if (versions[number].servable == nullptr) return;  // a new version that fails must not cost the old one that works
  for (auto& entry : versions) {
    if (entry.first == number || entry.second.servable == nullptr) continue;
    entry.second.status.set_state(ModelVersionStatus::END);
    entry.second.servable.reset();  // requests in flight hold it until they are done
    TF_LOG('I', "Done unloading servable version ", Describe(model, entry.first));
  }
}

// The version that the request names, or all of the model's, the newest first.
std::vector<ServableManager::Version> ServableManager::Matching(const ModelSpec& spec) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Version> versions;
  const auto model = models_.find(spec.name());
  if (model == models_.end()) return versions;
  for (const auto& entry : model->second) {
    if (!spec.has_version() || spec.version().value() == entry.first) versions.push_back(entry.second);
  }
  return versions;
}

std::shared_ptr<const Servable> ServableManager::GetServable(const ModelSpec& spec) const {
  for (const Version& version : Matching(spec)) {
    if (version.servable != nullptr) return version.servable;
  }
  throw Error(error::NOT_FOUND, "Servable not found for request: ", spec.has_version() ? "Specific(" : "Latest(",
              spec.name(), spec.has_version() ? StrCat(", ", spec.version().value()) : "", ")");
}

GetModelStatusResponse ServableManager::GetModelStatus(const ModelSpec& spec) const {
  GetModelStatusResponse response;
  for (const Version& version : Matching(spec)) *response.add_model_version_status() = version.status;
  if (response.model_version_status_size() > 0) return response;
  if (!spec.has_version()) throw Error(error::NOT_FOUND, "Could not find any versions of model ", spec.name());
  throw Error(error::NOT_FOUND, "Could not find version ", spec.version().value(), " of model ", spec.name());
}
}  // namespace tensorflow::serving
