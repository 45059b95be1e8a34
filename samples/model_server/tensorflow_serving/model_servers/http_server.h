// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include "tensorflow_serving/core/servable_manager.h"

namespace tensorflow::serving {
// Serves the REST API on all addresses, IPv6 and IPv4, by threads of its own, until the process ends. Throws when the
// port is taken.
void StartHttpServer(const ServableManager& manager, int64_t port, int64_t num_threads, int64_t timeout_in_ms);
}  // namespace tensorflow::serving
