// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include "tensorflow_serving/core/servable_manager.h"
#include "tensorflow_serving/util/request_counts.h"

namespace tensorflow::serving {
// Serves the REST API on all addresses, IPv6 and IPv4, by threads of its own, until the process ends; on `counts_path`,
// unless that is empty, also the counts of requests, for Prometheus. Throws when the port is taken.
void StartHttpServer(const ServableManager& manager, RequestCounts* counts, const std::string& counts_path,
                     int64_t port, int64_t num_threads, int64_t timeout_in_ms);
}  // namespace tensorflow::serving
