#include "recorder.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <numeric>

namespace {

const char* const kCodeNames[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "OTHER",
};

double Milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string Format(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

void Append(std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); }

// Nearest-rank percentiles; null where nothing was measured.
std::string Percentiles(std::vector<double> values) {
  if (values.empty()) return "null";
  std::sort(values.begin(), values.end());
  auto at = [&](double q) {
    size_t rank = static_cast<size_t>(q * static_cast<double>(values.size()) + 0.999999);
    return values[std::min(values.size(), std::max<size_t>(rank, 1)) - 1];
  };
  double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  return Format("{\"count\": %zu, \"mean\": %.4f, \"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"max\": %.4f}",
                values.size(), mean, at(0.5), at(0.9), at(0.99), values.back());
}

}  // namespace

void Recorder::Note(const Call& call, Clock::time_point done, int code, size_t reply_bytes, bool matched) {
  ++answered_;
  last_answer_ = std::max(last_answer_, done);
  if (!matched) ++mismatched_;
  const Clock::time_point counted_at = options_.rate > 0 ? call.intended : done;
  if (options_.count == 0 && (counted_at < window_.begin || counted_at >= window_.end)) return;
  const double ms = Milliseconds(done - call.intended);
  code_ms_[code >= 0 && code < 17 ? static_cast<size_t>(code) : 17].push_back(ms);
  if (options_.rate > 0) late_ms_.push_back(Milliseconds(call.sent - call.intended));
  if (code != 0) return;
  reply_min_ = std::min(reply_min_, reply_bytes);
  reply_max_ = std::max(reply_max_, reply_bytes);
  if (matched && (options_.deadline_ms == 0 || ms <= options_.deadline_ms)) ++good_;
}

void Recorder::Merge(const Recorder& other) {
  answered_ += other.answered_;
  checked_ += other.checked_;
  mismatched_ += other.mismatched_;
  good_ += other.good_;
  for (size_t i = 0; i < code_ms_.size(); ++i) Append(code_ms_[i], other.code_ms_[i]);
  Append(late_ms_, other.late_ms_);
  reply_min_ = std::min(reply_min_, other.reply_min_);
  reply_max_ = std::max(reply_max_, other.reply_max_);
  last_answer_ = std::max(last_answer_, other.last_answer_);
}

std::string Recorder::Json(long sent, double window_s, double elapsed_s, double cpu_s) const {
  const size_t ok = code_ms_[0].size();
  std::vector<double> refused_ms;
  std::string codes, code_ms;
  for (size_t i = 0; i < code_ms_.size(); ++i) {
    if (code_ms_[i].empty()) continue;
    codes += Format("%s\"%s\": %zu", codes.empty() ? "" : ", ", kCodeNames[i], code_ms_[i].size());
    if (i == 0) continue;
    code_ms += (code_ms.empty() ? "\"" : ", \"") + std::string(kCodeNames[i]) + "\": " + Percentiles(code_ms_[i]);
    Append(refused_ms, code_ms_[i]);
  }
  std::string json = Format("{\"mode\": \"%s\", \"protocol\": \"%s\", ", options_.rate > 0 ? "open" : "closed",
                            options_.http_path.empty() ? "grpc" : "http");
  json += Format("\"sent\": %ld, \"answered\": %ld, \"unfinished\": %ld, ", sent, answered_, sent - answered_);
  json += Format("\"counted\": %zu, \"ok\": %zu, \"mismatched\": %ld, ", ok + refused_ms.size(), ok, mismatched_);
  json += "\"codes\": {" + codes + "}, ";
  json += Format("\"rps\": %.3f, \"goodput\": %.3f, ", static_cast<double>(ok) / window_s,
                 static_cast<double>(good_) / window_s);
  json += Format("\"window_s\": %.4f, \"elapsed_s\": %.4f, \"cpu_s\": %.4f, ", window_s, elapsed_s, cpu_s);
  json += Format("\"reply_bytes\": {\"min\": %zu, \"max\": %zu}, ", ok > 0 ? reply_min_ : 0, reply_max_);
  json += "\"ok_ms\": " + Percentiles(code_ms_[0]) + ", \"refused_ms\": " + Percentiles(refused_ms);
  json += ", \"code_ms\": {" + code_ms + "}, \"late_ms\": " + Percentiles(late_ms_) + "}";
  return json;
}
