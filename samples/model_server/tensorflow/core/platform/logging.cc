// SPDX-License-Identifier: Apache-2.0
#include "tensorflow/core/platform/logging.h"
#include <sys/time.h>
#include <cstdio>
#include <ctime>

namespace tensorflow {
void Log(char severity, const char* file, int line, const std::string& text) {
  timeval now;
  gettimeofday(&now, nullptr);
  tm parts;
  localtime_r(&now.tv_sec, &parts);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &parts);
  // One call for the line: the stream's lock keeps threads from mixing their lines.
  std::fprintf(stderr, "%s.%06ld: %c %s:%d] %s\n", date, long{now.tv_usec}, severity, file, line, text.c_str());
}
}  // namespace tensorflow
