// A load generator for inference servers: gRPC unary calls of raw bytes (or HTTP/1.1 POSTs), closed or open loop.
//
// It never parses a reply: it checks the grpc-status of every call, the reply's size, and where asked the reply's last
// bytes against the expected output. It prints one JSON object, with its own CPU time, so that a reader can tell a slow
// server from a slow loader; `echo` beside it gives its ceiling.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "load.h"

void Fail(const std::string& why) {
  std::fprintf(stderr, "loader: %s\n", why.c_str());
  std::fflush(stderr);
  _exit(1);  // calls may be in flight: no destructor may wait for them
}

namespace {

double CpuSeconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

double SecondsBetween(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  RaiseFileLimit();
  prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);  // arrivals are timed: the default slack is 50 us
  Window window;
  const Outcome outcome = options.http_path.empty() ? RunGrpc(options, window) : RunHttp(options, window);
  const Clock::time_point last = outcome.total.last_answer();
  const double window_s = options.count > 0 ? SecondsBetween(outcome.begin, last) : options.duration_s;
  const double elapsed_s = SecondsBetween(outcome.begin, Clock::now());
  std::printf("%s\n", outcome.total.Json(outcome.sent, window_s, elapsed_s, CpuSeconds()).c_str());
  std::fflush(stdout);
  _exit(0);  // as above
}
