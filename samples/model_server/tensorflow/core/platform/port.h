// SPDX-License-Identifier: Apache-2.0
// What this CPU can do, and what the build switched on.
#pragma once
namespace tensorflow::port {
// Logs the instruction sets that this CPU has and the compiler was not allowed to use. Silent when there are none.
void InfoAboutUnusedCPUFeatures();

// True when the binary was built with --config=mkl and TF_ENABLE_ONEDNN_OPTS=0 does not switch oneDNN off.
bool IsMklEnabled();
void InfoAboutMkl();  // logs that it is in use
}  // namespace tensorflow::port
