#include "options.h"

#include <getopt.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace {

[[noreturn]] void Refuse(const std::string& why) {
  std::fprintf(stderr, "loader: %s\n", why.c_str());
  std::exit(2);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Refuse("cannot read " + path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

double Number(const char* text, const char* name, double least) {
  char* end = nullptr;
  double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= least)) Refuse(std::string(name) + " is not a number in range: " + text);
  return value;
}

enum Flag {
  kTarget = 1000, kMethod, kHttpPath, kRequest, kExpect, kTolerance, kCheckEvery, kConcurrency, kRate, kDuration,
  kWarmup, kCount, kConnections, kIdleConnections, kDeadlineMs, kThreads, kDrain, kSeed,
};

const option kFlags[] = {
    {"target", required_argument, nullptr, kTarget},
    {"method", required_argument, nullptr, kMethod},
    {"http-path", required_argument, nullptr, kHttpPath},
    {"request", required_argument, nullptr, kRequest},
    {"expect", required_argument, nullptr, kExpect},
    {"tolerance", required_argument, nullptr, kTolerance},
    {"check-every", required_argument, nullptr, kCheckEvery},
    {"concurrency", required_argument, nullptr, kConcurrency},
    {"rate", required_argument, nullptr, kRate},
    {"duration", required_argument, nullptr, kDuration},
    {"warmup", required_argument, nullptr, kWarmup},
    {"count", required_argument, nullptr, kCount},
    {"connections", required_argument, nullptr, kConnections},
    {"idle-connections", required_argument, nullptr, kIdleConnections},
    {"deadline-ms", required_argument, nullptr, kDeadlineMs},
    {"threads", required_argument, nullptr, kThreads},
    {"drain", required_argument, nullptr, kDrain},
    {"seed", required_argument, nullptr, kSeed},
    {nullptr, 0, nullptr, 0},
};

void Apply(Options& o, int flag, const char* value) {
  switch (flag) {
    case kTarget: o.target = value; break;
    case kMethod: o.method = value; break;
    case kHttpPath: o.http_path = value; break;
    case kRequest: o.requests.push_back(ReadFile(value)); break;
    case kExpect: o.expected.push_back(ReadFile(value)); break;
    case kTolerance: o.tolerance = Number(value, "--tolerance", 0); break;
    case kCheckEvery: o.check_every = static_cast<int>(Number(value, "--check-every", 1)); break;
    case kConcurrency: o.concurrency = static_cast<int>(Number(value, "--concurrency", 1)); break;
    case kRate: o.rate = Number(value, "--rate", 0); break;
    case kDuration: o.duration_s = Number(value, "--duration", 0.001); break;
    case kWarmup: o.warmup_s = Number(value, "--warmup", 0); break;
    case kCount: o.count = static_cast<long>(Number(value, "--count", 1)); break;
    case kConnections: o.connections = static_cast<int>(Number(value, "--connections", 1)); break;
    case kIdleConnections: o.idle_connections = static_cast<int>(Number(value, "--idle-connections", 0)); break;
    case kDeadlineMs: o.deadline_ms = static_cast<int>(Number(value, "--deadline-ms", 0)); break;
    case kThreads: o.threads = static_cast<int>(Number(value, "--threads", 1)); break;
    case kDrain: o.drain_s = Number(value, "--drain", 0); break;
    case kSeed: o.seed = static_cast<uint64_t>(Number(value, "--seed", 0)); break;
    default: Refuse("unknown flag");
  }
}

void Check(const Options& o) {
  if (o.target.empty()) Refuse("--target is required");
  if (o.requests.empty()) Refuse("at least one --request FILE is required");
  if (!o.expected.empty() && o.expected.size() != o.requests.size()) {
    Refuse("--expect must be given once for each --request, or not at all");
  }
  for (const std::string& expected : o.expected) {
    if (o.tolerance > 0 && expected.size() % sizeof(float) != 0) Refuse("--tolerance needs --expect files of float32");
  }
  if (o.count > 0 && o.warmup_s > 0) Refuse("--count counts every call: it excludes --warmup");
  if (!o.http_path.empty() && o.idle_connections > 0) Refuse("--idle-connections is for gRPC");
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options o;
  int flag;
  while ((flag = getopt_long(argc, argv, "", kFlags, nullptr)) != -1) {
    if (flag == '?') std::exit(2);
    Apply(o, flag, optarg);
  }
  if (optind != argc) Refuse(std::string("unexpected argument: ") + argv[optind]);
  Check(o);
  return o;
}

namespace {

// Where `tail` first differs from `want`; want.size() when it does not.
size_t FirstDifference(const std::string& want, const char* tail, double tolerance) {
  size_t at = 0;
  if (tolerance <= 0) {
    if (std::memcmp(tail, want.data(), want.size()) == 0) return want.size();
    while (tail[at] == want[at]) ++at;
    return at;
  }
  for (; at < want.size(); at += sizeof(float)) {
    float a, b;  // memcpy: neither side is aligned
    std::memcpy(&a, tail + at, sizeof a);
    std::memcpy(&b, want.data() + at, sizeof b);
    if (!(std::fabs(a - b) <= tolerance * (1 + std::fabs(b)))) return at;  // also finds NaN
  }
  return at;
}

}  // namespace

bool Matches(const Options& options, size_t index, const char* tail) {
  const std::string& want = options.expected[index];
  const size_t at = FirstDifference(want, tail, options.tolerance);
  if (at == want.size()) return true;
  static std::atomic<bool> told{false};
  if (!told.exchange(true)) {
    auto byte = [](char c) { return static_cast<unsigned>(static_cast<unsigned char>(c)); };
    std::fprintf(stderr, "loader: reply to request %zu differs at byte %zu of the expected %zu: %02x, expected %02x\n",
                 index, at, want.size(), byte(tail[at]), byte(want[at]));
  }
  return false;
}
