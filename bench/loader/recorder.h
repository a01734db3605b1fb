// What happened to the calls: counts by status, latencies, reply sizes. One recorder per thread, merged at the end.
//
// Rules: a call is counted when it falls into the measured window. Closed loop: when its answer does. Open loop: when
// its intended start does, so that a server which stalls cannot make its slow calls vanish. Latency runs from the
// intended start; in a closed loop that is the start.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "options.h"

struct Call {
  Clock::time_point intended;
  Clock::time_point sent;
  size_t request = 0;  // index into Options::requests
};

struct Window {
  Clock::time_point begin;
  Clock::time_point end;
};

class Recorder {
 public:
  Recorder(const Options& options, const Window& window) : options_(options), window_(window) {}

  // Notes one finished call. `code` is a gRPC status code, or for HTTP a code that stands for it (see http_load.cc).
  // `matched` is false when the reply was compared and differed.
  void Note(const Call& call, Clock::time_point done, int code, size_t reply_bytes, bool matched);

  // True for the replies whose content is to be compared.
  bool WantsCheck() { return !options_.expected.empty() && checked_++ % options_.check_every == 0; }

  void Merge(const Recorder& other);
  long answered() const { return answered_; }
  Clock::time_point last_answer() const { return last_answer_; }

  // The one JSON object that the program prints. `sent` counts all calls, `window_s` is the measured time.
  std::string Json(long sent, double window_s, double elapsed_s, double cpu_s) const;

 private:
  const Options& options_;
  const Window& window_;
  long answered_ = 0;  // all of the run, warm-up included
  long checked_ = 0;
  long mismatched_ = 0;
  long good_ = 0;  // counted, OK, not found wrong, within the deadline
  std::array<std::vector<double>, 18> code_ms_;  // latencies by status code; the last are codes that no standard names
  std::vector<double> late_ms_;                  // open loop: actual minus intended start
  size_t reply_min_ = SIZE_MAX, reply_max_ = 0;  // of OK replies
  Clock::time_point last_answer_{};
};
