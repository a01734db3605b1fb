// The two ways to make load. Each sends all calls, waits for their answers and returns what happened.
#pragma once

#include <string>

#include "options.h"
#include "recorder.h"

struct Outcome {
  Recorder total;
  long sent;
  Clock::time_point begin;  // of the run, after the connections stood
};

Outcome RunGrpc(const Options& options, Window& window);
Outcome RunHttp(const Options& options, Window& window);

[[noreturn]] void Fail(const std::string& why);  // prints and exits with 1

// Sets the measured window from now on.
inline Clock::time_point OpenWindow(const Options& options, Window& window) {
  const Clock::time_point now = Clock::now();
  window.begin = now + Seconds(options.warmup_s);
  window.end = options.count > 0 ? Clock::time_point::max() : window.begin + Seconds(options.duration_s);
  return now;
}
