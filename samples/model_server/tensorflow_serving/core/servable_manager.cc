// SPDX-License-Identifier: Apache-2.0
#include "tensorflow_serving/core/servable_manager.h"
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <thread>
#include <utility>
#include "tensorflow/core/platform/error.h"

namespace tensorflow::serving {
namespace {
using Folders = std::map<int64_t, std::string>;

// The folders whose names are numbers. Throws when the path cannot be read.
Folders FindVersions(const std::string& base_path) {
  Folders found;
  for (const auto& entry : std::filesystem::directory_iterator(base_path)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;  // an entry that went away meanwhile is no version
    const bool numeric = name.size() <= 18 && name.find_first_not_of("0123456789") == std::string::npos;
    if (numeric && entry.is_directory(ignored)) found[std::stoll(name)] = entry.path().string();
  }
  return found;
}

// Of the versions found, those that the policy asks for, and not those; by default the newest one alone.
Folders Select(const ModelConfig& model, const Folders& found, std::string* complaint) {
  const auto& policy = model.model_version_policy();
  if (policy.has_all()) return found;
  if (!policy.has_specific()) {
    const size_t count = std::min<size_t>(std::max(policy.latest().num_versions(), 1u), found.size());
    return Folders(std::prev(found.end(), count), found.end());
  }
  Folders chosen;
  for (const int64_t version : policy.specific().versions()) {
    const auto folder = found.find(version);
    if (folder != found.end()) chosen.insert(*folder);
    if (folder != found.end()) continue;
    *complaint += StrCat("Version ", version, " of servable ", model.name(), ", which was requested to be served as a ",
                         "'specific' version in the servable's version policy, was not found in the file system. ");
  }
  return chosen;
}

std::string Describe(const std::string& model, int64_t version) {
  return "{name: " + model + " version: " + std::to_string(version) + "}";
}
}  // namespace

void ServableManager::Start() {
  const auto poll = [this] {
    for (const ModelConfig& model : options_.models.config()) Poll(model);
    return std::none_of(aspired_.begin(), aspired_.end(), [](const auto& entry) { return entry.second.empty(); });
  };
  bool all_there = poll();
  if (options_.poll_wait.count() <= 0) return;
  for (; !all_there; all_there = poll()) std::this_thread::sleep_for(options_.poll_wait);
  std::thread([=] { for (; true; poll()) std::this_thread::sleep_for(options_.poll_wait); }).detach();
}

void ServableManager::Poll(const ModelConfig& model) {
  Folders chosen;
  std::string complaint;
  try {
    chosen = Select(model, FindVersions(model.base_path()), &complaint);
    if (chosen.empty() && complaint.empty()) {
      complaint = "No versions of servable " + model.name() + " found under base path " + model.base_path() +
                  ". Did you forget to name your leaf directory as a number (eg. '/1/')?";
    }
  } catch (const std::filesystem::filesystem_error& problem) {
    complaint = StrCat("FileSystemStoragePathSource encountered a filesystem access error: ", problem.what());
  }
  // Said once, not once a second.
  if (std::exchange(complaints_[model.name()], complaint) != complaint && !complaint.empty()) TF_LOG('W', complaint);
  const Folders before = std::exchange(aspired_[model.name()], chosen);
  if (chosen.empty()) return;  // for a moment, perhaps: no reason to unload what the folder held
  for (auto version = chosen.rbegin(); version != chosen.rend(); ++version) {
    bool is_new = before.count(version->first) == 0;
    while (IsDue(model.name(), version->first, std::exchange(is_new, false))) {
      Load(model.name(), version->first, version->second);
    }
  }
  UnloadOthers(model.name(), chosen);
}

// True when the version should be loaded now: it is new, or came back, or its next try is due.
bool ServableManager::IsDue(const std::string& model, int64_t number, bool is_new) {
  std::lock_guard<std::mutex> lock(mutex_);
  Version& version = models_[model][number];
  if (is_new && version.servable == nullptr) version = Version();
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
    Servable servable{model, number, LoadSavedModel(folder, options_.saved_model_tag, &for_good),
                      options_.max_batch_size};
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

void ServableManager::UnloadOthers(const std::string& model, const Folders& aspired) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& versions = models_[model];
  // A new version that fails must not cost the old one that works.
  const auto serves = [&](const auto& entry) { return versions[entry.first].servable != nullptr; };
  if (std::none_of(aspired.begin(), aspired.end(), serves)) return;
  for (auto& entry : versions) {
    if (aspired.count(entry.first) > 0 || entry.second.servable == nullptr) continue;
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

// The request with the version that its label stands for.
ModelSpec ServableManager::WithoutLabel(const ModelSpec& spec) const {
  if (!spec.has_version_label()) return spec;
  for (const ModelConfig& model : options_.models.config()) {
    const auto label = model.version_labels().find(spec.version_label());
    if (model.name() != spec.name() || label == model.version_labels().end()) continue;
    ModelSpec found = spec;
    found.mutable_version()->set_value(label->second);
    return found;
  }
  throw Error(error::INVALID_ARGUMENT, "Unrecognized servable version label: ", spec.version_label());
}

std::shared_ptr<const Servable> ServableManager::GetServable(const ModelSpec& asked) const {
  const ModelSpec spec = WithoutLabel(asked);
  for (const Version& version : Matching(spec)) {
    if (version.servable != nullptr) return version.servable;
  }
  throw Error(error::NOT_FOUND, "Servable not found for request: ", spec.has_version() ? "Specific(" : "Latest(",
              spec.name(), spec.has_version() ? StrCat(", ", spec.version().value()) : "", ")");
}

// A label counts for nothing here, as upstream: the answer has all versions.
GetModelStatusResponse ServableManager::GetModelStatus(const ModelSpec& spec) const {
  GetModelStatusResponse response;
  for (const Version& version : Matching(spec)) *response.add_model_version_status() = version.status;
  if (response.model_version_status_size() > 0) return response;
  if (!spec.has_version()) throw Error(error::NOT_FOUND, "Could not find any versions of model ", spec.name());
  throw Error(error::NOT_FOUND, "Could not find version ", spec.version().value(), " of model ", spec.name());
}
}  // namespace tensorflow::serving
