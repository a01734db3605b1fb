// What the load generator was asked to do: command line and payload files, read once, constant afterwards.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;

struct Options {
  std::string target;                    // host:port, or unix:/path (gRPC only)
  std::string method = "/inference.GRPCInferenceService/ModelInfer";
  std::string http_path;                 // set: HTTP/1.1 keep-alive POSTs to this path instead of gRPC calls
  std::vector<std::string> requests;     // bytes of each request body, used in turn
  std::vector<std::string> expected;     // bytes that the reply of each request must end with; empty: unchecked
  double tolerance = 0;                  // > 0: expected is float32, |got - want| <= tolerance * (1 + |want|)
  int check_every = 1;                   // compare one reply in this many
  int concurrency = 1;                   // closed loop: calls in flight; HTTP open loop: connections
  double rate = 0;                       // > 0: open loop, mean arrivals a second
  double duration_s = 5;                 // measured window
  double warmup_s = 0;                   // before the window; its calls are sent but not counted
  long count = 0;                        // > 0: stop after this many calls; all of them count
  int connections = 1;                   // HTTP/2 connections that share the calls
  int idle_connections = 0;              // further HTTP/2 connections, opened and held without a call
  int deadline_ms = 0;                   // > 0: sent as grpc-timeout, and the bound of goodput
  int threads = 1;                       // completion queues, one thread each
  double drain_s = 15;                   // how long to wait for answers after the last send
  uint64_t seed = 1;                     // of the arrivals
};

// Reads the command line and the files it names; prints what is wrong and exits with 2.
Options ParseOptions(int argc, char** argv);

// True where `tail`, the last bytes of a reply, is what request `index` expects. `tail` has the expected length.
bool Matches(const Options& options, size_t index, const char* tail);

inline Clock::duration Seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}
