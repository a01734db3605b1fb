// Load over gRPC: the generic stub with byte buffers, one completion queue per thread.
//
// Closed loop: each thread keeps its share of the calls in flight. Open loop: one thread starts calls at their seeded
// times, however many are unanswered (completion queues round their own timers to milliseconds, hence the thread); the
// others take the answers.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "load.h"

namespace {

using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

struct Pending {
  Call call;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
  grpc::ByteBuffer reply;
  grpc::Status status;
};

Channels Connect(const std::string& target, int count) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else all channels share one connection
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  arguments.SetMaxReceiveMessageSize(-1);
  Channels channels;
  for (int i = 0; i < count; ++i) {
    channels.push_back(grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
    channels.back()->GetState(true);
  }
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
  for (const auto& channel : channels) {
    if (!channel->WaitForConnected(deadline)) Fail("cannot connect to " + target);
  }
  return channels;
}

// One completion queue, its thread's recorder, and the means to start calls on it.
class Lane {
 public:
  Lane(const Options& options, const Window& window, const Channels& channels, const std::vector<grpc::ByteBuffer>& bodies)
      : recorder(options, window), options_(options), bodies_(bodies) {
    for (const auto& channel : channels) stubs_.emplace_back(channel);
  }

  void Start(Clock::time_point intended, long number) {
    auto* pending = new Pending;
    pending->call.intended = intended;
    pending->call.request = static_cast<size_t>(number) % bodies_.size();
    if (options_.deadline_ms > 0) {
      pending->context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(options_.deadline_ms));
    }
    grpc::GenericStub& stub = stubs_[static_cast<size_t>(number) % stubs_.size()];
    pending->reader = stub.PrepareUnaryCall(&pending->context, options_.method, bodies_[pending->call.request], &queue_);
    pending->call.sent = Clock::now();
    if (options_.rate <= 0) pending->call.intended = pending->call.sent;
    pending->reader->StartCall();
    pending->reader->Finish(&pending->reply, &pending->status, pending);
  }

  // Takes answers until `stop` is set. `again` is called after each: the closed loop sends its next call there.
  template <typename Again>
  void Serve(const std::atomic<bool>& stop, Again again) {
    while (!stop.load(std::memory_order_relaxed)) {
      void* tag = nullptr;
      bool ok = false;
      const auto until = std::chrono::system_clock::now() + std::chrono::milliseconds(20);
      if (queue_.AsyncNext(&tag, &ok, until) != grpc::CompletionQueue::GOT_EVENT) continue;
      std::unique_ptr<Pending> pending(static_cast<Pending*>(tag));
      const Clock::time_point done = Clock::now();
      recorder.Note(pending->call, done, pending->status.error_code(), pending->reply.Length(), Compare(*pending));
      again();
    }
  }

  Recorder recorder;

 private:
  bool Compare(const Pending& pending) {
    if (!pending.status.ok() || !recorder.WantsCheck()) return true;
    const size_t want = options_.expected[pending.call.request].size();
    if (pending.reply.Length() < want) return false;
    slices_.clear();
    if (!pending.reply.Dump(&slices_).ok()) return false;
    if (slices_.size() == 1) {
      const char* end = reinterpret_cast<const char*>(slices_[0].end());
      return Matches(options_, pending.call.request, end - want);
    }
    reply_.clear();
    for (const grpc::Slice& slice : slices_) reply_.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return Matches(options_, pending.call.request, reply_.data() + reply_.size() - want);
  }

  const Options& options_;
  const std::vector<grpc::ByteBuffer>& bodies_;
  std::vector<grpc::GenericStub> stubs_;
  grpc::CompletionQueue queue_;
  std::vector<grpc::Slice> slices_;
  std::string reply_;
};

// Shared by the threads of one run.
struct Run {
  const Options& options;
  const Window& window;
  std::vector<std::unique_ptr<Lane>>& lanes;
  std::atomic<long> sent{0};
  std::atomic<long> answered{0};
  std::atomic<bool> sending{true};
  std::atomic<bool> stop{false};

  // Reserves the number of the next call, or -1 when the run has sent its last.
  long Next(Clock::time_point now) {
    if (options.count == 0) return now < window.end ? sent.fetch_add(1) : -1;
    const long number = sent.fetch_add(1);
    if (number < options.count) return number;
    sent.fetch_sub(1);
    return -1;
  }
};

void ClosedLoop(Run& run, Lane& lane, int share) {
  auto send = [&] {
    const Clock::time_point now = Clock::now();
    const long number = run.Next(now);
    if (number >= 0) {
      lane.Start(now, number);
    } else {
      run.sending = false;
    }
  };
  for (int i = 0; i < share; ++i) send();
  lane.Serve(run.stop, [&] {
    send();  // before the answer is counted, or a watcher could see all calls answered while one is about to start
    run.answered.fetch_add(1);
  });
}

void OpenLoop(Run& run) {
  std::mt19937_64 random(run.options.seed);
  std::exponential_distribution<double> gap(run.options.rate);
  Clock::time_point at = Clock::now();
  while (true) {
    at += Seconds(gap(random));
    const long number = run.Next(at);
    if (number < 0) break;
    std::this_thread::sleep_until(at);
    run.lanes[static_cast<size_t>(number) % run.lanes.size()]->Start(at, number);
  }
  run.sending = false;
}

// Waits until everything sent was answered, at most `drain_s` after the last send.
void Drain(Run& run) {
  const auto pause = std::chrono::milliseconds(5);
  while (run.sending) std::this_thread::sleep_for(pause);
  const Clock::time_point limit = Clock::now() + Seconds(run.options.drain_s);
  while (run.answered < run.sent && Clock::now() < limit) std::this_thread::sleep_for(pause);
  run.stop = true;
}

}  // namespace

Outcome RunGrpc(const Options& options, Window& window) {
  const Channels channels = Connect(options.target, options.connections);
  const Channels idle = Connect(options.target, options.idle_connections);
  std::vector<grpc::ByteBuffer> bodies;
  for (const std::string& body : options.requests) {
    const grpc::Slice slice(body.data(), body.size(), grpc::Slice::STATIC_SLICE);
    bodies.emplace_back(&slice, 1);
  }
  const Clock::time_point begin = OpenWindow(options, window);
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < options.threads; ++i) lanes.push_back(std::make_unique<Lane>(options, window, channels, bodies));

  Run run{options, window, lanes};
  std::vector<std::thread> threads;
  for (int i = 0; i < options.threads; ++i) {
    Lane& lane = *lanes[static_cast<size_t>(i)];
    if (options.rate > 0) {
      threads.emplace_back([&run, &lane] { lane.Serve(run.stop, [&run] { run.answered.fetch_add(1); }); });
    } else {
      const int share = options.concurrency / options.threads + (i < options.concurrency % options.threads ? 1 : 0);
      threads.emplace_back([&run, &lane, share] { ClosedLoop(run, lane, share); });
    }
  }
  if (options.rate > 0) OpenLoop(run);
  Drain(run);
  for (std::thread& thread : threads) thread.join();

  Recorder total(options, window);
  for (const auto& lane : lanes) total.Merge(lane->recorder);
  Outcome outcome{std::move(total), run.sent, begin};
  for (auto& lane : lanes) lane.release();  // queues with calls in flight may not be destroyed; the process ends now
  return outcome;
}
